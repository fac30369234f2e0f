"""The networks of a conditional VAE with a memory: q(z | x, m), p(z | m), p(x | z, m), embeddings.

A memory entry m is read by three networks and matched by a fourth. What they make of it does not
depend on the target, so `read_entries` computes it for every entry once, and an address picks from
that. Where a network takes the concatenation of two inputs, its first layer is the sum of two
products, of which one belongs to the entry.
"""

from typing import Literal, Protocol

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from memjax.convolution import Mirror, Pyramid
from memjax.nn import Dense
from memjax.products import Precision
from memjax.types import Array

Pyramids = Literal["shared", "separate"]
Embeddings = Literal["separate", "shared", "learned"]


@flax.struct.dataclass
class Reading:
    """What the networks make of memory entries; every array `[M, ...]`, `[B, ...]` once read.

    Attributes:
        decoder: the entries' share of the decoder's first layer.
        skips: the entries' shares of the decoder's later layers.
        latent: what z depends on, None where z comes before the reading.
    """

    decoder: Array
    skips: tuple[Array, ...] = ()
    latent: "LatentReading | None" = None


@flax.struct.dataclass
class LatentReading:
    """What z depends on, of memory entries.

    Attributes:
        posterior: the entries' share of the posterior's first layer.
        prior_mean: `[M, D]` of p(z | m).
        prior_log_variance: `[M, D]` of p(z | m).
    """

    posterior: Array
    prior_mean: Array
    prior_log_variance: Array


class Networks(Protocol):
    """What `VMA` asks of its networks; images are `[B, H, W, C]`, entries `[M, ...]`."""

    def embed_images(self, images: Array) -> Array:
        """The query e^q of each target, `[B, E]`."""

    def embed_entries(self, entries: Array) -> Array:
        """The embedding e_a of each entry, `[M, E]`."""

    def embed_latent(self, z: Array) -> Array:
        """The query of each z, `[B, E]`, for soft attention."""

    def read_images(self, images: Array) -> Array:
        """The targets' share of the posterior's first layer, `[B, D]`."""

    def read_entries(self, entries: Array, latent: bool) -> Reading:
        """Everything that depends on the entries alone; `latent` where z depends on them too."""

    def posterior(self, images: Array, reading: LatentReading | None) -> tuple[Array, Array]:
        """Mean and log-variance `[B, D]` of q(z | x, m), or of q(z | x) without a reading."""

    def decode(self, z: Array, reading: Reading | None) -> Array:
        """Logits `[B, H, W, C]` of p(x | z, m), or of p(x | z) without a reading."""


class MLP(nn.Module):
    """Dense layers with ReLU between them, none after the last.

    Attributes:
        features: units of each layer.
        precision: of the matrix products.
    """

    features: tuple[int, ...]
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, units in enumerate(self.features):
            x = Dense(units, self.precision)(nn.relu(x) if i else x)
        return x


class DenseNetworks(nn.Module):
    """Fully connected networks for images and for entries that are vectors or images.

    Attributes:
        image_shape: (H, W, C).
        latent: dimensions of z.
        hidden: units of the hidden layers, in this order in the encoder and in the decoder, as the
            paper names them once for both. The other way round, recall gets an image through 128
            units before it meets a nonlinearity.
        skips: whether the decoder's later layers see the entry too, as in convolutional networks.
            The paper does not say. Without them the last hidden layer is a bottleneck, and recall
            copies images no better than to 19 nats within 14,000 steps.
        matching: E, dimensions of the embeddings.
        embeddings: `shared` embeds images and entries by one network, `separate` by two; `learned`
            embeds images alone.
        precision: of the matrix products.

    Source: Bornschein et al. 2017, section 4.1.
    """

    image_shape: tuple[int, int, int]
    latent: int = 32
    hidden: tuple[int, ...] = (256, 128)
    matching: int = 128
    embeddings: Embeddings = "separate"
    skips: bool = True
    precision: Precision = "float32"

    def setup(self) -> None:
        first, *rest = self.hidden
        height, width, channels = self.image_shape
        pixels = height * width * channels
        self.query = self._mlp(*self.hidden, self.matching)
        shared = self.embeddings == "shared"
        self.key = self.query if shared else self._mlp(*self.hidden, self.matching)
        self.latent_query = self._mlp(*self.hidden, self.matching)
        self.posterior_of_image = self._mlp(first)
        self.posterior_of_entry = self._mlp(first)
        self.posterior_rest = self._mlp(*rest, 2 * self.latent)
        self.prior = self._mlp(*self.hidden, 2 * self.latent)
        self.decoder_of_latent = self._mlp(first)
        self.decoder_of_entry = self._mlp(first)
        self.decoder_rest = [Dense(units, self.precision) for units in (*rest, pixels)]
        self.skip_layers = [
            Dense(units, self.precision, use_bias=False) for units in (*rest, pixels) if self.skips
        ]

    def embed_images(self, images: Array) -> Array:
        return self.query(_flat(images))

    def embed_entries(self, entries: Array) -> Array:
        return self.key(_flat(entries))

    def embed_latent(self, z: Array) -> Array:
        return self.latent_query(z)

    def read_images(self, images: Array) -> Array:
        return self.posterior_of_image(_flat(images))

    def read_entries(self, entries: Array, latent: bool) -> Reading:
        entries = _flat(entries)
        decoder = self.decoder_of_entry(entries)
        skips = tuple(skip(entries) for skip in self.skip_layers)
        if not latent:
            return Reading(decoder, skips)
        posterior = self.posterior_of_entry(entries)
        return Reading(decoder, skips, LatentReading(posterior, *_halves(self.prior(entries))))

    def posterior(self, images: Array, reading: LatentReading | None) -> tuple[Array, Array]:
        h = images if reading is None else images + reading.posterior
        return _halves(self.posterior_rest(nn.relu(h)))

    def decode(self, z: Array, reading: Reading | None) -> Array:
        h = self.decoder_of_latent(z)
        if reading is not None:
            h = h + reading.decoder
        for i, layer in enumerate(self.decoder_rest):
            h = layer(nn.relu(h))
            if reading is not None and reading.skips:
                h = h + reading.skips[i]
        return h.reshape(-1, *self.image_shape)

    def _mlp(self, *features: int) -> MLP:
        return MLP(features, self.precision)


