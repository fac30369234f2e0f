"""Missing pixels, filled in by a Markov chain of a model's own reconstructions."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from memjax import sampling
from memjax.evaluation.batch_statistics import pass_statistics
from memjax.types import Array, Batch, Module, Variables


def impute(
    model: Module,
    variables: Variables,
    batch: Batch,
    missing: Array,
    key: Array,
    num_passes: int,
    statistics_of_batch: bool = False,
) -> tuple[Array, Array]:
    """Fill in missing pixels: draw z given the guess so far, and put p(x | z) in their place.

    The first guess is noise, uniform in [0, 1]. What is seen stays as it is.

    Args:
        model: a linen module that follows `types.Model`.
        variables: `params` and `batch_stats`.
        batch: B whole images.
        missing: `[B, H, W, C]` or `[H, W, C]`, True where a pixel is to be guessed.
        key: a typed key.
        num_passes: P, draws of z.
        statistics_of_batch: whether batch norm takes the statistics of the guesses in this batch,
            anew in each pass, instead of those in `variables`.

    Returns:
        The images `[B, H, W, C]` after the last pass, and `[P, B]`, the squared error summed over
        the missing pixels of each image after each pass.

    Source: Rezende et al. 2014, appendix F; Li, Zhu and Zhang 2016, section 5.4.
    """

    def one_pass(guess: Array, number: Array) -> tuple[Array, Array]:
        of_pass = jax.random.fold_in(key, number)
        seen = dataclasses.replace(batch, images=guess)
        used = variables
        if statistics_of_batch:
            # By the same noise as below, so that both are of the same z.
            used = pass_statistics(model, variables, seen, of_pass)
        means = sampling.reconstruct(model, used, seen, of_pass)
        guess = jnp.where(missing, means, batch.images)
        return guess, jnp.sum(jnp.square(guess - batch.images), axis=(1, 2, 3))

    first = jnp.where(missing, _noise(key, batch), batch.images)
    return lax.scan(one_pass, first, 1 + jnp.arange(num_passes))


def missing_at_random(
    key: Array, index: Array, image_shape: tuple[int, int, int], probability: float
) -> Array:
    """`[B, H, W, C]`: pixels that are missing with a probability, all channels of one together.

    Args:
        key: a typed key.
        index: `[B]` places of the images in their split; the same place misses the same pixels.
        image_shape: (H, W, C).
        probability: of each pixel.
    """
    height, width, channels = image_shape
    keys = sampling.example_keys(key, index)
    uniform = jax.vmap(lambda one: jax.random.uniform(one, (height, width, 1)))(keys)
    return jnp.broadcast_to(uniform < probability, (len(index), height, width, channels))


def _noise(key: Array, batch: Batch) -> Array:
    keys = sampling.example_keys(jax.random.fold_in(key, 0), batch.index)
    return jax.vmap(lambda one: jax.random.uniform(one, batch.images.shape[1:]))(keys)
