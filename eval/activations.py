"""What the layers of a model hold for every image of a split."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from memjax import data, sampling, training
from memjax.data import Split
from memjax.types import Array, Batch, Variables

from .run import Run


def activations_of(
    run: Run,
    split: Split,
    names: Sequence[str],
    binarisation: data.Binarisation,
    binarisation_seed: int,
    seed: int,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Name -> `[N, ...]`, what `model.activations` calls so, at one z of each image's posterior.

    Args:
        run: of a model that is given neither its memory nor labels.
        split: N images.
        names: of activations.
        binarisation: of the images.
        binarisation_seed: of the same.
        seed: of the noise.
        batch_size: images together; it is not part of the answer.
    """
    binarisation_key = training.stream(binarisation_seed, "evaluation_binarisation")
    noise = training.stream(seed, "evaluation")

    @jax.jit
    def of_batch(variables: Variables, images: Array, index: Array) -> dict[str, Array]:
        pixels = data.prepare_images(
            images, index, binarisation_key, binarisation, run.dataset.maximum
        )
        batch = Batch(pixels, index)
        encoding = run.model.apply(variables, batch, False, method="encode")
        keys = sampling.example_keys(noise, index)
        found = run.model.apply(variables, batch, encoding, keys, method="activations")
        return {name: found[name] for name in names}

    made = []
    with tqdm(total=len(split), unit="image", disable=None) as bar:
        for first in range(0, len(split), batch_size):
            rows = np.arange(first, min(first + batch_size, len(split)))
            found = of_batch(run.variables, jnp.asarray(split.images[rows]), jnp.asarray(rows))
            made.append(jax.tree.map(np.asarray, found))
            bar.update(len(rows))
    return {name: np.concatenate([one[name] for one in made]) for name in names}
