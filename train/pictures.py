"""The grids of images that TensorBoard shows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from memjax import data, plots, sampling, training
from memjax.config import Experiment
from memjax.data import Dataset, Epochs, Split
from memjax.types import Array, Batch, Variables

SHOWN = 64


def make_pictures(
    experiment: Experiment, dataset: Dataset
) -> Callable[[Variables], dict[str, np.ndarray]]:
    """A function from the model's variables to named grids `[H, W, 3]` in [0, 1].

    `samples` are means of p(x | z) at z from the prior, `reconstructions` those of training images;
    the same z, images and memory at every call, so that progress can be seen. Images of a memory
    are shown too, as `memory`.
    """
    key, sample_key = jax.random.split(training.stream(experiment.seed, "samples"))
    split = dataset.splits["train"]
    shown, context = _places(experiment, split, key)

    def pixels(images: Array, index: np.ndarray) -> Array:
        return data.prepare_images(images, jnp.asarray(index), key, "none", dataset.maximum)

    @jax.jit
    def draw(variables: Variables, images: Array, memory: Array | None) -> dict[str, Array]:
        model = experiment.model
        memory = None if memory is None or context is None else pixels(memory, context)
        labels = None if split.labels is None else jnp.asarray(split.labels[shown])
        batch = Batch(pixels(images, shown), jnp.asarray(shown), labels, memory)
        found = {} if memory is None else {"memory": memory[:SHOWN]}
        return found | {
            "samples": sampling.generate(model, variables, sample_key, SHOWN, memory).means,
            "reconstructions": sampling.reconstruct(model, variables, batch, key),
        }

    def tiled(variables: Variables) -> dict[str, np.ndarray]:
        memory = None if context is None else jnp.asarray(split.images[context])
        drawn = draw(variables, jnp.asarray(split.images[shown]), memory)
        return {name: plots.tile(np.asarray(images)) for name, images in drawn.items()}

    return tiled


def _places(
    experiment: Experiment, split: Split, key: Array
) -> tuple[np.ndarray, np.ndarray | None]:
    """The images that are shown, and those in memory: the first ones, or one draw's.

    Images that belong together are shown together.
    """
    sampler, size = experiment.sampler, experiment.train.batch_size
    if isinstance(sampler, Epochs):
        return np.arange(min(SHOWN, len(split))), None
    row = sampler.plan(experiment.seed, 0, len(split), size)[0]
    drawn = sampler.draw(sampler.tables(split), jnp.asarray(row), key, size)
    count = max(SHOWN // sampler.together, 1) * sampler.together
    context = None if drawn.context is None else np.asarray(drawn.context)
    return np.asarray(drawn.targets)[:count], context
