"""The distributions of the models, with event dimensions summed; the only import of distrax."""

import math
import warnings

import jax
import jax.numpy as jnp
from jax import Array, lax

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


class BernoulliImages(distrax.Independent):
    """Independent Bernoulli pixels given by logits.

    `log_prob` is the closed form x * logits - softplus(logits), summed over pixels: one softplus
    where distrax takes two. Grey pixels in [0, 1] give the expected log-likelihood of their
    binarisation.
    """

    def __init__(self, logits: Array):
        """Take logits `[..., H, W, C]`."""
        super().__init__(distrax.Bernoulli(logits=logits), 3)

    def log_prob(self, value: Array) -> Array:
        logits = self.distribution.logits
        return _log_prob_of_bits(*jnp.broadcast_arrays(logits, jnp.asarray(value, logits.dtype)))


@jax.custom_jvp
def _log_prob_of_bits(logits: Array, value: Array) -> Array:
    """log p(value) `[...]` in nats, of logits and values `[..., H, W, C]` of one shape and type."""
    if jax.default_backend() != "cpu":
        return jnp.sum(value * logits - jnp.logaddexp(logits, 0.0), axis=(-3, -2, -1))
    return _summed_in_lanes(logits, value).astype(logits.dtype)


@_log_prob_of_bits.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (logits, value), (of_logits, of_value) = primals, tangents
    each = (value - jax.nn.sigmoid(logits)) * of_logits + logits * of_value
    return _log_prob_of_bits(logits, value), jnp.sum(each, axis=(-3, -2, -1))


def _summed_in_lanes(logits: Array, value: Array) -> Array:
    """The same, as sum log(1 + e) = log prod(1 + e): one logarithm for each lane of pixels.

    XLA on CPUs computes 16 lanes at a time in its vector units, which it does not where it sums
    over neighbours: a quarter of the time or less. 1 + e is rounded to 6e-8, and so is, by itself,
    a log-probability of one nat.
    """
    size, dtype = math.prod(logits.shape[-3:]), jnp.promote_types(logits.dtype, jnp.float32)
    lanes = _lanes(size)
    flat = (x.reshape(*x.shape[:-3], size).astype(dtype) for x in (logits, value))
    rows = (lax.split(x, (lanes,) * (size // lanes), axis=x.ndim - 1) for x in flat)
    total = jnp.zeros((*logits.shape[:-3], lanes), dtype)
    product = jnp.ones_like(total)
    for logit, bit in zip(*rows, strict=True):
        total += bit * logit - jnp.maximum(logit, 0.0)
        product *= 1.0 + jnp.exp(-jnp.abs(logit))
    return jnp.sum(total - jnp.log(product), axis=-1)


def _lanes(size: int) -> int:
    """How many lanes share so many pixels: at most 64 each, so that no product exceeds 2^64."""
    least = max(1, min(size, max(16, -(-size // 64))))
    return next(lanes for lanes in range(least, size + 2) if size % lanes == 0)


def bernoulli_images(logits: Array) -> BernoulliImages:
    """Independent Bernoulli pixels: logits `[..., H, W, C]`, log-probabilities `[...]` in nats."""
    return BernoulliImages(logits)


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
