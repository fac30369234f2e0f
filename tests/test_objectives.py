"""Objectives: their values, their gradients, and what they refuse."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from memjax import bounds, distributions
from memjax.errors import InputError
from memjax.objectives import Pathwise, Vimco, analytic_elbo, pathwise
from memjax.types import Terms
from tests import tiny


def terms(num_samples: int, examples: int = 4) -> Terms:
    generator = np.random.default_rng(num_samples)

    def drawn(centre: float) -> jax.Array:
        values = centre + 2 * generator.standard_normal((num_samples, examples))
        return jnp.asarray(values, jnp.float32)

    return Terms(
        log_likelihood=drawn(-90),
        log_prior=drawn(-20),
        log_posterior=drawn(-10),
        log_score=jnp.zeros((num_samples, examples)),
        kl=drawn(8),
        penalty=drawn(3),
    )


def wide(values: jax.Array) -> np.ndarray:
    return np.asarray(values, np.float64)


def log_weights(of: Terms) -> np.ndarray:
    return wide(of.log_likelihood) + wide(of.log_prior) - wide(of.log_posterior)


@pytest.mark.parametrize("num_samples", [1, 5, 50])
def test_pathwise_is_the_bound_minus_the_mean_penalty(num_samples: int) -> None:
    given = terms(num_samples)
    bound = logsumexp(log_weights(given), axis=0) - np.log(num_samples)
    expected = bound - wide(given.penalty).mean(axis=0)
    np.testing.assert_allclose(pathwise(given), expected, rtol=1e-6)
    np.testing.assert_array_equal(Pathwise(num_samples)(given), pathwise(given))


@pytest.mark.parametrize("num_samples", [1, 5, 50])
def test_pathwise_gradient_weighs_the_samples(num_samples: int) -> None:
    given = terms(num_samples)
    gradient = jax.grad(lambda some: pathwise(some).sum())(given)
    weights = softmax(log_weights(given), axis=0)
    np.testing.assert_allclose(gradient.log_likelihood, weights, rtol=1e-4)
    np.testing.assert_allclose(gradient.log_prior, weights, rtol=1e-4)
    np.testing.assert_allclose(gradient.log_posterior, -weights, rtol=1e-4)
    np.testing.assert_allclose(gradient.penalty, np.full(weights.shape, -1 / num_samples))
    # The closed form of the KL and the score have no part in it.
    assert not gradient.kl.any() and not gradient.log_score.any()


@pytest.mark.parametrize("num_samples", [1, 5])
def test_analytic_elbo_takes_the_kl_in_closed_form(num_samples: int) -> None:
    given = terms(num_samples)
    expected = (wide(given.log_likelihood) - wide(given.kl) - wide(given.penalty)).mean(axis=0)
    np.testing.assert_allclose(analytic_elbo(given), expected, rtol=1e-6)
    chosen = Pathwise(num_samples, kl="analytic")(given)
    np.testing.assert_array_equal(chosen, analytic_elbo(given))


def test_both_elbos_have_the_same_expectation() -> None:
    # z ~ N(0, 1), x | z ~ N(1.5 z, 0.4), q(z | x) = N(0.7, exp(-1.2)): the integrands are
    # quadratic in z, for which three nodes of Gauss and Hermite are exact.
    x, slope, log_noise = 1.3, 1.5, np.log(0.4)
    mean, log_variance = jnp.array([0.7]), jnp.array([-1.2])
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = weights / weights.sum()
    z = mean + jnp.exp(0.5 * log_variance) * jnp.asarray(nodes, jnp.float32)[:, None]
    posterior = distributions.diagonal_normal(mean, log_variance)
    prior = distributions.standard_normal((1,))
    likelihood = distributions.diagonal_normal(slope * z, jnp.full((3, 1), log_noise))

    def at_node(k: int) -> Terms:
        zero = jnp.zeros((1, 1))
        return Terms(
            log_likelihood=likelihood.log_prob(jnp.array([x]))[k].reshape(1, 1),
            log_prior=prior.log_prob(z)[k].reshape(1, 1),
            log_posterior=posterior.log_prob(z)[k].reshape(1, 1),
            log_score=zero,
            kl=posterior.kl_divergence(prior).reshape(1, 1),
            penalty=zero,
        )

    def expectation(objective: Any) -> float:
        values = [float(objective(at_node(k))[0]) for k in range(3)]
        return float(np.dot(weights, values))

    # E_q[log p(x | z)] - KL(q || p), by hand.
    m, v = 0.7, np.exp(-1.2)
    reconstruction = ((x - slope * m) ** 2 + slope**2 * v) / 0.4
    by_hand = -0.5 * (np.log(2 * np.pi * 0.4) + reconstruction) - 0.5 * (v + m**2 - 1 - np.log(v))
    np.testing.assert_allclose(expectation(pathwise), by_hand, rtol=1e-6)
    np.testing.assert_allclose(expectation(analytic_elbo), by_hand, rtol=1e-6)


def without(k: int, log_weights: np.ndarray, baseline: bounds.Baseline) -> np.ndarray:
    """The bound had sample k not been drawn, or been like the geometric mean of the others."""
    others = np.delete(log_weights, k, axis=0)
    if baseline == "geometric":
        others = np.concatenate([others, others.mean(axis=0, keepdims=True)])
    return np.log(np.mean(np.exp(others), axis=0))


@pytest.mark.parametrize("baseline", ["arithmetic", "geometric"])
def test_vimco_scores_a_sample_by_what_it_adds(baseline: bounds.Baseline) -> None:
    given = terms(4)
    given = dataclasses.replace(given, log_score=given.log_posterior / 2, reparameterised=False)
    weights = log_weights(given)
    objective = Vimco(4, baseline)
    compiled = tiny.quick_jit(jax.value_and_grad(lambda some: objective(some).sum()))
    value, gradient = compiled(given)
    bound = logsumexp(weights, axis=0) - np.log(4)
    np.testing.assert_allclose(value, (bound - wide(given.penalty).mean(axis=0)).sum(), rtol=1e-6)
    signal = np.stack([bound - without(k, weights, baseline) for k in range(4)])
    np.testing.assert_allclose(gradient.log_score, signal, atol=1e-4)
    # The reparameterised part has the gradient of the bound.
    normalised = softmax(weights, axis=0)
    np.testing.assert_allclose(gradient.log_likelihood, normalised, rtol=1e-4)
    np.testing.assert_allclose(gradient.log_prior, normalised, rtol=1e-4)
    np.testing.assert_allclose(gradient.log_posterior, -normalised, rtol=1e-4)
    np.testing.assert_allclose(gradient.penalty, np.full(weights.shape, -1 / 4))
    assert not gradient.kl.any()


@pytest.mark.parametrize("objective", [Pathwise(), Pathwise(5), Pathwise(kl="analytic")])
def test_a_model_with_a_score_part_is_refused(objective: Pathwise) -> None:
    discrete = dataclasses.replace(terms(5), reparameterised=False)
    with pytest.raises(InputError, match=r"objective .*discrete.* expected a model"):
        objective(discrete)
