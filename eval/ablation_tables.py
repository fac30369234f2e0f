"""Choices side by side, over several seeds: what a changed field is worth, from records."""

import math

from .evaluations import DASH, Evaluation, evaluations, name, table, value
from .records import Record

METRIC = "log_likelihood"


def tables(found: list[Record]) -> list[str]:
    """Markdown of a table for each group of runs that differ by their fields alone."""
    groups: dict[str, list[Evaluation]] = {}
    for one in evaluations(found, "likelihood", METRIC, apart=True):
        if len(one[METRIC].seeds) > 1:
            groups.setdefault(_alike(one[METRIC]), []).append(one)
    return [made for group in groups.values() if (made := _table(group))]


def _alike(one: Record) -> str:
    """What the runs of one table have in common."""
    order, seed = one.protocol.get("split_order"), one.protocol.get("binarisation_seed")
    evaluated = (one.num_samples, one.num_images, order, seed, one.protocol.get("precision"))
    return str((one.dataset, one.split, one.epochs, one.seeds, evaluated))


def _table(group: list[Evaluation]) -> str:
    base = _base(group)
    if base is None:
        return ""
    others = [one for one in group if one is not base]
    one = base[METRIC]
    title = (
        f"Choices on {one.dataset}, {one.split} split: log-likelihood in nats (higher is better), "
        f"{one.epochs:,} epochs, {one.num_samples:,} samples, {one.num_images:,} images; standard "
        "errors over images and over seeds, that of a difference over seeds:"
    )
    rows = [_row(other, base) for other in [base, *others]]
    return table(title, ("experiment", "batch norm", "log-likelihood", "difference"), rows)


def _base(group: list[Evaluation]) -> Evaluation | None:
    """The unchanged experiment that most of the others are changes of."""
    names = [one[METRIC].experiment for one in group if _is_other(one[METRIC])]
    unchanged = [
        one for one in group if one[METRIC].experiment in names and not _is_other(one[METRIC])
    ]
    return max(unchanged, key=lambda one: names.count(one[METRIC].experiment), default=None)


def _is_other(one: Record) -> bool:
    return "changed" in one.protocol or one.protocol.get("batch_norm") == "moving_average"


def _row(one: Evaluation, base: Evaluation) -> tuple[str, ...]:
    return (
        name(one[METRIC]),
        str(one[METRIC].protocol.get("batch_norm")),
        value(one, METRIC),
        DASH if one is base else _difference(one[METRIC], base[METRIC]),
    )


def _difference(one: Record, base: Record) -> str:
    """Of two means over the same seeds, whose runs have nothing else in common.

    Models that are the same but for what evaluates them share the error of their seeds, and the
    records do not say what is left of it.
    """
    difference = (one.value or 0.0) - (base.value or 0.0)
    if _trained_alike(one, base):
        return f"{difference:+.2f}"
    error = math.hypot(one.stderr_seeds or 0.0, base.stderr_seeds or 0.0)
    return f"{difference:+.2f} ± {error:.2f}"


def _trained_alike(one: Record, other: Record) -> bool:
    changes = [record.protocol.get("changed") for record in (one, other)]
    return one.experiment == other.experiment and changes[0] == changes[1]
