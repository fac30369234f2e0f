"""log p(x) by importance sampling, over chunks of samples.

What takes memory is the decoder's work on the samples, not their weights: at 5,000 samples of 100
images the decoder's layers fill 5 GiB and the log weights 2 MiB. So the decoder runs over one chunk
of samples after the other while the weights of all are kept, `[K, B]`, and every number is computed
from them at the end. The noise of a sample depends on the image and the sample's number alone, so
neither the size of a chunk nor the number of devices is part of the answer.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from memjax import bounds, sampling
from memjax.types import Array, Batch, Module, Variables


@flax.struct.dataclass
class Likelihood:
    """What K samples say of each image; log-probabilities in nats.

    Attributes:
        log_likelihood: `[B]`, the K-sample estimate of log p(x).
        effective_sample_size: `[B]`, between 1 and K.
        iwae_bound: `[J, B]`, the bound at each of J smaller numbers of samples, averaged over the
            disjoint groups of that size among the same K samples.
    """

    log_likelihood: Array
    effective_sample_size: Array
    iwae_bound: Array


def log_weights(
    model: Module,
    variables: Variables,
    batch: Batch,
    key: Array,
    num_samples: int,
    chunk_size: int,
) -> Array:
    """log p(x, z) - log q(z | x) for K samples of each image; the encoder runs once.

    Args:
        model: a linen module that follows `types.Model`.
        variables: `params` and `batch_stats`.
        batch: B images.
        key: a typed key.
        num_samples: K.
        chunk_size: samples that are decoded together; K need not be a multiple of it.

    Returns:
        `[K, B]` in nats.
    """
    return log_weights_and_diagnostics(model, variables, batch, key, num_samples, chunk_size)[0]


def log_weights_and_diagnostics(
    model: Module,
    variables: Variables,
    batch: Batch,
    key: Array,
    num_samples: int,
    chunk_size: int,
    shared: str | None = None,
) -> tuple[Array, dict[str, Array]]:
    """`log_weights`, and the means `[B]` over samples of what else a model says of itself.

    Args:
        model: a linen module that follows `types.Model`.
        variables: `params` and `batch_stats`.
        batch: B images.
        key: a typed key.
        num_samples: K.
        chunk_size: samples that are decoded together.
        shared: as in `log_weights_of_encoding`.

    Returns:
        `[K, B]` in nats, and name -> `[B]`: the model's diagnostics, `reconstruction_nll` and
        `elbo`, whose KL is in closed form where it has one.
    """
    encoding = model.apply(variables, batch, False, method="encode")
    of = (model, variables, batch, encoding)
    return log_weights_of_encoding(*of, key, num_samples, chunk_size, shared=shared)


def log_weights_of_encoding(
    model: Module,
    variables: Variables,
    batch: Batch,
    encoding: Any,
    key: Array,
    num_samples: int,
    chunk_size: int,
    address: Array | None = None,
    shared: str | None = None,
) -> tuple[Array, dict[str, Array]]:
    """`log_weights_and_diagnostics` of an encoding that is there already.

    Args:
        model: a linen module that follows `types.Model`.
        variables: `params` and `batch_stats`.
        batch: B images.
        encoding: what `model.encode(batch, train=False)` returned.
        key: a typed key.
        num_samples: K.
        chunk_size: samples that are decoded together.
        address: `[B]`, for a model with addresses: the one that all samples have.
        shared: axis of the devices that share the K samples, each of which gets all of them.
    """
    devices, place = (1, 0) if shared is None else (lax.axis_size(shared), lax.axis_index(shared))
    count = -(-num_samples // devices)

    def one_chunk(first: Array) -> tuple[Array, dict[str, Array]]:
        keys = sampling.sample_keys(key, batch.index, first + jnp.arange(chunk_size))
        terms = sampling.sample_terms_of_encoding(model, variables, batch, encoding, keys, address)
        named = {
            "elbo": terms.log_likelihood - terms.kl,
            "reconstruction_nll": -terms.log_likelihood,
            **terms.diagnostics,
        }
        return terms.log_weights, named

    found = lax.map(one_chunk, place * count + jnp.arange(0, count, chunk_size))

    def in_order(values: Array) -> Array:
        # The last chunk may hold more samples than are left, and so may the last device.
        values = values.reshape(-1, batch.images.shape[0])[:count]
        if shared is not None:
            values = lax.all_gather(values, shared, tiled=True)
        return values[:num_samples]

    weights, named = jax.tree.map(in_order, found)
    return weights, {name: values.mean(axis=0) for name, values in named.items()}


def summarise(weights: Array, numbers: Sequence[int]) -> Likelihood:
    """Bounds and effective sample size from log weights.

    Args:
        weights: `[K, B]` log weights in nats.
        numbers: J numbers of samples, each at most K, at which to give the bound.
    """
    return Likelihood(
        log_likelihood=bounds.iwae_bound(weights),
        effective_sample_size=bounds.effective_sample_size(weights),
        iwae_bound=jnp.stack([_mean_bound(weights, number) for number in numbers]),
    )


def _mean_bound(weights: Array, number: int) -> Array:
    groups = weights.shape[0] // number
    grouped = weights[: groups * number].reshape(groups, number, -1)
    return jnp.mean(jax.vmap(bounds.iwae_bound)(grouped), axis=0)
