"""From bytes on the device to what a model sees: functions of (seed, epoch, example) alone."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from memjax.data.randomness import Stream, permutation
from memjax.errors import InputError

Binarisation = Literal["none", "fixed", "every_epoch"]


def epoch_permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the order of the examples in one epoch, a function of (seed, epoch).

    `[N]` int32, each of 0..N-1 once. It comes from numpy and not from jax, so that neither the
    backend nor the version of jax can change what a resumed run sees.
    """
    return permutation(Stream.EPOCH, seed, epoch, num_examples)


def binarise(images: jax.Array, key: jax.Array, index: jax.Array, maximum: int) -> jax.Array:
    """Switches each pixel on with probability pixel / maximum.

    images `[B, H, W, C]` uint8, index `[B]` the place of each example in its split; returns
    `[B, H, W, C]` float32 of zeros and ones. The noise of an image is a function of (key, index)
    and not of its place in the batch. Probabilities are met to 2^-16; 0 is never on and `maximum`
    always.
    """
    pixels = images[0].size

    def noise(example: jax.Array) -> jax.Array:
        # The cost is the random words, so each of 32 bits serves two pixels: 0.25 ms for a batch
        # of 100 MNIST images on two cores where `jax.random.bernoulli` takes 0.6.
        halves = jax.random.bits(jax.random.fold_in(key, example), ((pixels + 1) // 2,), jnp.uint32)
        return jax.lax.bitcast_convert_type(halves, jnp.uint16).reshape(-1)[:pixels]

    uniform = jax.vmap(noise)(index).reshape(images.shape).astype(jnp.uint32)
    # uniform / 2^16 < pixel / maximum, in integers; both sides stay below 2^24.
    return (uniform * maximum < images.astype(jnp.uint32) * 2**16).astype(jnp.float32)


def prepare_images(
    images: jax.Array, index: jax.Array, key: jax.Array, binarisation: Binarisation, maximum: int
) -> jax.Array:
    """Turns a batch of bytes into what a model sees.

    images `[B, H, W, C]` uint8, index `[B]`; returns `[B, H, W, C]` float32: images / maximum with
    "none", zeros and ones with "fixed" and "every_epoch". Those two differ by the key alone: the
    caller folds the epoch into it for "every_epoch". Data that are 0/1 already (maximum 1) pass
    through. Raises InputError for any other binarisation.
    """
    if binarisation not in ("none", "fixed", "every_epoch"):
        raise InputError(
            f"binarisation: found {binarisation!r}, expected 'none', 'fixed' or 'every_epoch'"
        )
    if maximum == 1:
        return images.astype(jnp.float32)
    if binarisation == "none":
        return images.astype(jnp.float32) / maximum
    return binarise(images, key, index, maximum)
