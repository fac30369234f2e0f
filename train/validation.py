"""The bound on the validation split, under the same map over devices as training."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax import bounds, data, sampling, training
from memjax.config import Experiment
from memjax.data import Split
from memjax.types import Array, Batch, Variables

from .devices import over_devices, replicate, split_batches


def make_validation(
    experiment: Experiment, split: Split, maximum: int, devices: Sequence[jax.Device]
) -> Callable[[Variables], float]:
    """A function from the model's variables to the mean bound over a split, in nats.

    Batch norm uses its moving averages, grey images are binarised once, and the noise is the same
    at every call, so that two checkpoints differ by their parameters alone.

    Args:
        experiment: model, precision, `train.validation_samples`, batch size.
        split: the validation split.
        maximum: the grey value that counts as full ink.
        devices: to map over.
    """
    batch_size = experiment.train.batch_size
    missing = -len(split.images) % batch_size
    order = np.concatenate([np.arange(len(split.images)), np.zeros(missing, int)])
    weight = np.arange(len(order)) < len(split.images)
    plan = split_batches(order, batch_size, len(devices))
    weights = split_batches(weight.astype(np.float32), batch_size, len(devices))
    images = replicate(split.images, devices)
    key = training.stream(experiment.seed, "validation")
    binarisation_key = training.stream(experiment.seed, "validation_binarisation")
    binarisation: data.Binarisation = "none" if experiment.data.binarisation == "none" else "fixed"

    def one_batch(variables: Variables, images: Array, index: Array) -> Array:
        pixels = data.prepare_images(images[index], index, binarisation_key, binarisation, maximum)
        samples = jnp.arange(experiment.train.validation_samples)
        keys = sampling.sample_keys(key, index, samples)
        terms, _ = sampling.sample_terms(
            experiment.model, variables, Batch(pixels, index), keys, False
        )
        return bounds.iwae_bound(terms.log_weights)

    def total(variables: Variables, images: Array, plan: Array, weights: Array) -> Array:
        def add(sum_so_far: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
            index, weight = row
            return sum_so_far + jnp.sum(weight * one_batch(variables, images, index)), None

        return lax.psum(lax.scan(add, jnp.float32(0.0), (plan, weights))[0], "devices")

    mapped = over_devices(total, devices, (None, None, 0, 0))
    return lambda variables: float(mapped(variables, images, plan, weights)) / len(split.images)
