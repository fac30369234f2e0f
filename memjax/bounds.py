"""Bounds on log p(x) from log importance weights: `[K, B]` -> `[B]`, in nats, higher is better."""

import chex
import jax.numpy as jnp
from jax.nn import logsumexp

from memjax.types import Array


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
