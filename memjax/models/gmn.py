"""Generative matching networks: a VAE that reads other images before it draws or explains one.

Bartunov and Vetrov, Fast adaptation in generative models with generative matching networks, 2016,
arXiv 1612.02192.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from memjax import distributions
from memjax.errors import InputError
from memjax.matching import Affine, Query, SetReader, Sets
from memjax.memory import Similarity
from memjax.nn import Axes, Dense
from memjax.products import Precision
from memjax.residual import ResidualMirror, ResidualPyramid, section_sizes
from memjax.types import Array, Batch, Generated, SetByProgram, Terms

POSITIVE = ("episode_length", "latent", "state", "matching", "pseudo_inputs", "prior_hidden")
PRE_SCALE = 10.0  # largest magnitude of what a softplus makes a standard deviation of


@flax.struct.dataclass
class Normal:
    """A diagonal normal distribution of z.

    Attributes:
        mean: `[B, D]`.
        scale: `[B, D]`, standard deviations.
    """

    mean: Array
    scale: Array

    @property
    def distribution(self) -> Any:
        """Log-probabilities `[B]`, in nats."""
        return distributions.diagonal_normal(self.mean, 2 * jnp.log(self.scale))

    def at(self, noise: Array) -> Array:
        """The z `[B, D]` of standard normal noise `[B, D]`."""
        return self.mean + self.scale * noise


@flax.struct.dataclass
class Encoding:
    """A batch, free of noise.

    Attributes:
        features: `[B, D]` of the targets.
        sets: what the decoder reads once it knows z.
        prior: p(z | X).
        posterior: q(z | x, X).
    """

    features: Array
    sets: Sets
    prior: Normal
    posterior: Normal


class GMN(nn.Module):
    """p(z | X) p(x | z, X) with q(z | x, X), all three of which read a set of images X.

    With `Batch.context` `[M, ...]` that is the set X of every target; the targets do not see each
    other, and M may be 0. Without, the batch holds episodes of `episode_length` images one after
    the other, and the set of an image is those before it in its own episode: the mean of the bound
    over a batch is then that of the episodes, divided by their length.

    Attributes:
        image_shape: (H, W, C) of the images; taken from the data set if None.
        episode_length: T, images of an episode in a batch without context.
        latent: dimensions of z.
        state: units of the state that reads a set.
        matching: dimensions in which images and queries are matched.
        hops: of the attention of posterior and likelihood; 0 takes the mean of the set.
        prior_hops: of the attention of the prior.
        pseudo_inputs: learned images beside those of a set, as features.
        similarity: of queries and images, see `memory.similarity`.
        prior_hidden: units of the prior's hidden layer.
        maps: of the sections of the pyramid, from the image up.
        decoder_maps: of the sections of the decoder, from the image up.
        kernels: taps of the strided convolutions, from the image up.
        block_kernels: taps of the residual blocks, from the image up.
        blocks: residual blocks of a section.
        precision: of matrix products; set from `train.precision`.
        batch_axes: mapped axes of a batch; there is no batch norm that would ask.

    Source: the authors' code, one_shot.py of its last version, which all defaults are those of:
    similarity is the inner product (earlier versions normalise both sides), one hop for all three,
    one pseudo-input. Other than there: initial values of the posterior's layer (Glorot), of the
    strength of attention (see `matching.Query`) and resizing (see `residual.Section`).
    """

    image_shape: SetByProgram[tuple[int, int, int] | None] = None
    episode_length: int = 10
    latent: int = 50
    state: int = 200
    matching: int = 200
    hops: int = 1
    prior_hops: int = 1
    pseudo_inputs: int = 1
    similarity: Similarity = "inner"
    prior_hidden: int = 200
    maps: tuple[int, ...] = (16, 32, 32)
    decoder_maps: tuple[int, ...] = (16, 16, 32)
    kernels: tuple[int, ...] = (4, 3, 2)
    block_kernels: tuple[int, ...] = (3, 3, 2)
    blocks: int = 2
    precision: SetByProgram[Precision] = "float32"
    batch_axes: SetByProgram[Axes] = ()

    @property
    def reads_context(self) -> bool:
        """Whether its memory is `Batch.context`; in evaluation it is."""
        return True

    def setup(self) -> None:
        self._check()
        sections = (self.kernels, self.block_kernels, self.blocks, self.precision)
        self.pyramid = ResidualPyramid(self.maps, *sections)
        self.mirror = ResidualMirror(self._image_shape, self.maps[-1], self.decoder_maps, *sections)
        self.prior_reader, self.reader = self._reader(), self._reader()
        self.ask_of_prior, self.ask_of_posterior, self.ask_of_decoder = (
            Query(self.matching, self.precision) for _ in range(3)
        )
        self.prior_layer = Affine(self.prior_hidden, 0.01, normed=True, precision=self.precision)
        self.prior_moments = Affine(2 * self.latent, precision=self.precision)
        self.posterior_moments = Dense(2 * self.latent, self.precision)
        self.decoder_layer = Affine(self.mirror.units, precision=self.precision)

    def encode(self, batch: Batch, train: bool) -> Encoding:
        """Features, p(z | X) and q(z | x, X), which need no z.

        Raises:
            InputError: a context of other images, or episodes that are not whole.
        """
        del train
        size = len(batch.images)
        context = batch.context
        if context is None:
            features = self.pyramid(batch.images)
            values, visible = self._episodes(features)
            prior = self._prior(values, visible)
        else:
            self._check_context(context)
            features = self.pyramid(jnp.concatenate([batch.images, context]))
            features, values = features[:size], features[None, size:]
            visible = jnp.ones((size, len(context)), bool)
            prior = self._shared_prior(values, size)
        sets = self.reader.embed(values, visible)
        return Encoding(features, sets, prior, self._posterior(features, sets))

    def terms(self, batch: Batch, encoding: Encoding, keys: Array, train: bool) -> Terms:
        """The Terms of one z for each example.

        Args:
            batch: B targets.
            encoding: of the batch.
            keys: `[B]`.
            train: of no consequence here.

        Source: Bartunov and Vetrov 2016; the bound of each image is a term of the bound of its
        episode.
        """
        del train
        z = encoding.posterior.at(distributions.standard_noise(keys, self.latent))
        prior, posterior = encoding.prior.distribution, encoding.posterior.distribution
        kl = posterior.kl_divergence(prior)
        return Terms(
            log_likelihood=self._image_distribution(z, encoding.sets).log_prob(batch.images),
            log_prior=prior.log_prob(z),
            log_posterior=posterior.log_prob(z),
            log_score=jnp.zeros(len(z)),
            kl=kl,
            penalty=jnp.zeros(len(z)),
            diagnostics={"kl_latent": kl},
        )

    def reconstruct(self, batch: Batch, encoding: Encoding, keys: Array) -> Array:
        """Means `[B, H, W, C]` of p(x | z, X) at one sample of the posterior."""
        del batch
        z = encoding.posterior.at(distributions.standard_noise(keys, self.latent))
        return self._image_distribution(z, encoding.sets).mean()

    def generate(self, keys: Array, context: Array | None = None) -> Generated:
        """Images `[B, H, W, C]` of p(x | z, X) at samples from p(z | X).

        Args:
            keys: `[B]`.
            context: X `[M, H, W, C]`; None is the empty set.
        """
        size = len(keys)
        if context is None or len(context) == 0:
            values = jnp.zeros((1, 0, self.mirror.units))
        else:
            self._check_context(context)
            values = self.pyramid(context)[None]
        sets = self.reader.embed(values, jnp.ones((size, values.shape[1]), bool))
        z = self._shared_prior(values, size).at(distributions.standard_noise(keys, self.latent))
        images = self._image_distribution(z, sets)
        return Generated(images.mean(), distributions.draw_images(images, keys))

    def activations(self, batch: Batch, encoding: Encoding, keys: Array) -> dict[str, Array]:
        """`features` of the targets, `[B, D]`."""
        del batch, keys
        return {"features": encoding.features}

    def _episodes(self, features: Array) -> tuple[Array, Array]:
        """Features `[B, D]` as sets `[B / T, T, D]`, and what image t sees, `[T, T]`."""
        length, size = self.episode_length, len(features)
        if size % length:
            raise InputError(
                f"Batch.images: found {size} images without a context, expected whole episodes of "
                f"{length}"
            )
        return features.reshape(-1, length, features.shape[-1]), jnp.tri(length, k=-1, dtype=bool)

    def _shared_prior(self, values: Array, size: int) -> Normal:
        """p(z | X) of one set `[1, M, D]` for `size` targets: all have the same."""
        prior = self._prior(values, jnp.ones((1, values.shape[1]), bool))
        return jax.tree.map(lambda row: jnp.broadcast_to(row, (size, self.latent)), prior)

    def _prior(self, values: Array, visible: Array) -> Normal:
        sets = self.prior_reader.embed(values, visible)
        nothing = jnp.zeros((len(values) * len(visible), 0))
        read = self.prior_reader(sets, self.ask_of_prior, nothing, self.prior_hops)
        return _normal(self.prior_moments(self.prior_layer(read)))

    def _posterior(self, features: Array, sets: Sets) -> Normal:
        read = self.reader(sets, self.ask_of_posterior, features, self.hops)
        return _normal(self.posterior_moments(jnp.concatenate([features, read], axis=-1)))

    def _image_distribution(self, z: Array, sets: Sets) -> Any:
        read = self.reader(sets, self.ask_of_decoder, z, self.hops)
        vectors = self.decoder_layer(jnp.concatenate([z, read], axis=-1))
        return distributions.bernoulli_images(self.mirror(vectors))

    def _reader(self) -> SetReader:
        return SetReader(
            self.mirror.units,
            self.state,
            self.matching,
            self.pseudo_inputs,
            self.similarity,
            self.precision,
        )

    def _check(self) -> None:
        least = dict.fromkeys(POSITIVE, 1) | {"hops": 0, "prior_hops": 0, "blocks": 0}
        for name, number in least.items():
            if (value := getattr(self, name)) < number:
                raise InputError(f"model.{name}: found {value}, expected at least {number}")
        for name in ("maps", "decoder_maps", "block_kernels"):
            found = getattr(self, name)
            if len(found) != len(self.kernels) or min(found, default=1) < 1:
                raise InputError(
                    f"model.{name}: found {found}, expected a number of at least 1 for each of "
                    f"model.kernels {self.kernels}"
                )
        section_sizes(self.kernels, self._image_shape)

    @property
    def _image_shape(self) -> tuple[int, int, int]:
        if self.image_shape is None:
            raise InputError("model.image_shape: found None, expected (H, W, C) of the images")
        return self.image_shape

    def _check_context(self, context: Array) -> None:
        if context.shape[1:] != self._image_shape:
            raise InputError(
                f"Batch.context: found images {context.shape[1:]}, expected {self._image_shape} as "
                "the targets"
            )


def _normal(moments: Array) -> Normal:
    """Means and, before a softplus, standard deviations: `[B, 2 D]`."""
    mean, pre_scale = jnp.split(moments, 2, axis=-1)
    return Normal(mean, nn.softplus(jnp.clip(pre_scale, -PRE_SCALE, PRE_SCALE)))
