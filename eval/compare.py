"""Several runs side by side: a table and a picture."""

import numpy as np
import tyro
from etils import epath

from memjax import plots
from memjax.data.files import Npz, describe
from memjax.errors import InputError
from memjax.workdirs import RESULTS, check_writable

from . import records
from .files import save_figure
from .likelihood import file_name, with_statistics
from .options import check_picture
from .parameters import count
from .records import Record
from .run import Run, Step, check_same_images, open_run
from .samples import pictures
from .text import columns


def compare(
    workdirs: tyro.conf.Positional[tuple[str, ...]],
    output: str = "comparison.png",
    num_images: int = 64,
    data_dir: str | None = None,
    step: Step = "latest",
    draws: bool = False,
) -> str:
    """Print a table of runs that `likelihood` has evaluated, and draw what they generate.

    `difference` is the mean over the same images of a run's log p(x) less that of the first.

    Args:
        workdirs: of training runs on the same data set.
        output: the PNG.
        num_images: in each panel, at most 1,000.
        data_dir: folder with <dataset>.npz files.
        step: of the models in the picture.
        draws: of p(x | z) too, in a panel beside the samples' means.

    Returns:
        The table.

    Raises:
        InputError: no workdirs, one without a likelihood, runs on different data, or a picture that
            cannot be written.
    """
    if not workdirs:
        raise InputError("compare: found no workdirs, expected at least one")
    check_picture(output)
    path = epath.Path(output)
    check_writable(path)
    runs = [open_run(workdir, data_dir, step) for workdir in workdirs]
    for run in runs:
        if run.reads_context:
            raise InputError(
                f"{run.workdir}: {run.experiment.name} is given its memory with each batch and has "
                "no log p(x) to compare, expected `eval few-shot --baseline` for it"
            )
    check_same_images(runs)
    first = runs[0]
    table = columns([_HEAD, *(_row(run, first, name) for run, name in named(runs))])
    shown = _panels(runs, num_images, draws)
    # With draws there are too many for one row.
    save_figure(plots.panels(shown, abreast=4 if draws else None), path)
    print(f"{table}\n\npicture: {path}")
    return table


_HEAD = (
    *("experiment", "log p(x), nats", "difference", "images", "samples"),
    *("parameters", "epochs", "training"),
)


def named(runs: list[Run]) -> list[tuple[Run, str]]:
    """Runs by their experiments, or by their folders where an experiment is there twice."""
    names = [run.experiment.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.workdir.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.workdir) for run in runs]
    return list(zip(runs, names, strict=True))


def _row(run: Run, first: Run, name: str) -> tuple[str, ...]:
    found = _likelihood(run)
    error = "" if found.stderr is None else f" ± {found.stderr:.2f}"
    seconds = (found.trained or {}).get("seconds")
    return (
        name,
        f"{found.value:.2f}{error}",
        "-" if run is first else _difference(run, first),
        f"{found.num_images:,}",
        f"{found.num_samples:,}",
        f"{count(run.experiment):,}",
        f"{found.epochs:g}",
        "-" if seconds is None else f"{seconds:.0f} s",
    )


def _difference(run: Run, first: Run) -> str:
    """Mean difference to the first run, image by image, with its standard error."""
    here, there = _likelihood(run), _likelihood(first)
    # The same images: of the same split, binarised alike.
    same = ("binarisation_seed", "split_order", "split_seed", "merge_validation", "images")
    paths = (run.workdir / file_name(here), first.workdir / file_name(there))
    alike = all(here.protocol.get(name) == there.protocol.get(name) for name in same)
    alike = alike and here.num_images == there.num_images
    if not alike or not all(path.exists() for path in paths):
        return "-"
    values = [values_of(path, here.num_images) for path in paths]
    difference = values[0] - values[1]
    error = np.std(difference, ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0
    return f"{difference.mean():+.2f} ± {error:.2f}"


def values_of(path: epath.Path, count: int | None) -> np.ndarray:
    """log p(x) of each image, as `eval likelihood` wrote it."""
    values = Npz(path).array("log_likelihood")
    if values.dtype.kind != "f" or values.shape != (count,) or not np.isfinite(values).all():
        raise InputError(f"{path}: found {describe(values)}, expected {count} log-likelihoods")
    return values.astype(np.float64)


def _likelihood(run: Run) -> Record:
    found = [
        record
        for record in records.load(run.workdir / RESULTS)
        if record.metric == "log_likelihood"
        and record.split == "test"
        and record.steps == run.step
        and record.protocol.get("batch_norm") in ("pass", "none")
        and record.protocol.get("precision") == run.experiment.train.precision
    ]
    if not found:
        raise InputError(
            f"{run.workdir}: has no likelihood of the test split at step {run.step}, "
            f"expected `python -m eval likelihood --workdir {run.workdir}` before"
        )
    return max(found, key=lambda record: (record.num_samples or 0, record.num_images or 0))


def _panels(runs: list[Run], num_images: int, draws: bool) -> dict[str, np.ndarray]:
    panels: dict[str, np.ndarray] = {}
    for run, name in named(runs):
        drawn = pictures(with_statistics(run, "pass")[0], num_images, draws=draws)
        panels.setdefault("test images", drawn["test images"])
        shown = ("reconstructions", "samples", "draws") if draws else ("reconstructions", "samples")
        panels |= {f"{name}: {title}": drawn[title] for title in shown}
    return panels
