"""What a part of `python -m reliability` is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        kills: of a process that trains.
        pair_kills: of one of two processes that train together.
        seed: from which the moments of the kills are drawn.
    """

    kills: int = 20
    pair_kills: int = 4
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that is measured, and what it is to come to.

    Attributes:
        measure: from the options and an empty folder to the figures.
        holds: whether the figures are those that were promised.
    """

    measure: Callable[[Options, Path], Figures]
    holds: Callable[[Figures], bool]
