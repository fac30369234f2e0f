"""Distributions, against their closed forms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from memjax.distributions import (
    _lanes,
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


def pixels(values: np.ndarray | jax.Array) -> jax.Array:
    """Each value as an image of its own."""
    return jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_bernoulli_is_distrax_own(value: float) -> None:
    expected = distrax.Bernoulli(logits=LOGITS).log_prob(value)
    found = bernoulli_images(pixels(LOGITS)).log_prob(value * pixels(np.ones_like(LOGITS)))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_bernoulli_is_exact_at_large_logits(value: float) -> None:
    def log_prob(logit: jax.Array) -> jax.Array:
        return bernoulli_images(pixels(logit)).log_prob(pixels(value))[0]

    found = jax.vmap(log_prob)(LOGITS)
    np.testing.assert_allclose(found, exact_log_prob(value, LOGITS), rtol=1e-6, atol=2e-6)
    gradient = jax.vmap(jax.grad(log_prob))(LOGITS)
    np.testing.assert_allclose(gradient, value - sigmoid(LOGITS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grey", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_grey_pixels_give_the_expectation_over_their_binarisation(grey: float) -> None:
    logits = pixels(LOGITS[np.abs(LOGITS) < 100])
    bits = jnp.ones_like(logits)
    pixel = bernoulli_images(logits)
    expected = grey * pixel.log_prob(bits) + (1 - grey) * pixel.log_prob(0 * bits)
    np.testing.assert_allclose(pixel.log_prob(grey * bits), expected, rtol=1e-6, atol=2e-6)


# Of fewer pixels than a lane, of a number with no divisor, of the data sets, and large ones.
SHAPES = [(3, 4, 1), (101, 1, 1), (8, 8, 1), (16, 8, 1), (28, 20, 1), (28, 28, 1), (64, 64, 3)]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_bernoulli_images_sum_their_pixels(
    shape: tuple[int, ...], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    logits = 5 * drawn(4, 6, *shape)
    images = (drawn(6, *shape, seed=1) > 0).astype(jnp.float32)
    distribution = bernoulli_images(logits)
    found = distribution.log_prob(images)
    assert found.shape == (4, 6)
    expected = exact_log_prob(np.asarray(images), np.asarray(logits)).sum(axis=(-3, -2, -1))
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    np.testing.assert_allclose(distribution.mean(), sigmoid(np.asarray(logits)), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_even_odds_of_many_pixels_are_within_range(shape: tuple[int, ...]) -> None:
    found = bernoulli_images(jnp.zeros(shape)).log_prob(jnp.ones(shape))
    np.testing.assert_allclose(found, -np.log(2) * np.prod(shape), rtol=1e-6)


def test_lanes_are_for_vectors_and_short() -> None:
    for size in range(1, 3000):
        lanes = _lanes(size)
        assert size % lanes == 0
        assert size // lanes <= 64
        assert lanes >= min(size, 16)
    assert [_lanes(size) for size in (12, 64, 128, 784, 101)] == [12, 16, 16, 16, 101]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_gradients_of_bernoulli_images_are_the_closed_form(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    logits, images = 5 * drawn(6, 8, 8, 1), drawn(6, 8, 8, 1, seed=1)
    weights = drawn(6, seed=2)

    def weighed(logits: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.sum(weights * bernoulli_images(logits).log_prob(images))

    of_logits, of_images = jax.grad(weighed, (0, 1))(logits, images)
    of_each = np.asarray(weights)[:, None, None, None]
    exact = of_each * (np.asarray(images) - sigmoid(np.asarray(logits)))
    np.testing.assert_allclose(of_logits, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_images, of_each * np.asarray(logits), rtol=1e-6)
    # The second derivative too: - sigmoid(l) sigmoid(-l).
    change = drawn(6, 8, 8, 1, seed=3)
    _, found = jax.jvp(lambda of: jax.grad(weighed)(of, images), (logits,), (change,))
    curvature = -sigmoid(np.asarray(logits)) * sigmoid(-np.asarray(logits))
    np.testing.assert_allclose(found, of_each * curvature * change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [bool, np.uint8])
def test_bits_of_any_kind_have_the_gradient_of_their_numbers(kind: type) -> None:
    logits, bits = drawn(6, 8, 8, 1), np.asarray(drawn(6, 8, 8, 1, seed=1)) > 0

    def total(logits: jax.Array, bits: jax.Array | np.ndarray) -> jax.Array:
        return bernoulli_images(logits).log_prob(bits).sum()

    found = jax.value_and_grad(total)(logits, bits.astype(kind))
    expected = jax.value_and_grad(total)(logits, bits.astype(np.float32))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("shape", [(), (1, 1, 1), (4, 1), (6, 1, 1, 1), (5, 1, 3, 4, 1)])
def test_values_are_broadcast_as_the_closed_form_is(shape: tuple[int, ...]) -> None:
    logits, value = drawn(6, 3, 4, 2), drawn(*shape, seed=1)
    found = bernoulli_images(logits).log_prob(value)
    expected = exact_log_prob(np.asarray(value), np.asarray(logits)).sum(axis=(-3, -2, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes"):
        bernoulli_images(drawn(3, 4, 4, 1)).log_prob(drawn(3, 8, 2, 1))


@pytest.mark.parametrize("shape", [(0, 3, 4, 2), (2, 0, 4, 1)])
def test_nothing_has_the_log_prob_of_nothing(shape: tuple[int, ...]) -> None:
    found = bernoulli_images(jnp.zeros(shape)).log_prob(jnp.zeros(shape))
    np.testing.assert_array_equal(found, np.zeros(shape[0]))


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_what_it_is(kind: type) -> None:
    logits = jnp.zeros((2, 32, 32, 1), kind)
    found, of_logits = jax.value_and_grad(
        lambda logits: bernoulli_images(logits).log_prob(jnp.ones(logits.shape))[0]
    )(logits)
    assert found.dtype == of_logits.dtype == kind
    np.testing.assert_allclose(np.float32(found), -np.log(2) * 1024, rtol=0.01)


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
