"""Variational memory addressing: a VAE whose latent variables are an address in memory and a z.

Bornschein, Mnih, Zoran and Rezende, Variational memory addressing in generative models, NIPS 2017.
"""

import dataclasses
import math
from collections.abc import Hashable
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from memjax import distributions, large_memory
from memjax.errors import InputError
from memjax.large_memory import BlockAddresses, Slots
from memjax.memory import Addresses, Distribution, Similarity, blend, hard_read, similarity
from memjax.networks import (
    ConvolutionalNetworks,
    DenseNetworks,
    Embeddings,
    LatentReading,
    Networks,
    Pyramids,
    Reading,
)
from memjax.nn import Axes
from memjax.products import Precision
from memjax.types import Array, Batch, Generated, SetByProgram, Terms, idle_fields


@flax.struct.dataclass
class Memory:
    """What a model makes of its memory, free of noise and of the targets.

    Of a memory that is shared out over devices, this one's part.

    Attributes:
        entries: `[M, ...]`, the learned vectors or the images themselves.
        keys: `[M, E]`, embeddings to be matched.
        reading: what the networks read of each entry; None where less is to be read once the
            addresses or mixtures are known.
    """

    entries: Array
    keys: Array
    reading: Reading | None


@flax.struct.dataclass
class Encoding:
    """A batch, free of noise.

    Attributes:
        images: `[B, D]`, the targets' share of the posterior's first layer.
        memory: None without addressing.
        posterior: q(a | x); None but with hard addressing.
        prior: p(a), likewise.
    """

    images: Array
    memory: Memory | None
    posterior: Distribution | None
    prior: Distribution | None


