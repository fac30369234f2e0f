"""Broken inputs: every one is refused in one line, and nothing is harmed."""

import dataclasses
from pathlib import Path

from tqdm import tqdm

from .parts import Figures, Options, Part


def measure(options: Options, folder: Path) -> Figures:
    """Try the whole corpus; the options do not matter."""
    del options
    from .hostile import try_all

    with tqdm(unit="input") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = try_all(folder, progress)
    # What happened to each that was not refused, and of which kinds they are.
    return dataclasses.asdict(found)


def holds(figures: Figures) -> bool:
    """Whether all were refused, without a crash or a file harmed."""
    refused = figures["bad_inputs_refused"] == figures["bad_inputs"] > 0
    return refused and figures["crashes"] == figures["files_harmed"] == 0


PART = Part(measure, holds)
