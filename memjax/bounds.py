"""Bounds on log p(x) from log importance weights: `[K, B]` -> `[B]`, in nats, higher is better."""

from typing import Literal

import chex
import jax.numpy as jnp
from jax.nn import logsumexp

from memjax.types import Array

Baseline = Literal["arithmetic", "geometric"]


def elbo(log_weights: Array) -> Array:
    """The evidence lower bound, averaged over K samples.

    Args:
        log_weights: `[K, B]`, log p(x, z) - log q(z | x) with z drawn from q.

    Returns:
        `[B]`, E_q[log w] <= log p(x).

    Source: Kingma and Welling, Auto-encoding variational Bayes, 2014, equation 2.
    """
    chex.assert_rank(log_weights, 2)
    return jnp.mean(log_weights, axis=0)


def iwae_bound(log_weights: Array) -> Array:
    """The importance-weighted bound log (1/K) sum_k w_k.

    Args:
        log_weights: `[K, B]`.

    Returns:
        `[B]`, at least `elbo(log_weights)`; equal to it for K = 1. With thousands of samples it is
        the usual estimate of log p(x).

    Source: Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, 2015, equation 8.
    """
    chex.assert_rank(log_weights, 2)
    return logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])


def leave_one_out(log_weights: Array, baseline: Baseline = "arithmetic") -> Array:
    """The bound of each sample's fellows: what it would be, had that sample not been drawn.

    Args:
        log_weights: `[K, B]`, K at least 2.
        baseline: `arithmetic` is the bound of the other K - 1 samples; `geometric` puts the
            geometric mean of the others in the place of the sample, and keeps K.

    Returns:
        `[K, B]`; entry k does not depend on log weight k.

    Source: arithmetic: Bornschein et al. 2017, equation 8; geometric: Mnih and Rezende,
    Variational inference for Monte Carlo objectives, 2016.
    """
    chex.assert_rank(log_weights, 2)
    num_samples = log_weights.shape[0]
    itself = jnp.eye(num_samples, dtype=bool)[..., None]
    if baseline == "arithmetic":
        others = jnp.where(itself, -jnp.inf, log_weights[None])
        return logsumexp(others, axis=1) - jnp.log(num_samples - 1)
    mean = jnp.where(itself, 0.0, log_weights[None]).sum(axis=1) / (num_samples - 1)
    replaced = jnp.where(itself, mean[:, None], log_weights[None])
    return logsumexp(replaced, axis=1) - jnp.log(num_samples)


def effective_sample_size(log_weights: Array) -> Array:
    """(sum_k w_k)^2 / sum_k w_k^2, between 1 and K.

    Args:
        log_weights: `[K, B]`.

    Returns:
        `[B]`; small values mean that few samples carry the estimate.

    Source: Kong, A note on importance sampling using standardized weights, 1992.
    """
    chex.assert_rank(log_weights, 2)
    # Relative to the largest: at -1e5 nats the difference below would keep two digits of float32.
    relative = log_weights - jnp.max(log_weights, axis=0)
    return jnp.exp(2 * logsumexp(relative, axis=0) - logsumexp(2 * relative, axis=0))
