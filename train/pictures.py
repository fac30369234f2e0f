"""The grids of images that TensorBoard shows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from memjax import data, plots, sampling, training
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.types import Array, Batch, Variables

SHOWN = 64


def make_pictures(
    experiment: Experiment, dataset: Dataset
) -> Callable[[Variables], dict[str, np.ndarray]]:
    """A function from the model's variables to named grids `[H, W, 3]` in [0, 1].

    `samples` are means of p(x | z) at z from the prior, `reconstructions` those of training images;
    the same z and images at every call, so that progress can be seen.
    """
    shown = dataset.splits["train"].images[:SHOWN]
    index = jnp.arange(len(shown))
    key, sample_key = jax.random.split(training.stream(experiment.seed, "samples"))

    @jax.jit
    def draw(variables: Variables, shown: Array) -> dict[str, Array]:
        images = data.prepare_images(shown, index, key, "none", dataset.maximum)
        model, batch = experiment.model, Batch(images, index)
        return {
            "samples": sampling.generate(model, variables, sample_key, SHOWN).means,
            "reconstructions": sampling.reconstruct(model, variables, batch, key),
        }

    def tiled(variables: Variables) -> dict[str, np.ndarray]:
        drawn = draw(variables, jnp.asarray(shown))
        return {name: plots.tile(np.asarray(images)) for name, images in drawn.items()}

    return tiled
