"""The tables of results/README.md, and of README.md between its two marks: nothing is typed."""

import dataclasses

from etils import epath

from memjax import configs, plots, workdirs
from memjax.config import Experiment
from memjax.configs import mem_vae
from memjax.errors import InputError

from . import (
    ablation_tables,
    benchmark_tables,
    mem_vae_tables,
    memory_tables,
    protocol_tables,
    records,
    reliability_tables,
    writer_tables,
)
from .evaluations import commit
from .evaluations import name as name_of
from .files import save, save_figure
from .records import Record
from .text import markdown

Variant = tuple[Experiment, str]  # and the order of its split
DASH = "-"
OF_RUNS = ("likelihood", "recall", "few_shot", "classification", "memory")
OF_MODELS = ("imputation", "features", "slots")  # beside the likelihood of the same run
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
AFTER_TRAINING = """A row is filled by the command in it, and then:

```
python -m eval likelihood --workdir DIR
python -m eval record DIR
python -m eval tables --readme README.md
```"""
TITLES = {"mnist": "MNIST", "ocr_letters": "OCR letters"}
# MNIST has an official test set; which OCR letters the papers test on is not known.
SPLIT_ORDERS = {"mnist": ("contiguous",), "ocr_letters": ("contiguous", "random")}


def tables(results: str = "results", readme: str | None = None) -> str:
    """Write <results>/README.md from the records in the folder.

    Args:
        results: the folder.
        readme: a page that shows the first tables too, between its marks.

    Returns:
        What was written to <results>/README.md.

    Raises:
        InputError: no folder, a file in it that holds no records, or one that cannot be written.
    """
    folder = epath.Path(results)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected the folder of `eval record`")
    workdirs.check_writable(folder / "README.md")
    paths = sorted(path for path in folder.glob("*.json") if path.name != reliability_tables.FILE)
    found = [one for path in paths for one in records.load(path)]
    likelihoods = "\n\n".join([*_likelihood_tables(found), AFTER_TRAINING])
    page = "\n\n".join(
        [
            "# Results",
            "Made by `python -m eval tables` from the JSON files of this folder.",
            likelihoods,
            *_draw_curves(found, folder),
            *mem_vae_tables.tables(found),
            *mem_vae_tables.draw(found, folder),
            *ablation_tables.tables(found),
            *memory_tables.tables(found),
            *memory_tables.draw(found, folder),
            *writer_tables.tables(found),
            *writer_tables.draw(found, folder),
            *_open_table(found),
            _batch_norm_table(found),
            *protocol_tables.tables(found),
            *benchmark_tables.tables(found),
            *benchmark_tables.draw(found, folder),
            *reliability_tables.tables(folder),
            _parameters_table(found),
            _runs_table(found),
        ]
    )
    save(folder / "README.md", page + "\n")
    if readme is not None:
        of_others = [
            *mem_vae_tables.tables(found),
            *ablation_tables.tables(found),
            *memory_tables.tables(found, short=True),
            *writer_tables.tables(found),
            *benchmark_tables.short(found),
        ]
        insert(epath.Path(readme), "\n\n".join([likelihoods, *of_others]))
    print(folder / "README.md")
    return page


