"""Windows of attention: filterbanks, exact crops, and patches put back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import windows

HEIGHT, WIDTH, SIZE = 8, 12, 4
SHARP = -40.0  # a log variance at which a Gaussian is one pixel


def parameters(
    x: float = 0.0,
    y: float = 0.0,
    log_variance: float = SHARP,
    stride: float = 1.0,
    intensity: float = 1.0,
    size: int = SIZE,
) -> jax.Array:
    """The five numbers of one window, with its stride in pixels."""
    log_stride = np.log(stride * (size - 1) / (WIDTH - 1))
    return jnp.asarray([[x, y, log_variance, log_stride, np.log(intensity)]], jnp.float32)


def image(channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.standard_normal((1, HEIGHT, WIDTH, channels)).astype(np.float32)


@pytest.mark.parametrize("log_variance", [SHARP, 0.0, 5.0])
@pytest.mark.parametrize("x", [0.0, 0.7, -9.0])
def test_rows_of_filterbanks_sum_to_one(x: float, log_variance: float) -> None:
    window = windows.window(parameters(x, -x, log_variance, 1.7), SIZE, HEIGHT, WIDTH)
    np.testing.assert_allclose(window.rows.sum(axis=-1), np.ones((1, SIZE)), rtol=1e-5)
    np.testing.assert_allclose(window.columns.sum(axis=-1), np.ones((1, SIZE)), rtol=1e-5)
    assert window.rows.shape == (1, SIZE, HEIGHT) and window.columns.shape == (1, SIZE, WIDTH)


def test_a_filterbank_by_hand() -> None:
    centre, stride, log_variance = 4.2, 1.5, 0.3
    bank = windows.filterbank(*jnp.asarray([[[centre]], [[stride]], [[log_variance]]]), 3, 7)
    for i in range(3):
        mean = centre + (i + 1 - 3 / 2 - 0.5) * stride
        weights = [np.exp(-((a - mean) ** 2) / (2 * np.exp(log_variance))) for a in range(1, 8)]
        np.testing.assert_allclose(bank[0, i], weights / np.sum(weights), rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_even_window_of_stride_one_crops(channels: int) -> None:
    images = image(channels)
    window = windows.window(parameters(intensity=2.0), SIZE, HEIGHT, WIDTH)
    middle = images[:, 2:6, 4:8]
    np.testing.assert_allclose(windows.read(window, images), 2 * middle, rtol=1e-5)


def test_a_window_moves_by_its_centre() -> None:
    images = image()
    # A centre at 2 / 13 is one pixel right of the middle, one at -4 / 9 two pixels up.
    window = windows.window(parameters(x=2 / 13, y=-4 / 9), SIZE, HEIGHT, WIDTH)
    np.testing.assert_allclose(windows.read(window, images), images[:, 0:4, 5:9], rtol=1e-5)


def test_writing_puts_back_what_was_read() -> None:
    images = image(channels=2)
    window = windows.window(parameters(x=2 / 13, intensity=3.0), SIZE, HEIGHT, WIDTH)
    found = windows.write(window, windows.read(window, images))
    expected = np.zeros_like(images)
    expected[:, 2:6, 5:9] = images[:, 2:6, 5:9]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_writing_is_the_transpose_of_reading() -> None:
    images, patch = image(), np.random.default_rng(1).standard_normal((1, SIZE, SIZE, 1))
    window = windows.window(parameters(0.3, -0.2, 0.5, 1.3), SIZE, HEIGHT, WIDTH)
    inner = np.sum(windows.read(window, images) * patch)
    np.testing.assert_allclose(inner, np.sum(images * windows.write(window, patch)), rtol=1e-4)


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("which", range(windows.NUM_PARAMETERS))
@pytest.mark.parametrize("value", [-1e30, -100.0, 100.0, 1e30])
def test_no_parameters_are_too_large(size: int, which: int, value: float) -> None:
    def total(of: jax.Array) -> jax.Array:
        window = windows.window(of, size, HEIGHT, WIDTH)
        again = windows.write(window, windows.read(window, jnp.ones((1, HEIGHT, WIDTH, 1))))
        return again.sum() + window.rows.sum()

    found = jax.value_and_grad(total)(jnp.zeros((1, 5)).at[0, which].set(value))
    assert all(np.isfinite(one).all() for one in found)


@pytest.mark.parametrize("log_variance", [-200.0, SHARP, 30.0])
def test_gradients_are_finite(log_variance: float) -> None:
    def total(numbers: jax.Array) -> jax.Array:
        window = windows.window(numbers, SIZE, HEIGHT, WIDTH)
        return jnp.sum(jnp.square(windows.write(window, windows.read(window, image()))))

    gradient = jax.grad(total)(parameters(0.1, 0.2, log_variance))
    assert np.isfinite(gradient).all()


def test_a_window_of_one_pixel() -> None:
    numbers = jnp.asarray([[1 / 13, 1 / 9, SHARP, 0.0, 0.0]])
    window = windows.window(numbers, 1, HEIGHT, WIDTH)
    np.testing.assert_allclose(windows.read(window, image()), image()[:, 4:5, 6:7], rtol=1e-5)
