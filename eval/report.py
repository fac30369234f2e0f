"""A page about one run, or several side by side: curves, results, pictures, configuration."""

import base64
import dataclasses
import importlib.resources
import json
import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import tyro
from etils import epath

from memjax import plots, workdirs
from memjax.config import Reference
from memjax.errors import InputError
from memjax.workdirs import check_writable

from . import records
from .compare import named
from .episodes import as_in_training
from .files import save
from .likelihood import with_statistics
from .memory import picture as picture_of_memory
from .options import check_pictured, check_seeds
from .records import Record
from .run import Run, Step, open_run, trained
from .samples import pictures
from .slots import averaged, panels_disabled, preferences_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("memjax")
# What is drawn over epochs, where a run has it: metrics.jsonl -> what it is called.
BOUNDS = {"iwae_bound": "train", "validation_bound": "valid"}
PARTS = {
    "kl_address": "KL(a)",
    "entropy_prior": "entropy of p(a)",
    "entropy_posterior": "entropy of mean q(a)",
}
REM_PER_INCH = 3.4  # of a figure, at least: text of 10 points is 7.6 pixels high
HEAD = ("metric", "value", "paper", "of", "task", "split", "images", "samples")
# Part of every protocol, or of the configuration below; the rest tells rows apart.
_COMMON = {"split_order", "split_seed", "merge_validation", "image_size", "precision", "changed"}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG in base64 with what it shows.

    Attributes:
        caption: what it shows.
        png: in base64.
        least_width: in rem; a narrower window scrolls, since text would be too small to be read.
    """

    caption: str
    png: str
    least_width: float


@dataclasses.dataclass(frozen=True)
class Section:
    """What the page says of one run."""

    name: str
    summary: str
    results: list[tuple[str, ...]]
    pictures: list[Picture]
    origin: list[tuple[str, str]]
    config: str


def report(
    workdirs: tyro.conf.Positional[tuple[str, ...]],
    output: str = "report.html",
    num_images: int = 64,
    data_dir: str | None = None,
    step: Step = "latest",
    seed: int = 0,
) -> epath.Path:
    """Write a page about runs: one HTML file that needs no other and no network.

    It shows bounds over epochs, results beside the paper's, test images, reconstructions, samples,
    what the memory is used for, and with which code and configuration a run was trained.

    Args:
        workdirs: of training runs, two to compare them.
        output: the HTML file.
        num_images: in each panel, at most 1,000.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint, for the pictures.
        seed: of the pictures.

    Returns:
        The path of the page.

    Raises:
        InputError: no workdirs, a page that is not to be HTML or cannot be written, or anything
            wrong with a run.
    """
    import jinja2

    check_pictured(num_images)
    check_seeds(seed=seed)
    if not workdirs:
        raise InputError("report: found no workdirs, expected at least one")
    if not output.lower().endswith((".html", ".htm")):
        raise InputError(f"--output: found {output}, expected a name that ends in .html")
    path = epath.Path(output)
    check_writable(path)
    runs = [open_run(workdir, data_dir, step) for workdir in workdirs]
    template = importlib.resources.files(__package__).joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        title=", ".join(name for _, name in named(runs)),
        head=HEAD,
        curves=_curves(runs),
        runs=[_section(run, name, num_images, seed) for run, name in named(runs)],
    )
    save(path, page)
    print(path)
    return path


def _section(run: Run, name: str, num_images: int, seed: int) -> Section:
    experiment = run.experiment
    fields = workdirs.load_fields(str(run.workdir))
    return Section(
        name=name,
        summary=f"{_source(experiment.reference)}. "
        f"{experiment.dataset}, seed {experiment.seed}, {run.epochs:g} epochs, {run.step:,} steps.",
        results=results(records.load(run.workdir / workdirs.RESULTS), run.step),
        pictures=_pictures(run, num_images, seed),
        origin=[(name, str(value)) for name, value in (trained(run.workdir) or {}).items()],
        config=json.dumps(fields, indent=2),
    )


def _source(reference: Reference) -> str:
    """The paper and its table; data that no paper has are named alone."""
    return ", ".join(said for said in (reference.paper, reference.table) if said != "-")


def results(found: Iterable[Record], step: int) -> list[tuple[str, ...]]:
    """Rows under `HEAD` of every number that was found at a step."""
    return [
        (
            one.metric,
            _value(one),
            _paper(one),
            ", ".join(f"{k} {v}" for k, v in one.protocol.items() if k not in _COMMON),
            one.task,
            one.split,
            "-" if one.num_images is None else f"{one.num_images:,}",
            "-" if one.num_samples is None else f"{one.num_samples:,}",
        )
        for one in found
        if one.value is not None and one.steps in (step, None)
    ]


def _value(one: Record) -> str:
    error = "" if one.stderr is None else f" ± {one.stderr:.3g}"
    return f"{one.value:.6g}{error}"


def _paper(one: Record) -> str:
    """The published value, and for how long the paper trained where that is known."""
    if one.paper is None:
        return "-"
    epochs = "" if one.paper_epochs is None else f" ({one.paper_epochs:,} epochs)"
    return f"{one.paper:g}{epochs}"


def _curves(runs: list[Run]) -> list[Picture]:
    """Over epochs of all runs: the bound, and what memory has of it."""
    made = []
    for title, metrics, draw in (
        ("bound", BOUNDS, plots.curves),
        ("use of memory", PARTS, plots.lines),
    ):
        lines = {
            f"{name}, {metrics[metric]}" if len(runs) > 1 else metrics[metric]: points
            for run, name in named(runs)
            for metric in metrics
            if (points := _points(run, metric))[0]
        }
        if lines:
            figure = draw(lines, "epoch", f"{title}, nats")
            made.append(_picture(figure, f"{title} over epochs"))
    return made


def _points(run: Run, metric: str) -> tuple[list[float], list[float]]:
    lines = [
        line
        for _, line in workdirs.load_metrics(run.workdir)
        if line["step"] <= run.step and math.isfinite(line.get(metric, math.nan))
    ]
    return [float(line["epoch"]) for line in lines], [float(line[metric]) for line in lines]


def _pictures(run: Run, num_images: int, seed: int) -> list[Picture]:
    run = with_statistics(run, "pass")[0]
    panels = pictures(run, num_images, seed)
    made = [_picture(plots.panels(panels), ", ".join(panels))]
    if getattr(run.model, "addressing", None) == "hard":
        try:
            draw = as_in_training(run, "test", seed)[0]
        except InputError as error:  # fewer images than a batch
            logger.warning("no picture of the memory of %s: %s", run.workdir, error)
        else:
            caption = "targets with q(a | x) and the entries it prefers; samples that share one"
            made.append(_picture(picture_of_memory(run, draw, "test", seed), caption))
    return made + _pictures_of_slots(run, num_images, seed)


def _pictures_of_slots(run: Run, num_images: int, seed: int) -> list[Picture]:
    """What a memory of slots is for: samples without it, and the classes that prefer which."""
    layers = tuple(i for i, count in enumerate(_slots(run)) if count)
    made = []
    if layers and not run.model.disabled:
        figure = plots.panels(panels_disabled(run, layers, seed, num_images), abreast=2)
        made.append(_picture(figure, "the same samples with the memory whole, and disabled"))
    labels = run.dataset.splits["test"].labels
    if layers and labels is not None:
        found = preferences_of(run, layers, 0, seed, 1000)
        by_class = {layer: averaged(of, labels) for layer, of in found.items()}
        figure = plots.preferences(by_class, [str(one) for one in np.unique(labels)])
        made.append(_picture(figure, "which slots the classes of the test images prefer"))
    return made


def _slots(run: Run) -> tuple[int, ...]:
    found = getattr(run.model, "slots", ())
    return found if isinstance(found, tuple) else ()


def _picture(figure: "Figure", caption: str) -> Picture:
    least_width = round(float(figure.get_size_inches()[0]) * REM_PER_INCH, 2)
    return Picture(caption, base64.b64encode(plots.png(figure)).decode("ascii"), least_width)
