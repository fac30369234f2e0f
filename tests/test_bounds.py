"""Bounds: identities that hold whatever the model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from memjax.bounds import effective_sample_size, elbo, iwae_bound

ALL = (elbo, iwae_bound, effective_sample_size)
BOUNDS = (elbo, iwae_bound)


def log_weights(num_samples: int, spread: float = 3.0, centre: float = -90.0) -> np.ndarray:
    drawn = np.random.default_rng(num_samples).standard_normal((num_samples, 6))
    return (centre + spread * drawn).astype(np.float32)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("weight", [0.0, -90.25, 80.0, -1e5])
@pytest.mark.parametrize("num_samples", [1, 5, 50])
def test_equal_weights_give_that_weight(bound: Callable, weight: float, num_samples: int) -> None:
    found = bound(jnp.full((num_samples, 3), weight))
    np.testing.assert_allclose(found, np.full(3, weight), rtol=2e-7, atol=1e-6)


def test_one_sample_gives_the_elbo() -> None:
    weights = log_weights(1)
    np.testing.assert_array_equal(iwae_bound(weights), weights[0])
    np.testing.assert_array_equal(elbo(weights), weights[0])
    np.testing.assert_array_equal(effective_sample_size(weights), np.ones(6))


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("num_samples", [2, 5, 50])
def test_elbo_is_below_the_iwae_bound(spread: float, num_samples: int) -> None:
    weights = log_weights(num_samples, spread)
    assert (elbo(weights) <= iwae_bound(weights) + 3e-5).all()
    if spread >= 1:
        assert (elbo(weights) < iwae_bound(weights)).all()


@pytest.mark.parametrize("num_samples", [1, 2, 500])
def test_values_are_those_of_float64(num_samples: int) -> None:
    weights = log_weights(num_samples)
    wide = weights.astype(np.float64)
    np.testing.assert_allclose(elbo(weights), wide.mean(axis=0), rtol=1e-6)
    expected = logsumexp(wide, axis=0) - np.log(num_samples)
    np.testing.assert_allclose(iwae_bound(weights), expected, rtol=1e-6)
    expected = 1 / np.square(softmax(wide, axis=0)).sum(axis=0)
    np.testing.assert_allclose(effective_sample_size(weights), expected, rtol=1e-5)


@pytest.mark.parametrize("shift", [-64.0, 32.0, 1024.0])
def test_shift_of_the_weights(shift: float) -> None:
    # Multiples of 1/64, so that adding the shift does not round.
    weights = np.round(log_weights(20) * 64) / 64
    for bound in BOUNDS:
        np.testing.assert_allclose(bound(weights + shift), bound(weights) + shift, atol=2e-4)
    found = effective_sample_size(weights + shift)
    np.testing.assert_allclose(found, effective_sample_size(weights), rtol=1e-6)


@pytest.mark.parametrize("bound", ALL)
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_log_weights_of_any_size_are_safe(bound: Callable, spread: float) -> None:
    weights = log_weights(50, spread, centre=-1e5)
    assert np.isfinite(bound(weights)).all()
    gradient = jax.grad(lambda w: bound(w).sum())(jnp.asarray(weights))
    assert np.isfinite(gradient).all()
    wide = weights.astype(np.float64)
    expected = {
        elbo: wide.mean(axis=0),
        iwae_bound: logsumexp(wide, axis=0) - np.log(50),
        effective_sample_size: 1 / np.square(softmax(wide, axis=0)).sum(axis=0),
    }[bound]
    np.testing.assert_allclose(bound(weights), expected, rtol=1e-5)


def test_gradients_weigh_the_samples() -> None:
    weights = log_weights(20)
    gradient = jax.grad(lambda w: iwae_bound(w).sum())(jnp.asarray(weights))
    np.testing.assert_allclose(gradient, softmax(weights.astype(np.float64), axis=0), rtol=1e-4)
    gradient = jax.grad(lambda w: elbo(w).sum())(jnp.asarray(weights))
    np.testing.assert_allclose(gradient, np.full(weights.shape, 1 / 20), rtol=1e-6)


def test_limits_of_the_effective_sample_size() -> None:
    equal = jnp.full((20, 1), -1e5)
    np.testing.assert_allclose(effective_sample_size(equal), 20, rtol=1e-6)
    one = equal.at[3].add(1e3)
    np.testing.assert_allclose(effective_sample_size(one), 1, rtol=1e-6)
    # Half of the weights equal, the other half without weight.
    half = equal.at[:10].add(-1e3)
    np.testing.assert_allclose(effective_sample_size(half), 10, rtol=1e-6)
    found = effective_sample_size(log_weights(20))
    assert (found >= 1).all() and (found <= 20).all()


@pytest.mark.parametrize("bound", ALL)
@pytest.mark.parametrize("shape", [(), (5,), (2, 5, 3)])
def test_other_ranks_are_refused(bound: Callable, shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="rank"):
        bound(jnp.zeros(shape))


@pytest.mark.parametrize("bound", ALL)
def test_samples_are_the_first_axis(bound: Callable) -> None:
    assert bound(jnp.zeros((5, 3))).shape == (3,)
