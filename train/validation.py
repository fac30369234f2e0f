"""The bound on the validation split, under the same map over devices as training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax import bounds, sampling, training
from memjax.config import Experiment
from memjax.data import Epochs, Split
from memjax.types import Array, Variables

from .devices import Source, draw_batch, over_shares, share
from .shares import Shares

VALIDATION_BATCHES = 100


def make_validation(
    experiment: Experiment, split: Split, maximum: int, shares: Shares
) -> Callable[[Variables, int], float]:
    """A function from the model's variables and a seed to the mean bound over a split, in nats.

    Batch norm uses its moving averages, grey images are binarised once, and noise and memories are
    the same at every call, so that two checkpoints differ by their parameters alone.

    Args:
        experiment: model, precision, `train.validation_samples`, batch size.
        split: the validation split.
        maximum: the grey value that counts as full ink.
        shares: over the devices to map over.
    """
    devices = shares.devices
    source = Source.of(experiment, split, devices)
    model = shares.model(experiment.model)

    def one_batch(
        variables: Variables, source: Source, row: Array, step: Array, seed: Array
    ) -> Array:
        key = training.stream(seed, "validation")
        ink = training.stream(seed, "validation_binarisation")
        places = jax.random.fold_in(training.stream(seed, "validation_sampler"), step)
        batch = draw_batch(experiment, source, row, (places, ink), maximum, len(devices))
        samples = jnp.arange(experiment.train.validation_samples)
        keys = sampling.sample_keys(key, batch.index, samples)
        terms, _ = sampling.sample_terms(model, variables, batch, keys, False)
        return bounds.iwae_bound(terms.log_weights)

    def total(
        variables: Variables, source: Source, plan: Array, weights: Array, seed: Array
    ) -> Array:
        def add(sum_so_far: Array, row: tuple[Array, Array, Array]) -> tuple[Array, None]:
            places, weight, step = row
            found = one_batch(variables, source, places, step, seed)
            return sum_so_far + jnp.sum(share(weight, len(devices)) * found), None

        rows = (plan, weights, jnp.arange(len(plan)))
        return lax.psum(lax.scan(add, jnp.float32(0.0), rows)[0], "devices")

    mapped = over_shares(total, shares)

    def bound(variables: Variables, seed: int) -> float:
        plan, weights = _plan(experiment, len(split), seed)
        found = mapped(variables, source, plan, weights, jnp.uint32(seed))
        return float(found) / float(weights.sum())

    return bound


def _plan(experiment: Experiment, num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for the sampler, and the weights `[S, B]` of their targets.

    Without a memory it is the whole split in its order, the last batch filled up with images of
    weight zero; with one, the first batches of an epoch.
    """
    size = experiment.train.batch_size
    if isinstance(experiment.sampler, Epochs):
        order = np.arange(-(-num_images // size) * size, dtype=np.int32)
        weights = (order < num_images).astype(np.float32)
        return np.where(weights > 0, order, 0).reshape(-1, size), weights.reshape(-1, size)
    plan = experiment.sampler.plan(seed, 0, num_images, size)[:VALIDATION_BATCHES]
    return plan, np.ones((len(plan), size), np.float32)