def insert(path: epath.Path, text: str) -> None:
    """Put text between the marks of a page.

    Raises:
        InputError: no such page, or one without the marks.
    """
    try:
        page = workdirs.read(path) if path.exists() else ""
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected a page of text") from error
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{path}: not found or without its marks, expected {BEGIN} and {END}")
    save(path.resolve(), f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def variants() -> list[Variant]:
    """Every experiment of the first paper's tables, on every split that it is shown for."""
    return [
        (experiment, split_order)
        for experiment in mem_vae.EXPERIMENTS.values()
        for split_order in SPLIT_ORDERS.get(experiment.dataset, ())
    ]


def _tabulated() -> set[str]:
    """Experiments that have rows of their own, run or not."""
    return {experiment.name for experiment, _ in variants()}


def best(found: list[Record], variant: Variant) -> Record | None:
    """The record of the unchanged experiment that trained longest, on most images and samples."""
    return max(_matching(found, variant), key=_effort, default=None)


def _effort(one: Record) -> tuple[float, ...]:
    return (one.epochs or 0, one.num_images or 0, one.num_samples or 0, len(one.seeds))


def _matching(found: list[Record], variant: Variant) -> list[Record]:
    """Log-likelihoods of the unchanged experiment on the test split, by its default statistics."""
    experiment, split_order = variant
    return [
        one
        for one in found
        if one.experiment == experiment.name
        and one.metric == "log_likelihood"
        and one.split == "test"
        and "changed" not in one.protocol
        and one.protocol.get("split_order") == split_order
        and one.protocol.get("batch_norm") in ("pass", "none")
        and one.protocol.get("precision") == experiment.train.precision
    ]


def _name(variant: Variant) -> str:
    experiment, split_order = variant
    return f"`{experiment.name}`" + (", random split" if split_order == "random" else "")


def _likelihood_tables(found: list[Record]) -> list[str]:
    made = []
    for dataset, title in TITLES.items():
        head = ("experiment", "paper", "ours", "epochs: paper", "ours", "samples", "protocol")
        rows: list[tuple[str, ...]] = [head]
        rows += [
            _likelihood_row(variant, best(found, variant), found)
            for variant in variants()
            if variant[0].dataset == dataset
        ]
        made.append(f"Test log-likelihood on {title}, nats (higher is better):\n\n{markdown(rows)}")
    return made


def _likelihood_row(variant: Variant, one: Record | None, found: list[Record]) -> tuple[str, ...]:
    experiment, split_order = variant
    reference = experiment.reference
    paper = DASH if reference.value is None else f"{reference.value:.2f}"
    start = (_name(variant), paper)
    if one is None:
        workdir = f"runs/{experiment.name}"
        command = f"python -m train {experiment.name} --workdir {workdir}"
        if split_order == "random":
            command = f"{command}_random --data.split-order random"
        return (*start, DASH, f"{reference.epochs:,}", DASH, DASH, f"`{command}`")
    return (
        *start,
        _value(one),
        f"{reference.epochs:,}",
        f"{one.epochs:,}",
        _samples(one, reference.num_samples, found),
        _protocol(one),
    )


def _value(one: Record) -> str:
    parts = [f"{one.value:.2f}"]
    if one.stderr is not None:
        parts.append(f"± {one.stderr:.2f} (images)")
    if one.stderr_seeds is not None:
        parts.append(f"± {one.stderr_seeds:.2f} ({len(one.seeds)} seeds)")
    return " ".join(parts)


def _samples(one: Record, published: int, found: list[Record]) -> str:
    """Their number; beside it the paper's, and what fewer gave of the same run and images."""
    said = [] if one.num_samples == published else [f"paper: {published:,}"]
    others = {
        other.num_samples: f"{other.num_samples:,}: {other.value:.2f}"
        for other in found
        if other.num_samples != one.num_samples
        and dataclasses.replace(other, num_samples=one.num_samples).identity == one.identity
    }
    said += [others[number] for number in sorted(others, key=lambda number: number or 0)]
    return f"{one.num_samples:,}" + (f" ({', '.join(said)})" if said else "")


def _protocol(one: Record) -> str:
    said = [f"{one.num_images:,} test images", f"{one.protocol.get('split_order')} split"]
    if one.paper_epochs and one.epochs and one.epochs < one.paper_epochs:
        said.append(f"trained for {one.epochs:,} of {one.paper_epochs:,} epochs")
    return ", ".join(said)


def _draw_curves(found: list[Record], folder: epath.Path) -> list[str]:
    """Draw the bound over epochs of the runs with a row; returns the pictures in Markdown."""
    pictures = []
    for dataset, title in TITLES.items():
        lines: dict[str, tuple[list[float], list[float]]] = {}
        # The validation split where there is one: it shows over-fitting too.
        split = "train" if dataset == "mnist" else "valid"
        for variant in variants():
            if variant[0].dataset != dataset or best(found, variant) is None:
                continue
            curve = _longest_curve(found, variant, split)
            if curve is not None:
                lines[_name(variant).replace("`", "")] = (curve.x or [], curve.values or [])
        if lines:
            name = f"figures/bound_{dataset}.png"
            figure = plots.curves(lines, "epoch", f"bound, {split} split, nats")
            save_figure(figure, folder / name)
            pictures.append(f"![Bound over epochs on {title}, {split} split]({name})")
    return pictures


def _longest_curve(found: list[Record], variant: Variant, split: str) -> Record | None:
    experiment, split_order = variant
    curves = [
        one
        for one in found
        if one.experiment == experiment.name
        and one.task == "training"
        and one.metric == "iwae_bound"
        and one.split == split
        and "changed" not in one.protocol
        and one.protocol.get("split_order") == split_order
    ]
    return max(curves, key=lambda one: one.epochs or 0, default=None)


def _batch_norm_table(found: list[Record]) -> str:
    """The same models with both kinds of batch statistics."""
    rows: list[tuple[str, ...]] = [("experiment", "pass", "moving average", "difference")]
    for variant in variants():
        pairs = [
            (one, other)
            for one in _matching(found, variant)
            if (other := _with_moving_average(found, one)) is not None
        ]
        if pairs:
            one, other = max(pairs, key=lambda pair: _effort(pair[0]))
            difference = (one.value or 0.0) - (other.value or 0.0)
            rows.append(
                (
                    _name(variant),
                    f"{one.value:.3f}",
                    f"{other.value:.3f}",
                    f"{difference:+.3f}",
                )
            )
    return (
        "Batch statistics from one pass over the training set, or the moving averages of "
        f"training, nats:\n\n{markdown(rows)}"
    )


def _with_moving_average(found: list[Record], one: Record) -> Record | None:
    protocol = {**one.protocol, "batch_norm": "moving_average"}
    wanted = dataclasses.replace(one, protocol=protocol).identity
    return next((other for other in found if other.identity == wanted), None)


def _open_table(found: list[Record]) -> list[str]:
    """Experiments of no table above that no evaluation is of, and the command that begins each.

    One that was run with fields changed is still to be run as it is.
    """
    known = {
        one.experiment
        for one in found
        if one.task not in ("benchmark", "training") and "changed" not in one.protocol
    } | _tabulated()
    rows: list[tuple[str, ...]] = [("experiment", "paper", "table", "command")]
    rows += [
        (
            f"`{name}`",
            experiment.reference.paper,
            experiment.reference.table,
            f"`python -m train {name} --workdir runs/{name}`",
        )
        for name, experiment in configs.EXPERIMENTS.items()
        if name not in known
    ]
    return [f"Not run yet as they are:\n\n{markdown(rows)}"] if len(rows) > 1 else []


def _parameters_table(found: list[Record]) -> str:
    rows = [("experiment", "paper", "ours")]
    rows += [
        (f"`{one.experiment}`", f"{one.paper / 1000:,.0f}K", f"{one.value:,.0f}")
        for one in found
        if one.task == "parameters" and one.paper is not None
    ]
    return f"Number of parameters:\n\n{markdown(rows)}"


def _runs_table(found: list[Record]) -> str:
    """Every training that was evaluated; those with rows of the paper's tables come first."""
    head = (
        *("experiment", "seeds", "steps", "trained on", "seconds", "trained at commit"),
        *("evaluated with", "evaluated at commit"),
    )
    of_paper = [one for variant in variants() if (one := best(found, variant)) is not None]
    others = [one for one in found if one.task in (*OF_RUNS, *OF_MODELS)]
    evaluations: dict[tuple[str, int, str, str, str], list[Record]] = {}
    for one in [*of_paper, *others]:
        evaluations.setdefault(_run_key(one), []).append(one)
    first = dict.fromkeys(_run_key(one) for one in of_paper)
    rest = sorted(evaluations.keys() - first.keys())
    rows = [head, *(_run_row(evaluations[key]) for key in [*first, *rest])]
    return f"Where these numbers come from:\n\n{markdown(rows)}"


def _run_key(one: Record) -> tuple[str, int, str, str, str]:
    """A training and what it was evaluated with; all such evaluations of it have one row."""
    trained = (one.trained or {}).get("commit")
    return _run_title(one), one.steps or 0, str(one.seeds), str(trained), _evaluated_with(one)


def _run_title(one: Record) -> str:
    orders = SPLIT_ORDERS.get(one.dataset, ()) if one.experiment in _tabulated() else ()
    order = one.protocol.get("split_order")
    split = f", {order} split" if order in orders[1:] else ""
    return name_of(one) + split + (f", {one.task}" if one.task in OF_MODELS else "")


def _evaluated_with(one: Record) -> str:
    batch_norm, precision = one.protocol.get("batch_norm"), one.protocol.get("precision")
    said = (f"batch norm: {batch_norm or 'none'}", precision, f"jax {one.versions.get('jax')}")
    return ", ".join(filter(None, said))


def _run_row(evaluations: list[Record]) -> tuple[str, ...]:
    one = evaluations[0]
    trained = one.trained or {}
    commits = dict.fromkeys(commit(each.commit, each.dirty) for each in evaluations)
    return (
        _run_title(one),
        ", ".join(map(str, one.seeds)),
        f"{one.steps:,}",
        str(trained.get("hardware", DASH)),
        f"{trained.get('seconds', 0):,.0f}",
        commit(trained.get("commit"), trained.get("dirty")),
        _evaluated_with(one),
        ", ".join(commits),
    )
