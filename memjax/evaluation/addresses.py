"""What can be said of every address of a memory, one after the other."""

import jax.numpy as jnp
from jax import lax
from jax.nn import logsumexp

from memjax import bounds
from memjax.evaluation.likelihood import log_weights_of_encoding
from memjax.types import Array, Batch, Module, Variables


def log_joint_of_addresses(
    model: Module,
    variables: Variables,
    batch: Batch,
    key: Array,
    num_samples: int,
    chunk_size: int,
) -> Array:
    """log p(x, a | M) of every address a, by importance samples of z alone.

    It takes M times the work of an estimate that draws the address.

    Args:
        model: a model with addresses.
        variables: `params` and `batch_stats`.
        batch: B images.
        key: a typed key.
        num_samples: K, of z at each address.
        chunk_size: samples that are decoded together.

    Returns:
        `[M, B]` in nats. Over addresses, its softmax is p(a | x, M).

    Source: Bornschein et al. 2017, equation 1.
    """
    encoding = model.apply(variables, batch, False, method="encode")
    _, log_prior = model.apply(variables, batch, encoding, method="address_log_probs")

    def one_address(address: Array) -> Array:
        # The weights hold p(a) and not q(a | x): each estimates p(a) p(x | m_a).
        forced = jnp.full(batch.images.shape[0], address)
        found, _ = log_weights_of_encoding(
            model, variables, batch, encoding, key, num_samples, chunk_size, forced
        )
        return bounds.iwae_bound(found)

    return lax.map(one_address, jnp.arange(log_prior.shape[0]))


def sum_over_addresses(
    model: Module,
    variables: Variables,
    batch: Batch,
    key: Array,
    num_samples: int,
    chunk_size: int,
) -> Array:
    """log p(x | M) `[B]` with the address summed out; arguments as `log_joint_of_addresses`.

    The ruler for estimates that draw the address: they converge to it from below.
    """
    return logsumexp(
        log_joint_of_addresses(model, variables, batch, key, num_samples, chunk_size), axis=0
    )