class ConvolutionalNetworks(nn.Module):
    """Convolutional pyramids of images and of entries that are images, and a mirror with skips.

    The entry's pyramid gives the decoder a vector and a skip at each size, and, where `pyramids`
    is `shared`, the posterior and the prior read the same one.

    Attributes:
        image_shape: (H, W, C).
        latent: dimensions of z, and of the vector of an entry that the decoder takes beside it.
        maps: of the six convolutions of a pyramid, from the image up.
        hidden: units of the dense layers behind a pyramid.
        matching: E, dimensions of the embeddings.
        embeddings: `shared` embeds images and entries by one network, `separate` by two; `learned`
            embeds images alone.
        skips: whether the decoder's upscaling layers see the entry's pyramid, or z and the vector
            alone.
        pyramids: `shared` is one pyramid of an entry for posterior, prior and decoder; `separate`
            is one for each.
        precision: of the products.

    Source: Bornschein et al. 2017, section 4.2. Where the paper concatenates x and m as images for
    the posterior, the pyramids of both are concatenated here, so that the entry's is computed once.
    """

    image_shape: tuple[int, int, int]
    latent: int = 64
    maps: tuple[int, ...] = (64, 64, 64, 64, 64, 64)
    hidden: tuple[int, ...] = (256,)
    matching: int = 128
    embeddings: Embeddings = "separate"
    skips: bool = True
    pyramids: Pyramids = "shared"
    precision: Precision = "float32"

    def setup(self) -> None:
        first, *rest = self.hidden
        shared = self.embeddings == "shared"
        self.query_pyramid = self._pyramid()
        self.key_pyramid = self.query_pyramid if shared else self._pyramid()
        self.query = self._mlp(*self.hidden, self.matching)
        self.key = self.query if shared else self._mlp(*self.hidden, self.matching)
        self.latent_query = self._mlp(*self.hidden, self.matching)
        self.image_pyramid, self.entry_pyramid = self._pyramid(), self._pyramid()
        if self.pyramids == "separate":
            self.posterior_pyramid, self.prior_pyramid = self._pyramid(), self._pyramid()
        self.posterior_of_image = self._mlp(first)
        self.posterior_of_entry = self._mlp(first)
        self.posterior_rest = self._mlp(*rest, 2 * self.latent)
        self.prior = self._mlp(*self.hidden, 2 * self.latent)
        self.entry_vector = self._mlp(self.latent)
        self.mirror = Mirror(self.maps, self.image_shape, self.precision)

    def embed_images(self, images: Array) -> Array:
        return self.query(_flat(self.query_pyramid(images)[-1]))

    def embed_entries(self, entries: Array) -> Array:
        return self.key(_flat(self.key_pyramid(entries)[-1]))

    def embed_latent(self, z: Array) -> Array:
        return self.latent_query(z)

    def read_images(self, images: Array) -> Array:
        return self.posterior_of_image(_flat(self.image_pyramid(images)[-1]))

    def read_entries(self, entries: Array, latent: bool) -> Reading:
        features = self.entry_pyramid(entries)
        top = _flat(features[-1])
        decoder = self.entry_vector(top)
        skips = self.mirror.project(features) if self.skips else ()
        if not latent:
            return Reading(decoder, skips)
        of_posterior = of_prior = top
        if self.pyramids == "separate":
            of_posterior = _flat(self.posterior_pyramid(entries)[-1])
            of_prior = _flat(self.prior_pyramid(entries)[-1])
        posterior = self.posterior_of_entry(of_posterior)
        return Reading(decoder, skips, LatentReading(posterior, *_halves(self.prior(of_prior))))

    def posterior(self, images: Array, reading: LatentReading | None) -> tuple[Array, Array]:
        h = images if reading is None else images + reading.posterior
        return _halves(self.posterior_rest(nn.relu(h)))

    def decode(self, z: Array, reading: Reading | None) -> Array:
        if reading is None:
            return self.mirror(z)
        return self.mirror(jnp.concatenate([z, reading.decoder], axis=-1), reading.skips or None)

    def _mlp(self, *features: int) -> MLP:
        return MLP(features, self.precision)

    def _pyramid(self) -> Pyramid:
        return Pyramid(self.maps, self.precision)


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def _halves(x: Array) -> tuple[Array, Array]:
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]
