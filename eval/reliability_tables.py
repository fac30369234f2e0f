"""The table of results/reliability.json: crashes that were tried, and what came of them."""

import json
from typing import Any

from etils import epath

from memjax.errors import InputError

from .evaluations import DASH, commit, table

FILE = "reliability.json"
# What is said of a part, in the words of its figures.
SAID = {
    "kills": "{kills_survived} of {kills} kills of a training survived, {steps_lost} steps taken "
    "again, the same bits at the end: {same_state}",
    "memory": "memory of a training grown by {growth:.2%} over {steps:,} steps, by "
    "{growth_with_saves:.2%} with {saves} saves",
    "evaluation": "{kills_survived} of {kills} kills of an evaluation of {samples:,} samples "
    "survived, the same number: {same_number}",
    "hostile": "{bad_inputs_refused} of {bad_inputs} broken inputs refused, {crashes} crashes, "
    "{files_harmed} files harmed",
    "pairs": "{multiprocess_survived} of {multiprocess_kills} kills of one of two processes "
    "survived, the other ended within {longest_seconds} s, the same bits at the end: {same_state}",
}


def tables(folder: epath.Path) -> list[str]:
    """Markdown of the table, nothing if the file is not there.

    Raises:
        InputError: it holds something else.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(name, figures) for name, figures in found.items()]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{path}: expected the JSON of `python -m reliability`") from error
    return [
        table(
            "What is lost in crashes, by `make reliability`:",
            ("part", "found", "seconds", "hardware", "commit"),
            rows,
        )
    ]


def _row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    said = SAID[name].format_map({key: _word(value) for key, value in figures.items()})
    return (
        f"`{name}`",
        said,
        f"{figures['seconds']:,.0f}",
        str(figures["hardware"] or DASH),
        commit(figures["commit"], figures["dirty"]),
    )


def _word(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
