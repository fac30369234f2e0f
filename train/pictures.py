"""The grids of images that TensorBoard shows."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from memjax import data, plots, sampling, training
from memjax.config import Experiment
from memjax.data import Dataset, Epochs, Split
from memjax.types import Array, Batch, Variables

from .devices import over_shares
from .shares import Shares

SHOWN = 64


def make_pictures(
    experiment: Experiment, dataset: Dataset, shares: Shares
) -> Callable[[Variables, int], dict[str, np.ndarray]]:
    """A function from the model's variables and a seed to named grids `[H, W, 3]` in [0, 1].

    `samples` are means of p(x | z) at z from the prior, `reconstructions` those of training images;
    the same z, images and memory at every call, so that progress can be seen. Images of a memory
    are shown too, as `memory`.
    """
    split = dataset.splits["train"]

    def pixels(places: np.ndarray, key: Array) -> Array:
        images = jnp.asarray(split.images[places])
        return data.prepare_images(images, jnp.asarray(places), key, "none", dataset.maximum)

    def draw(variables: Variables, batch: Batch, seed: Array) -> dict[str, Array]:
        model, memory = shares.model(experiment.model), batch.context
        keys = _keys(seed)
        found = {} if memory is None else {"memory": memory[:SHOWN]}
        return found | {
            "samples": sampling.generate(model, variables, keys[1], SHOWN, memory).means,
            "reconstructions": sampling.reconstruct(model, variables, batch, keys[0]),
        }

    compiled = over_shares(draw, shares) if shares.names else jax.jit(draw)

    @functools.cache
    def batch(seed: int) -> Batch:
        key, _ = _keys(seed)
        shown, context = _places(experiment, split, key, seed)
        memory = None if context is None else pixels(context, key)
        labels = None if split.labels is None else jnp.asarray(split.labels[shown])
        return Batch(pixels(shown, key), jnp.asarray(shown), labels, memory)

    def tiled(variables: Variables, seed: int) -> dict[str, np.ndarray]:
        drawn = compiled(variables, batch(seed), jnp.uint32(seed))
        return {name: plots.tile(np.asarray(images)) for name, images in drawn.items()}

    return tiled


def _keys(seed: Array | int) -> tuple[Array, Array]:
    """Of reconstructions, and of samples."""
    key, of_samples = jax.random.split(training.stream(seed, "samples"))
    return key, of_samples


def _places(
    experiment: Experiment, split: Split, key: Array, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The images that are shown, and those in memory: the first ones, or one draw's.

    Images that belong together are shown together.
    """
    sampler, size = experiment.sampler, experiment.train.batch_size
    if isinstance(sampler, Epochs):
        return np.arange(min(SHOWN, len(split))), None
    row = sampler.plan(seed, 0, len(split), size)[0]
    drawn = sampler.draw(sampler.tables(split), jnp.asarray(row), key, size)
    count = max(SHOWN // sampler.together, 1) * sampler.together
    context = None if drawn.context is None else np.asarray(drawn.context)
    return np.asarray(drawn.targets)[:count], context
