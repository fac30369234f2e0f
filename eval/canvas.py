"""How a recurrent writer comes to an image: its canvas after every step, still and moving."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from memjax import plots, sampling, training
from memjax.errors import InputError
from memjax.types import Array, Generated, Variables
from memjax.workdirs import check_writable

from .files import save_animation, save_figure
from .options import check_picture, check_pictured, check_seeds
from .run import Own, Run, Step, open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COLUMNS = 16  # canvases of one sample in the picture


def canvas(
    workdir: str,
    labels: tuple[int, ...] | None = None,
    num_images: int = 8,
    output: str | None = None,
    data_dir: str | None = None,
    step: Step = "latest",
    seed: int = 0,
    experiment: Own = None,
) -> list[epath.Path]:
    """Draw samples of a recurrent writer, unrolled over its steps.

    A PNG has a row for each sample and a column for each step, or for 16 of them; a GIF shows all
    samples grow. Given labels, the first has a row for each of them, and another PNG has a row of
    samples for each.

    Args:
        workdir: of a training run.
        labels: classes to draw, of a model that was trained with them.
        num_images: samples, of each label where there are any; at most 1,000.
        output: the PNG; canvas.png in the workdir if not given, or canvas_by_label.png with
            labels. The other files lie beside it.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        seed: of the samples.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Returns:
        The paths of the pictures.

    Raises:
        InputError: num_images out of range, a model without canvas, labels that it does not know, a
            picture that cannot be written, or anything wrong with the run.

    Source: Griesemer 2017, figures 8 and 9.
    """
    check_pictured(num_images)
    check_seeds(seed=seed)
    check_picture(output)
    run = open_run(workdir, data_dir, step, experiment)
    labels = _checked_labels(run, labels)
    name = "canvas_by_label.png" if labels else "canvas.png"
    path = epath.Path(output) if output else run.workdir / name
    check_writable(path)
    rows = np.repeat(labels, num_images) if labels else None
    count = len(labels or (0,)) * num_images
    if jax.eval_shape(lambda: draw(run, count, rows, seed)).canvases is None:
        raise InputError(
            f"{run.workdir}: {run.experiment.name} has no canvas, expected a recurrent writer"
        )
    canvases = np.asarray(draw(run, count, rows, seed).canvases)
    animation = path.with_suffix(".gif")
    written = [path, animation]
    save_figure(unrolled(canvases[:, ::num_images] if labels else canvases, labels), path)
    save_animation([plots.tile(frame, num_images) for frame in canvases], animation)
    if labels:
        written.append(path.with_name(f"{path.stem}_samples.png"))
        by_label = canvases[-1].reshape(len(labels), num_images, *canvases.shape[2:])
        names = range(1, num_images + 1)
        save_figure(plots.grid(by_label, labels, names, "label", "sample"), written[-1])
    for one in written:
        print(one)
    return written


def draw(run: Run, num_images: int, labels: np.ndarray | None, seed: int) -> Generated:
    """Samples of the prior, with the canvas after every step."""
    key = training.stream(seed, "samples")
    chosen = {} if labels is None else {"labels": jnp.asarray(labels, jnp.int32)}

    @jax.jit
    def found(variables: Variables, chosen: dict[str, Array]) -> Generated:
        return sampling.generate(run.model, variables, key, num_images, **chosen)

    return found(run.variables, chosen)


def unrolled(canvases: np.ndarray, labels: tuple[int, ...]) -> "Figure":
    """A row for each sample of `[T, B, H, W, C]`, from the first step to the last."""
    steps, count = canvases.shape[:2]
    shown = np.unique(np.linspace(0, steps - 1, min(steps, MOST_COLUMNS)).round().astype(int))
    names = labels or range(1, count + 1)
    of_rows = "label" if labels else "sample"
    return plots.grid(canvases[shown].swapaxes(0, 1), names, shown + 1, of_rows, "steps")


def _checked_labels(run: Run, labels: tuple[int, ...] | None) -> tuple[int, ...]:
    run.check_reads_no_context()
    if labels is None:
        return ()
    if not labels:
        raise InputError("--labels: found none, expected at least one")
    classes = getattr(run.model, "num_classes", 0)
    if not classes:
        found = " ".join(map(str, labels))
        raise InputError(
            f"--labels: found {found}, but {run.experiment.name} was trained without, expected none"
        )
    for label in labels:
        if label not in range(classes):
            raise InputError(f"--labels: found {label}, expected 0 to {classes - 1}")
    return labels
