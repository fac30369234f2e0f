"""The distributions of the models, with event dimensions summed; the only import of distrax."""

import warnings

import jax
import jax.numpy as jnp
from jax import Array

with warnings.catch_warnings():
    # tensorflow-probability, which distrax imports, warns about its own type annotations.
    warnings.simplefilter("ignore")
    import distrax


_OF_PIXELS = 2**32 - 1


def diagonal_normal(mean: Array, log_variance: Array) -> distrax.Independent:
    """N(mean, diag(exp(log_variance))) over the last axis.

    Args:
        mean: `[..., D]`.
        log_variance: `[..., D]`.

    Returns:
        A distribution whose log-probabilities are `[...]`, in nats.
    """
    return distrax.Independent(distrax.Normal(mean, jnp.exp(0.5 * log_variance)), 1)


def standard_normal(shape: tuple[int, ...]) -> distrax.Independent:
    """N(0, I) over the last axis of `shape`."""
    return diagonal_normal(jnp.zeros(shape), jnp.zeros(shape))


def standard_noise(keys: Array, size: int) -> Array:
    """Draws of N(0, I), `[B, size]`, each from its own key of `keys` `[B]`."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


class Bernoulli(distrax.Bernoulli):
    """Bernoulli pixels given by logits.

    `log_prob` is the closed form x * logits - softplus(logits): one softplus where distrax takes
    two, which is what a training step with many samples spends its time on. Grey pixels in [0, 1]
    give the expected log-likelihood of their binarisation. Exact for logits of any size.
    """

    def log_prob(self, value: Array) -> Array:
        return value * self.logits - jnp.logaddexp(self.logits, 0.0)


def bernoulli_images(logits: Array) -> distrax.Independent:
    """Independent Bernoulli pixels: logits `[..., H, W, C]`, log-probabilities `[...]` in nats."""
    return distrax.Independent(Bernoulli(logits=logits), 3)


def gaussian_images(mean: Array, log_variance: Array) -> distrax.Independent:
    """Independent Gaussian pixels: mean and log-variance `[..., H, W, C]`, densities `[...]`."""
    return distrax.Independent(distrax.Normal(mean, jnp.exp(0.5 * log_variance)), 3)


def draw_images(images: distrax.Independent, keys: Array) -> Array:
    """Draws of p(x | z), `[B, H, W, C]`, one from each distribution of the batch.

    Args:
        images: of B images.
        keys: `[B]`, those that z was drawn with.
    """

    def draw(image: distrax.Independent, key: Array) -> Array:
        # Models fold in small numbers, for the address or the steps of a writer.
        return image.sample(seed=jax.random.fold_in(key, _OF_PIXELS))

    return jax.vmap(draw)(images, keys)
