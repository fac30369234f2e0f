"""Epochs and binarisation: functions of (seed, epoch, example) and of nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.data import binarise, epoch_permutation, prepare_images
from memjax.errors import InputError


def batch(count: int = 32, shape: tuple[int, ...] = (28, 28, 1)) -> tuple[jax.Array, jax.Array]:
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return jnp.asarray(images), jnp.arange(count, dtype=jnp.int32) * 7


@pytest.mark.parametrize("count", [1, 2, 1_000, 60_000])
def test_epoch_is_a_permutation(count: int) -> None:
    order = epoch_permutation(0, 0, count)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    orders = [epoch_permutation(seed, epoch, 500) for seed in range(3) for epoch in range(4)]
    assert len({order.tobytes() for order in orders}) == 12
    np.testing.assert_array_equal(epoch_permutation(2, 3, 500), orders[-1])


def test_epoch_is_the_same_everywhere_and_for_ever() -> None:
    # Runs are resumed and compared across machines and versions: these numbers must not move.
    assert epoch_permutation(1, 2, 10).tolist() == [4, 5, 9, 6, 7, 1, 0, 8, 2, 3]


@pytest.mark.parametrize("maximum", [1, 238, 255])
def test_binarised_frequencies(maximum: int) -> None:
    draws = 20_000
    pixels = np.unique(np.array([0, 1, 2, 64, 127, 128, 200, 237, 238, 254, 255]) % (maximum + 1))
    image = jnp.asarray(pixels, jnp.uint8).reshape(1, -1, 1)
    images = jnp.broadcast_to(image, (draws, *image.shape))
    found = binarise(images, jax.random.key(3), jnp.arange(draws), maximum)
    assert found.dtype == jnp.float32 and found.shape == images.shape
    assert set(np.unique(found)) <= {0.0, 1.0}
    frequency = np.asarray(found).mean(axis=0).reshape(-1)
    expected = pixels / maximum
    # Exact at both ends, where sigma is zero; within 5 sigma elsewhere.
    sigma = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(frequency - expected) <= 5 * sigma).all()


def test_pixels_are_independent() -> None:
    images = jnp.full((20_000, 1, 5, 1), 128, jnp.uint8)
    found = np.asarray(binarise(images, jax.random.key(0), jnp.arange(20_000), 255)).reshape(-1, 5)
    correlation = np.corrcoef(found.T) - np.eye(5)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("shape", [(28, 28, 1), (3, 3, 1), (5, 7, 3)])
def test_noise_belongs_to_the_example(shape: tuple[int, ...]) -> None:
    images, index = batch(shape=shape)
    key = jax.random.key(1)
    whole = jax.jit(binarise, static_argnums=3)(images, key, index, 255)
    order = np.random.default_rng(1).permutation(len(images))
    np.testing.assert_array_equal(binarise(images[order], key, index[order], 255), whole[order])
    np.testing.assert_array_equal(binarise(images[4:7], key, index[4:7], 255), whole[4:7])
    same = jnp.broadcast_to(images[:1], images.shape)
    assert len({row.tobytes() for row in np.asarray(binarise(same, key, index, 255))}) > 16
    other = binarise(images, jax.random.key(2), index, 255)
    assert (np.asarray(other) != np.asarray(whole)).any()


def test_prepare_images() -> None:
    images, index = batch()
    key = jax.random.key(0)
    grey = prepare_images(images, index, key, "none", 255)
    assert grey.dtype == jnp.float32
    np.testing.assert_allclose(grey, np.asarray(images) / np.float32(255), rtol=1e-6)
    assert float(prepare_images(images * 0 + 238, index, key, "none", 238).min()) == 1.0
    expected = binarise(images, key, index, 255)
    for binarisation in ("fixed", "every_epoch"):
        found = prepare_images(images, index, key, binarisation, 255)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("binarisation", ["none", "fixed", "every_epoch"])
def test_binary_images_pass_through(binarisation) -> None:
    images, index = batch()
    bits = images % 2
    found = prepare_images(bits, index, jax.random.key(0), binarisation, 1)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, bits)


def test_unknown_binarisation() -> None:
    images, index = batch(2)
    with pytest.raises(InputError, match="'sometimes', expected 'none', 'fixed' or 'every_epoch'"):
        prepare_images(images, index, jax.random.key(0), "sometimes", 255)  # type: ignore[arg-type]
