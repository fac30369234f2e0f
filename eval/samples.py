"""Pictures of a run: data, reconstructions, samples from the prior."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from memjax import data, plots, sampling, training
from memjax.errors import InputError
from memjax.types import Batch

from .likelihood import with_statistics
from .options import check_at_least, check_seeds
from .run import Own, Run, Step, open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def samples(
    workdir: str,
    num_images: int = 64,
    output: str | None = None,
    data_dir: str | None = None,
    step: Step = "latest",
    seed: int = 0,
    experiment: Own = None,
) -> epath.Path:
    """Draw images from a trained model, beside test images and their reconstructions.

    Args:
        workdir: of a training run.
        num_images: in each of the three panels.
        output: the PNG; samples.png in the workdir if not given.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        seed: of the samples.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Returns:
        The path of the picture.

    Raises:
        InputError: num_images below 1, or anything wrong with the run.
    """
    check_seeds(seed=seed)
    run, _ = with_statistics(open_run(workdir, data_dir, step, experiment), "pass")
    path = epath.Path(output) if output else run.workdir / "samples.png"
    save_figure(plots.panels(pictures(run, num_images, seed)), path)
    print(path)
    return path


def pictures(run: Run, num_images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Title -> images `[N, H, W, C]` in [0, 1]: test images, reconstructions, samples (means)."""
    check_at_least(num_images=num_images)
    images = run.dataset.splits["test"].images[:num_images]
    index = jnp.arange(len(images))

    @jax.jit
    def draw() -> tuple[jax.Array, jax.Array, jax.Array]:
        key, sample_key = jax.random.split(training.stream(seed, "samples"))
        pixels = data.prepare_images(jnp.asarray(images), index, key, "none", run.dataset.maximum)
        again = sampling.reconstruct(run.model, run.variables, Batch(pixels, index), key)
        return (
            pixels,
            again,
            sampling.generate(run.model, run.variables, sample_key, num_images).means,
        )

    titles = ("test images", "reconstructions", "samples")
    return dict(zip(titles, map(np.asarray, draw()), strict=True))


def save_figure(figure: "Figure", path: epath.Path) -> None:
    """Write a figure as PNG.

    Raises:
        InputError: the file is not to be a PNG, or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: found another ending, expected .png")
    try:
        plots.save(figure, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}), expected a writable folder"
        ) from error