class VMA(nn.Module):
    """A conditional VAE p(z | m_a) p(x | z, m_a) on top of an address a into a memory.

    Attributes:
        image_shape: (H, W, C) of the images; taken from the data set if None.
        memory: `learned` entries are parameters; `episode` takes the images of `Batch.context`.
        memory_size: M, entries of a learned memory.
        memory_units: dimensions of a learned entry in dense networks; in convolutional ones, which
            the paper leaves open, a learned entry is an image of any real values.
        memory_scale: times the root of M, standard deviation of a learned memory at the start, on
            which the paper is silent. Small entries are alike, and come to stand for different
            images as they are learned. Of large ones, one that happens to fit the first images
            takes them all: in short runs on MNIST within two epochs at twice this scale. At half
            of it the address was of no use in the first 18. Learned images of convolutional
            networks want a larger one: on Omniglot 256 of them were of no use in the first epochs
            at a standard deviation of 0.25, and were at 1. No records are kept of these runs.
        addressing: `hard` draws an address a from q(a | x), with a prior p(a); `soft` blends all
            entries by an attention that z decides alone, z ~ N(0, I); `none` is a VAE without
            memory, z ~ N(0, I).
        block_size: slots of a block of a learned memory, a divisor of M. Its addresses are found in
            two levels, see `large_memory`; no array is then larger than the memory itself, and
            training on several devices shares the blocks out over them. 0 for one softmax over all
            entries. A draw reads a whole block, whose size times the number of draws should be
            small beside M.
        similarity: of embeddings, see `memory.similarity`.
        prior: `learned_query` is a softmax over the similarities to a learned query, `flat` is
            1 / M.
        blended: what soft attention mixes: `features` that the networks make of the entries, or
            the entries' `pixels` themselves (every sample then reads its own mixture anew).
        kind: of networks: `dense`, or `convolutional` with skips from the entry to the image.
        hidden: units of the dense hidden layers, in this order in the encoder and the decoder.
        skips: whether the decoder's later layers see the entry, or its first alone; see
            `networks.DenseNetworks`.
        maps: of the convolutions, from the image up.
        pyramids: see `networks.ConvolutionalNetworks`.
        latent: dimensions of z.
        matching: dimensions of the embeddings.
        embeddings: of targets and entries come from `separate` networks, as in the paper, or from
            one `shared` by both, which finds an exact copy of the target from the start. Those of
            learned entries may be parameters too, `learned`: to embed a large memory in each step
            takes longer than to match it.
        precision: of matrix products; set from `train.precision`.
        batch_axes: mapped axes of a batch; where `samples` is among them, a step that draws fewer
            addresses than there are entries reads the drawn ones alone.

    Source: sections 2 and 4; the soft and the memoryless model are its baselines of section 4.2.
    """

    image_shape: SetByProgram[tuple[int, int, int] | None] = None
    memory: Literal["learned", "episode"] = "episode"
    memory_size: int = 256
    memory_units: int = 256
    memory_scale: float = 0.00375
    block_size: int = 0
    addressing: Literal["hard", "soft", "none"] = "hard"
    similarity: Similarity = "memory_normalised"
    prior: Literal["learned_query", "flat"] = "learned_query"
    blended: Literal["features", "pixels"] = "features"
    kind: Literal["dense", "convolutional"] = "dense"
    hidden: tuple[int, ...] = (256, 128)
    skips: bool = True
    maps: tuple[int, ...] = (64, 64, 64, 64, 64, 64)
    pyramids: Pyramids = "shared"
    latent: int = 32
    matching: int = 128
    embeddings: Embeddings = "separate"
    precision: SetByProgram[Precision] = "float32"
    batch_axes: SetByProgram[Axes] = ()

    @property
    def reads_context(self) -> bool:
        """Whether its memory is `Batch.context`."""
        return self.addressing != "none" and self.memory == "episode"

    @property
    def learns_memory(self) -> bool:
        """Whether its memory are parameters."""
        return self.addressing != "none" and self.memory == "learned"

    @property
    def shared_parameters(self) -> tuple[str, ...]:
        """Those of which each device of training has its share, of the first axis."""
        return ("memory", "slot_keys") if self._blocks else ()

    @property
    def shared_blocks(self) -> int:
        """Into how many parts these can be divided."""
        return self.memory_size // self._blocks if self._blocks else 0

    @property
    def idle_fields(self) -> dict[str, str]:
        """Fields without effect, and what would give them one."""
        hard, soft = self.addressing == "hard", self.addressing == "soft"
        dense, learned = self.kind == "dense", self.learns_memory
        of_memory = ("memory", "similarity", "matching", "embeddings", "skips")
        return idle_fields(
            {
                "model.addressing hard or soft": (hard or soft, of_memory),
                "a learned memory": (learned, ("memory_size", "memory_scale")),
                "a learned memory of dense networks": (learned and dense, ("memory_units",)),
                "hard addressing of a learned memory": (hard and learned, ("block_size",)),
                "model.addressing hard": (hard, ("prior",)),
                "model.addressing soft": (soft, ("blended",)),
                "model.kind convolutional": (not dense, ("maps",)),
                "hard addressing of convolutional networks": (hard and not dense, ("pyramids",)),
            }
        )

    def setup(self) -> None:
        self._check()
        self.networks = self._make_networks()
        if self.addressing == "hard" and self.prior == "learned_query":
            # Small, so that p(a) is nearly flat at first.
            self.prior_query = self.param(
                "prior_query", nn.initializers.normal(0.01), (1, self.matching)
            )
        if self.learns_memory:
            entry = (self.memory_units,) if self.kind == "dense" else self._image_shape
            scale = self.memory_scale * math.sqrt(self.memory_size)
            self.learned = self._slots("memory", scale, entry)
            if self.embeddings == "learned":
                self.slot_keys = self._slots("slot_keys", 1.0, (self.matching,))

    def encode(self, batch: Batch, train: bool) -> Encoding:
        """The targets, the memory and q(a | x)."""
        del train
        memory = self._read_memory(batch.context, self._num_drawn(batch))
        posterior = prior = None
        if memory is not None and self.addressing == "hard":
            posterior, prior = self._match(self.networks.embed_images(batch.images), memory)
        return Encoding(self.networks.read_images(batch.images), memory, posterior, prior)

    def terms(
        self,
        batch: Batch,
        encoding: Encoding,
        keys: Array,
        train: bool,
        address: Array | None = None,
    ) -> Terms:
        """The Terms of one sample (a, z), or of one z, for each example.

        Args:
            batch: B targets.
            encoding: of the batch.
            keys: `[B]`.
            train: whether the diagnostics are to say which entries are used.
            address: `[B]`, forces a: `log_posterior` is then log q(z | x, m_a) alone, so that the
                weights estimate p(a) p(x | m_a) and can be summed over all addresses.

        Source: Bornschein et al. 2017, equations 2 and 3.
        """
        if self.addressing == "hard":
            return self._hard_terms(batch, encoding, keys, train, address)
        if address is not None:
            raise InputError(
                f"model.addressing: found {self.addressing}, expected hard: an address"
            )
        return self._soft_terms(batch, encoding, keys)

    def address_log_probs(self, batch: Batch, encoding: Encoding) -> tuple[Array, Array]:
        """log q(a | x) `[B, M]` and log p(a) `[M]`.

        Raises:
            InputError: the model has no addresses.
        """
        del batch
        posterior, prior, _ = self._hard(encoding)
        return posterior.log_probabilities, prior.log_probabilities[0]

    def shuffle_memory(self, batch: Batch, encoding: Encoding, key: Array) -> Encoding:
        """The encoding with contents out of place: whatever a was found by, a has another's.

        What a model loses by it is what its memory was worth.

        Raises:
            InputError: the model has no addresses.
        """
        del batch
        *_, memory = self._hard(encoding)
        size = len(memory.entries)
        # Each entry of a random circle has the contents of the next one.
        circle = jax.random.permutation(key, size)
        others = jnp.zeros(size, jnp.int32).at[circle].set(jnp.roll(circle, 1))
        read = hard_read((memory.entries, memory.reading), others)
        moved = dataclasses.replace(memory, entries=read[0], reading=read[1])
        return dataclasses.replace(encoding, memory=moved)

    def reconstruct(self, batch: Batch, encoding: Encoding, keys: Array) -> Array:
        """Means `[B, H, W, C]` of p(x | z, m_a) at one sample of the posterior."""
        del batch
        if self.addressing == "hard":
            posterior, _, memory = self._hard(encoding)
            reading = self._read(memory, posterior.draw(_folded(keys, 1)))
            z, _ = self._draw_latent(encoding, _of_latent(reading), keys)
            return self._image_distribution(z, reading).mean()
        z, _ = self._draw_latent(encoding, None, keys)
        return self._image_distribution(z, self._attend(encoding.memory, z)).mean()

    def generate(
        self, keys: Array, context: Array | None = None, address: Array | None = None
    ) -> Generated:
        """Images `[B, H, W, C]` of p(x | z, m_a) at samples from the prior.

        Args:
            keys: `[B]`.
            context: `[M, H, W, C]`, the memory of an episode.
            address: `[B]`, in place of draws from p(a).
        """
        memory = self._read_memory(context)
        if self.addressing != "hard":
            z = distributions.standard_noise(keys, self.latent)
            images = self._image_distribution(z, self._attend(memory, z))
            return Generated(images.mean(), distributions.draw_images(images, keys))
        assert memory is not None
        if address is None:
            _, prior = self._match(self._prior_query, memory)
            address = prior.draw(_folded(keys, 1))
        reading = self._read(memory, address)
        of_z = _of_latent(reading)
        z = _at(
            of_z.prior_mean,
            of_z.prior_log_variance,
            distributions.standard_noise(keys, self.latent),
        )
        images = self._image_distribution(z, reading)
        return Generated(images.mean(), distributions.draw_images(images, keys))

    def activations(self, batch: Batch, encoding: Encoding, keys: Array) -> dict[str, Array]:
        """`features` of the targets `[B, D]`, and q(a | x) `[B, M]` as `preferences`."""
        del batch, keys
        found = {"features": encoding.images}
        if encoding.posterior is not None:
            found["preferences"] = jnp.exp(encoding.posterior.log_probabilities)
        return found

    def _hard_terms(
        self, batch: Batch, encoding: Encoding, keys: Array, train: bool, forced: Array | None
    ) -> Terms:
        of_address, prior_of_address, memory = self._hard(encoding)
        address = of_address.draw(_folded(keys, 1)) if forced is None else forced
        reading = self._read(memory, address)
        of_z = _of_latent(reading)
        z, posterior = self._draw_latent(encoding, of_z, keys)
        prior = distributions.diagonal_normal(of_z.prior_mean, of_z.prior_log_variance)
        log_score = of_address.log_probability(address)
        if forced is not None:
            log_score = jnp.zeros_like(log_score)
        kl_latent = posterior.kl_divergence(prior)
        kl_address = of_address.kl(prior_of_address)
        entropy_prior = jnp.broadcast_to(prior_of_address.entropy(), kl_address.shape)
        return Terms(
            log_likelihood=self._image_distribution(z, reading).log_prob(batch.images),
            log_prior=prior_of_address.log_probability(address) + prior.log_prob(z),
            log_posterior=log_score + posterior.log_prob(z),
            log_score=log_score,
            kl=kl_address + kl_latent,
            penalty=jnp.zeros(z.shape[0]),
            diagnostics={
                "kl_address": kl_address,
                "kl_latent": kl_latent,
                "entropy_prior": entropy_prior,
                **self._of_every_entry(batch, of_address, train),
            },
            reparameterised=False,
        )

    def _soft_terms(self, batch: Batch, encoding: Encoding, keys: Array) -> Terms:
        z, posterior = self._draw_latent(encoding, None, keys)
        prior = distributions.standard_normal(z.shape)
        kl = posterior.kl_divergence(prior)
        diagnostics = {"kl_latent": kl}
        reading = None
        if encoding.memory is not None:
            attention = self._attention(encoding.memory, z)
            diagnostics |= self._hit_rate(batch, attention)
            reading = self._blend(encoding.memory, attention)
        return Terms(
            log_likelihood=self._image_distribution(z, reading).log_prob(batch.images),
            log_prior=prior.log_prob(z),
            log_posterior=posterior.log_prob(z),
            log_score=jnp.zeros(z.shape[0]),
            kl=kl,
            penalty=jnp.zeros(z.shape[0]),
            diagnostics=diagnostics,
        )

    def _read_memory(self, context: Array | None, num_drawn: int | None = None) -> Memory | None:
        if self.addressing == "none":
            return None
        if self.memory == "learned":
            entries = _unblocked(self.learned, self._blocks)
        elif context is None:
            raise InputError("Batch.context: found None, expected the memory's images [M, H, W, C]")
        elif context.shape[1:] != self._image_shape:
            raise InputError(
                f"Batch.context: found images {context.shape[1:]}, expected {self._image_shape} as "
                "the targets"
            )
        else:
            entries = context
        if self.learns_memory and self.embeddings == "learned":
            keys = _unblocked(self.slot_keys, self._blocks)
        else:
            keys = self.networks.embed_entries(entries)
        reading = None
        if self._reads_all(len(entries), num_drawn):
            reading = self.networks.read_entries(entries, latent=self.addressing == "hard")
        return Memory(entries, keys, reading)

    def _reads_all(self, num_entries: int, num_drawn: int | None) -> bool:
        """Whether every entry is read before some are drawn or mixed."""
        if self.addressing == "soft":
            return self.blended == "features"
        if self._blocks:
            return False
        return num_drawn is None or num_entries <= num_drawn

    def _num_drawn(self, batch: Batch) -> int | None:
        """K * B addresses of a training step; None where K is not known, and may be thousands."""
        if "samples" not in self.batch_axes:
            return None
        return lax.axis_size("samples") * len(batch.images)

    def _read(self, memory: Memory, address: Array) -> Reading:
        if memory.reading is None:
            entries = large_memory.read(memory.entries, address, self._shared_over)
            return self.networks.read_entries(entries, latent=True)
        return hard_read(memory.reading, address)

    def _match(self, query: Array, memory: Memory) -> tuple[Distribution, Distribution]:
        """q(a | x) of targets' embeddings `[B, E]`, and p(a)."""
        if self._blocks:
            blocks = memory.keys.reshape(-1, self._blocks, self.matching)
            slots = Slots(blocks, self.similarity, self.precision, self._shared_over)
            return slots.match(query, self._prior_query)
        return self._addresses(query, memory.keys), self._addresses(self._prior_query, memory.keys)

    @property
    def _blocks(self) -> int:
        """Slots of a block, 0 where one softmax is taken of all."""
        return self.block_size if self.addressing == "hard" and self.learns_memory else 0

    @property
    def _shared_over(self) -> Hashable | None:
        """The mapped axis whose devices share the memory out, if they do."""
        others = [axis for axis in self.batch_axes if axis != "samples"]
        return others[0] if self.shared_parameters and others else None

    @property
    def _prior_query(self) -> Array:
        """`[1, E]`; nothing is like any entry as much as like any other."""
        flat = self.prior == "flat"
        return jnp.zeros((1, self.matching)) if flat else self.prior_query

    def _addresses(self, query: Array, keys: Array) -> Addresses:
        return Addresses(
            jax.nn.log_softmax(similarity(query, keys, self.similarity, self.precision))
        )

    def _draw_latent(
        self, encoding: Encoding, reading: LatentReading | None, keys: Array
    ) -> tuple[Array, Any]:
        """One z of each example, and q(z | x, m)."""
        mean, log_variance = self.networks.posterior(encoding.images, reading)
        z = _at(mean, log_variance, distributions.standard_noise(keys, self.latent))
        return z, distributions.diagonal_normal(mean, log_variance)

    def _attend(self, memory: Memory | None, z: Array) -> Reading | None:
        return None if memory is None else self._blend(memory, self._attention(memory, z))

    def _attention(self, memory: Memory, z: Array) -> Array:
        return jnp.exp(
            self._addresses(self.networks.embed_latent(z), memory.keys).log_probabilities
        )

    def _blend(self, memory: Memory, attention: Array) -> Reading:
        if memory.reading is not None:
            return blend(memory.reading, attention, self.precision)
        mixtures = blend(memory.entries, attention, self.precision)
        return self.networks.read_entries(mixtures, latent=False)

    def _hard(self, encoding: Encoding) -> tuple[Distribution, Distribution, Memory]:
        """q(a | x), p(a) and the memory; only hard addressing has all."""
        posterior, prior, memory = encoding.posterior, encoding.prior, encoding.memory
        if posterior is None or prior is None or memory is None:
            raise InputError(f"model.addressing: found {self.addressing}, expected hard")
        return posterior, prior, memory

    def _of_every_entry(
        self, batch: Batch, of_address: Distribution, train: bool
    ) -> dict[str, Array]:
        """What is said of all entries, of a memory that one softmax is taken of."""
        if isinstance(of_address, BlockAddresses):
            return {}
        probabilities = jnp.exp(of_address.log_probabilities)
        used = {"posterior": probabilities} if train and self.memory == "learned" else {}
        return self._hit_rate(batch, probabilities) | used

    def _hit_rate(self, batch: Batch, probabilities: Array) -> dict[str, Array]:
        """The probability `[B]` of an entry of the target's own class, where classes are known."""
        if not self.reads_context or batch.labels is None or batch.context_labels is None:
            return {}
        same = batch.labels[:, None] == batch.context_labels[None, :]
        return {"same_class": jnp.sum(probabilities * same, axis=-1)}

    def _image_distribution(self, z: Array, reading: Reading | None) -> Any:
        return distributions.bernoulli_images(self.networks.decode(z, reading))

    def _make_networks(self) -> Networks:
        common: dict[str, Any] = {
            "image_shape": self._image_shape,
            "latent": self.latent,
            "hidden": self.hidden,
            "matching": self.matching,
            "embeddings": self.embeddings,
            "skips": self.skips,
            "precision": self.precision,
        }
        if self.kind == "dense":
            return DenseNetworks(**common)
        return ConvolutionalNetworks(**common, maps=self.maps, pyramids=self.pyramids)

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        if self.image_shape is None:
            raise InputError("model.image_shape: found None, expected (H, W, C)")
        return self.image_shape

    def _slots(self, name: str, scale: float, of_one: tuple[int, ...]) -> Array:
        """Parameters of M slots, `[M, ...]`, or `[N, S, ...]` in blocks."""
        if not self._blocks:
            initial = nn.initializers.normal(scale)
            return self.param(name, initial, (self.memory_size, *of_one))
        axis = self._shared_over
        shares = 1 if axis is None else lax.axis_size(axis)
        blocks = self.memory_size // self._blocks // shares
        return self.param(
            name, large_memory.initial_blocks(scale, axis), (blocks, self._blocks, *of_one)
        )

    def _check(self) -> None:
        sizes = ("memory_size", "memory_units", "latent", "matching")
        for name in sizes:
            if (value := getattr(self, name)) < 1:
                raise InputError(f"model.{name}: found {value}, expected at least 1")
        if not 0 <= self.memory_scale < math.inf:
            raise InputError(
                f"model.memory_scale: found {self.memory_scale}, expected at least 0, and finite"
            )
        if self.block_size < 0 or (self.block_size and self.memory_size % self.block_size):
            raise InputError(
                f"model.block_size: found {self.block_size}, expected a divisor of "
                f"model.memory_size, {self.memory_size}, or 0"
            )
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(
                f"model.hidden: found {self.hidden}, expected at least one layer of at least 1 unit"
            )
        if self.kind == "convolutional" and (not self.maps or min(self.maps) < 1):
            raise InputError(
                f"model.maps: found {self.maps}, expected at least one convolution of some maps"
            )
        vectors = self.memory == "learned" and self.kind == "dense"
        if self.embeddings == "shared" and vectors:
            raise InputError(
                "model.embeddings: found shared, expected separate where the memory holds learned "
                "vectors, which no network for images can embed"
            )
        if self.embeddings == "learned" and not self.learns_memory:
            raise InputError(
                "model.embeddings: found learned, expected separate or shared where no memory is "
                "learned"
            )


def _unblocked(slots: Array, block_size: int) -> Array:
    """`[N, S, ...]` -> `[M, ...]`, which those of no blocks are already."""
    return slots.reshape(-1, *slots.shape[2:]) if block_size else slots


def _of_latent(reading: Reading) -> LatentReading:
    assert reading.latent is not None, "hard addressing reads what z depends on"
    return reading.latent


def _folded(keys: Array, number: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _at(mean: Array, log_variance: Array, noise: Array) -> Array:
    return mean + jnp.exp(0.5 * log_variance) * noise
