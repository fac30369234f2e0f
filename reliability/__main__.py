"""Show what is promised of crashes.

    python -m reliability [--parts kills pairs memory evaluation hostile] [--kills 20]
                          [--pair-kills 4] [--seed 0]

- `kills`: training that is killed at any moment loses nothing, and ends in the same bits.
- `pairs`: where one of two processes that train together is killed, the other ends, and the pair
  goes on in the same bits.
- `memory`: the memory of a process is flat over 20,000 steps.
- `evaluation`: an evaluation of 100,000 samples that is killed comes to the same number.
- `hostile`: broken inputs are refused in one line.

Figures go to results/reliability.json, each part's with its machine and commit; a part that is run
alone leaves those of the others. The exit code is 1 if something does not hold.
"""

import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro
from etils import epath

from memjax import locks, provenance, workdirs
from memjax.errors import InputError, exit_code_of

from . import evaluation, inputs, kills, memory, pairs
from .parts import Options, Part

PARTS: dict[str, Part] = {
    "kills": kills.PART,
    "pairs": pairs.PART,
    "memory": memory.PART,
    "evaluation": evaluation.PART,
    "hostile": inputs.PART,
}


def reliability(
    parts: tuple[str, ...] = tuple(PARTS),
    kills: int = Options.kills,
    pair_kills: int = Options.pair_kills,
    seed: int = Options.seed,
    output: str = "results/reliability.json",
) -> bool:
    """Measure, and write the figures.

    Args:
        parts: of kills, pairs, memory, evaluation, hostile.
        kills: of a process that trains.
        pair_kills: of one of two processes that train together.
        seed: from which the moments of the kills are drawn.
        output: the file of the figures.

    Returns:
        Whether everything holds.

    Raises:
        InputError: an unknown part, a number below 1, or a file that holds something else or
            cannot be written.
    """
    for name in parts:
        if name not in PARTS:
            raise InputError(f"--parts: found {name}, expected some of {', '.join(PARTS)}")
    for option, value in (("kills", kills), ("pair-kills", pair_kills)):
        if value < 1:
            raise InputError(f"--{option}: found {value}, expected at least 1")
    if seed < 0:
        raise InputError(f"--seed: found {seed}, expected at least 0")
    load(epath.Path(output))  # before the work rather than after it
    workdirs.check_writable(epath.Path(output))
    options, all_hold = Options(kills, pair_kills, seed), True
    for name in parts:
        print(name, file=sys.stderr, flush=True)
        origin, started = provenance.describe(), time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix=f"memjax-{name}-") as folder:
                figures = PARTS[name].measure(options, Path(folder))
        except RuntimeError as error:  # a program that fails or hangs where none should
            print(f"{name}: DOES NOT HOLD: {error}", flush=True)
            all_hold = False
            continue
        seconds = round(time.monotonic() - started, 1)
        add(epath.Path(output), name, {**figures, "seconds": seconds, **origin})
        hold = PARTS[name].holds(figures)
        said = ", ".join(f"{key} {value}" for key, value in figures.items())
        print(f"{name}: {'holds' if hold else 'DOES NOT HOLD'}: {said}", flush=True)
        all_hold &= hold
    return all_hold


def load(path: epath.Path) -> dict[str, Any]:
    """The figures of each part, none if there is no file.

    Raises:
        InputError: it holds something else.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(found, dict) and all(isinstance(of, dict) for of in found.values())):
            raise TypeError(f"found {type(found).__name__}")
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"{path}: expected the JSON of `python -m reliability` ({error})"
        ) from error
    return found


def add(path: epath.Path, name: str, figures: dict[str, Any]) -> None:
    """Replace the figures of one part, and leave those of the others.

    Raises:
        InputError: the file holds something else.
        WriteError: it cannot be written.
    """
    locks.update(path, lambda: {**load(path), name: figures})


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.getLogger("memjax").addHandler(logging.StreamHandler())
    return exit_code_of(lambda: int(not tyro.cli(reliability, args=argv, description=__doc__)))


if __name__ == "__main__":
    sys.exit(main())
