"""Pictures of a run: data, reconstructions, samples from the prior."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from memjax import data, plots, sampling, training
from memjax.data import Drawn
from memjax.types import Variables
from memjax.workdirs import check_writable

from .episodes import as_in_training
from .files import save_figure
from .likelihood import with_statistics
from .options import check_picture, check_pictured, check_seeds
from .run import Own, Run, Step, evenly_spaced, open_run

TITLES = ("memory", "test images", "reconstructions", "samples", "draws")


def samples(
    workdir: str,
    num_images: int = 64,
    output: str | None = None,
    data_dir: str | None = None,
    step: Step = "latest",
    seed: int = 0,
    draws: bool = False,
    experiment: Own = None,
) -> epath.Path:
    """Draw images from a trained model, beside test images and their reconstructions.

    Args:
        workdir: of a training run.
        num_images: in each panel, at most 1,000.
        output: the PNG; samples.png in the workdir if not given.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        seed: of the samples.
        draws: of p(x | z) at the same samples too, in a panel beside their means.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Returns:
        The path of the picture.

    Raises:
        InputError: num_images out of range, a picture that cannot be written, or anything wrong
            with the run.
    """
    check_seeds(seed=seed)
    check_picture(output)
    run = open_run(workdir, data_dir, step, experiment)
    path = epath.Path(output) if output else run.workdir / "samples.png"
    check_writable(path)
    run, _ = with_statistics(run, "pass")
    save_figure(plots.panels(pictures(run, num_images, seed, draws)), path)
    print(path)
    return path


def pictures(
    run: Run, num_images: int, seed: int = 0, draws: bool = False
) -> dict[str, np.ndarray]:
    """Title -> images `[N, H, W, C]` in [0, 1]: test images, reconstructions, samples (means).

    With `draws` those of p(x | z) at the same samples too.

    A model that is given its memory sees that of one episode, which is shown too.
    """
    check_pictured(num_images)
    draw = as_in_training(run, "test", seed)[0] if run.reads_context else None
    split = run.dataset.splits["test"]
    images, labels = jnp.asarray(split.images), split.labels
    key, sample_key = jax.random.split(training.stream(seed, "samples"))

    @jax.jit
    def found(variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        index = jnp.asarray(evenly_spaced(len(images), num_images))
        if draw is None:
            drawn = Drawn(index, labels=None if labels is None else jnp.asarray(labels)[index])
        else:
            drawn = draw(key, jnp.int32(0))
        batch = data.gather(drawn, images, key, "none", run.dataset.maximum)
        again = sampling.reconstruct(run.model, variables, batch, key)
        context = batch.context
        new = sampling.generate(run.model, variables, sample_key, num_images, context)
        return {
            **({} if context is None else {"memory": context[:num_images]}),
            "test images": batch.images[:num_images],
            "reconstructions": again[:num_images],
            "samples": new.means,
            **({"draws": new.draws} if draws else {}),
        }

    shown = found(run.variables, images)
    return {title: np.asarray(shown[title]) for title in TITLES if title in shown}
