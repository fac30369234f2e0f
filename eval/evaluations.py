"""Evaluations, and how they are shown: grouped by what was asked for, as the cells of a table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .records import Record
from .text import markdown

DASH = "-"
FEW_EPISODES = 10  # fewer say little of their spread
GAIN, VAE = "nll_gain", "vae_"
# One evaluation: metric -> its record.
Evaluation = Mapping[str, Record]
Line = tuple[list[float], list[float]]


def evaluations(
    found: Iterable[Record], task: str, main: str, apart: bool = False
) -> list[Evaluation]:
    """The evaluations of a task that have a metric, of each the run that was trained longest.

    Of gains on other runs those on a VAE are taken, and of several the newest.

    Args:
        found: records.
        task: of `python -m eval`.
        main: a metric that all of them have.
        apart: whether other numbers of steps, samples or images make another evaluation.
    """
    groups: dict[str, dict[str, Record]] = {}
    for one in found:
        if one.task == task and not _is_gain_on_another(one):
            said = {name: of for name, of in one.protocol.items() if name != "baseline"}
            how = [one.experiment, one.dataset, one.split, said, one.steps]
            key = json.dumps([*how, one.num_samples, one.num_images, one.seeds], sort_keys=True)
            groups.setdefault(key, {})[one.metric] = one
    longest: dict[str, Evaluation] = {}
    for group in groups.values():
        if main in group:
            one = group[main]
            episodes = (one.protocol.get("episodes"), one.protocol.get("num_targets"))
            how = [one.steps, one.num_samples, one.num_images, *episodes] if apart else []
            what = [one.experiment, one.dataset, one.split, _asked(one)]
            key = json.dumps([*what, *how], sort_keys=True)
            if key not in longest or _effort(longest[key][main]) <= _effort(one):
                longest[key] = group
    return list(longest.values())


def _is_gain_on_another(one: Record) -> bool:
    """Whether it is a gain on a run that is no VAE: a baseline may be any other run."""
    return one.metric == GAIN and not str(one.protocol.get("baseline")).startswith(VAE)


def _asked(one: Record) -> dict[str, Any]:
    """What an evaluation was asked for; how thoroughly is not part of it."""
    left_out = ("episodes", "num_targets", "evaluation_seed", "baseline")
    return {name: value for name, value in one.protocol.items() if name not in left_out}


def _effort(one: Record) -> tuple[float, ...]:
    return (one.steps or 0, len(one.seeds), one.num_images or 0, one.num_samples or 0)


def table(title: str, head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    """Markdown of a table under its title; nothing without rows."""
    return f"{title}\n\n{markdown([tuple(head), *rows])}" if rows else ""


def name(one: Record) -> str:
    """The experiment, with the fields in which the run differs from it."""
    changed = ", ".join(
        f"{field.split('.', 1)[-1]} {_short(of)}"
        for field, of in one.protocol.get("changed", {}).items()
    )
    return f"`{one.experiment}`" + (f" ({changed})" if changed else "")


def _short(of: Any) -> str:
    if isinstance(of, list) and len(of) > 1 and len(set(of)) == 1:
        return f"{len(of)}x{of[0]}"
    if isinstance(of, list):
        return " ".join(map(str, of))
    return str(of)


def value(group: Evaluation, metric: str, digits: int = 2, sign: int = 1) -> str:
    """A mean with its standard errors, over images or episodes and over seeds of training."""
    if metric not in group:
        return DASH
    one = group[metric]
    few = one.protocol.get("episodes", FEW_EPISODES) < FEW_EPISODES
    error = "" if one.stderr is None or few else f" ± {one.stderr:.{digits}f}"
    if one.stderr_seeds is not None:
        error += f" ± {one.stderr_seeds:.{digits}f} ({len(one.seeds)} seeds)"
    return f"{sign * (one.value or 0.0):.{digits}f}{error}"


def epochs(one: Record) -> str:
    """Of training; a run that was stopped in the middle of one has a digit more."""
    return f"{one.epochs:,}" if isinstance(one.epochs, int) else f"{one.epochs:,.1f}"


def percent(group: Evaluation, metric: str) -> str:
    """A mean in percent with its 95% interval over episodes."""
    if metric not in group:
        return DASH
    one = group[metric]
    few = one.protocol.get("episodes", FEW_EPISODES) < FEW_EPISODES
    interval = "" if one.stderr is None or few else f" ± {196 * one.stderr:.1f}"
    return f"{100 * (one.value or 0.0):.1f}{interval}%"


def commit(commits: str | None, dirty: bool | None) -> str:
    """Short names of commits, joined by semicolons in records."""
    short = ", ".join(one[:10] for one in (commits or DASH).split("; "))
    return short + (" (changed)" if dirty else "")
