"""Several runs side by side: a table and a picture."""

import numpy as np
import tyro
from etils import epath

from memjax.errors import InputError
from memjax.workdirs import RESULTS

from . import records
from .likelihood import with_statistics
from .parameters import count
from .records import Record
from .run import Run, Step, open_run
from .samples import pictures, save_panels
from .text import columns


def compare(
    workdirs: tyro.conf.Positional[tuple[str, ...]],
    output: str = "comparison.png",
    num_images: int = 64,
    data_dir: str | None = None,
    step: Step = "latest",
) -> str:
    """Print a table of runs that `likelihood` has evaluated, and draw what they generate.

    Args:
        workdirs: of training runs on the same data set.
        output: the PNG.
        num_images: in each panel.
        data_dir: folder with <dataset>.npz files.
        step: of the models in the picture.

    Returns:
        The table.

    Raises:
        InputError: no workdirs, or one without a likelihood.
    """
    if not workdirs:
        raise InputError("compare: found no workdirs, expected at least one")
    runs = [open_run(workdir, data_dir, step) for workdir in workdirs]
    table = columns([_HEAD, *(_row(run) for run in runs)])
    path = epath.Path(output)
    save_panels(_panels(runs, num_images), path)
    print(f"{table}\n\npicture: {path}")
    return table


_HEAD = ("experiment", "log p(x), nats", "images", "samples", "parameters", "epochs", "training")


def _row(run: Run) -> tuple[str, ...]:
    found = _likelihood(run)
    error = "" if found.stderr is None else f" ± {found.stderr:.2f}"
    seconds = (found.trained or {}).get("seconds")
    return (
        run.experiment.name,
        f"{found.value:.2f}{error}",
        f"{found.num_images:,}",
        f"{found.num_samples:,}",
        f"{count(run.experiment):,}",
        f"{found.epochs:g}",
        "-" if seconds is None else f"{seconds:.0f} s",
    )


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


def _panels(runs: list[Run], num_images: int) -> dict[str, np.ndarray]:
    panels: dict[str, np.ndarray] = {}
    for run in runs:
        drawn = pictures(with_statistics(run, "pass")[0], num_images)
        panels.setdefault("test images", drawn["test images"])
        panels[f"{run.experiment.name}: reconstructions"] = drawn["reconstructions"]
        panels[f"{run.experiment.name}: samples"] = drawn["samples"]
    return panels
