"""Distributions, against their closed forms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from memjax.distributions import (
    Bernoulli,
    bernoulli_images,
    diagonal_normal,
    distrax,  # imported where its warnings are silenced
    draw_images,
    gaussian_images,
    standard_normal,
)

LOGITS = np.array([-1e4, -80.0, -17.5, -1.0, -1e-4, 0.0, 0.3, 2.0, 17.5, 80.0, 1e4], np.float32)


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def exact_log_prob(value: np.ndarray, logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    return value * logits - np.logaddexp(logits, 0)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(-np.asarray(logits, np.float64), 0))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_bernoulli_is_distrax_own(value: float) -> None:
    expected = distrax.Bernoulli(logits=LOGITS).log_prob(value)
    found = Bernoulli(logits=LOGITS).log_prob(value)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_bernoulli_is_exact_at_large_logits(value: float) -> None:
    def log_prob(logits: jax.Array) -> jax.Array:
        return Bernoulli(logits=logits).log_prob(value)

    found = log_prob(jnp.asarray(LOGITS))
    np.testing.assert_allclose(found, exact_log_prob(value, LOGITS), rtol=1e-6, atol=2e-6)
    gradient = jax.vmap(jax.grad(log_prob))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(gradient, value - sigmoid(LOGITS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grey", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_grey_pixels_give_the_expectation_over_their_binarisation(grey: float) -> None:
    logits = LOGITS[np.abs(LOGITS) < 100]
    pixel = Bernoulli(logits=logits)
    expected = grey * pixel.log_prob(1.0) + (1 - grey) * pixel.log_prob(0.0)
    np.testing.assert_allclose(pixel.log_prob(grey), expected, rtol=1e-6, atol=2e-6)


def test_bernoulli_images_sum_their_pixels() -> None:
    logits = 5 * drawn(6, 3, 4, 2)
    images = (drawn(6, 3, 4, 2, seed=1) > 0).astype(jnp.float32)
    distribution = bernoulli_images(logits)
    found = distribution.log_prob(images)
    assert found.shape == (6,)
    expected = exact_log_prob(np.asarray(images), np.asarray(logits)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(distribution.mean(), sigmoid(np.asarray(logits)), rtol=1e-5)


def test_normals_sum_their_dimensions() -> None:
    value, mean, log_variance = drawn(5, 6, 3), drawn(6, 3, seed=1), 2 * drawn(6, 3, seed=2)
    found = diagonal_normal(mean, log_variance).log_prob(value)
    assert found.shape == (5, 6)
    scale = np.exp(0.5 * np.asarray(log_variance, np.float64))
    expected = norm.logpdf(value, mean, scale).sum(axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    expected = norm.logpdf(value).sum(axis=-1)
    np.testing.assert_allclose(standard_normal((6, 3)).log_prob(value), expected, rtol=1e-5)


def test_kl_to_the_prior_is_the_closed_form() -> None:
    mean, log_variance = drawn(6, 3), 2 * drawn(6, 3, seed=1)
    found = diagonal_normal(mean, log_variance).kl_divergence(standard_normal((6, 3)))
    m, s = np.asarray(mean, np.float64), np.asarray(log_variance, np.float64)
    expected = 0.5 * (np.exp(s) + m**2 - 1 - s).sum(axis=-1)
    assert found.shape == (6,)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gaussian_images_sum_their_pixels() -> None:
    value, mean, log_variance = (drawn(6, 3, 4, 2, seed=seed) for seed in range(3))
    distribution = gaussian_images(mean, log_variance)
    found = distribution.log_prob(value)
    assert found.shape == (6,)
    scale = np.exp(0.5 * np.asarray(log_variance, np.float64))
    expected = norm.logpdf(value, mean, scale).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(distribution.mean(), mean)


def test_draws_have_the_moments_of_their_distribution() -> None:
    logits = jnp.linspace(-2, 2, 6).reshape(1, 2, 3, 1).repeat(4000, axis=0)
    keys = jax.random.split(jax.random.key(0), 4000)
    found = draw_images(bernoulli_images(logits), keys)
    assert set(np.unique(found)) == {0, 1}
    np.testing.assert_allclose(found.mean(0), jax.nn.sigmoid(logits[0]), atol=5 * 0.5 / 4000**0.5)
    # Pixels of an image are drawn apart, or a sum of two would have another variance.
    expected = jax.nn.sigmoid(logits[0]) * jax.nn.sigmoid(-logits[0])
    np.testing.assert_allclose(found.sum((1, 2, 3)).var(), expected.sum(), rtol=0.1)

    log_variance = jnp.full_like(logits, jnp.log(0.09))
    found = draw_images(gaussian_images(logits, log_variance), keys)
    np.testing.assert_allclose(found.mean(0), logits[0], atol=5 * 0.3 / 4000**0.5)
    np.testing.assert_allclose(found.std(0), 0.3, rtol=0.06)


def test_a_draw_depends_on_its_own_key_alone() -> None:
    images = bernoulli_images(jnp.zeros((3, 5, 5, 1)))
    keys = jax.random.split(jax.random.key(0), 3)
    found = draw_images(images, keys)
    backwards = draw_images(images, keys[::-1])
    np.testing.assert_array_equal(found, backwards[::-1])
    assert len(np.unique(np.asarray(found).reshape(3, -1), axis=0)) == 3
