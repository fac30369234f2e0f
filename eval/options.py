"""Options that several tasks take, checked: from Python no command line has done it before."""

from collections.abc import Sequence
from typing import Any

from memjax.data import Split
from memjax.errors import InputError

from .run import Run

MOST = 2**31 - 1  # that jax counts to
MOST_PICTURED = 1000  # a panel of more is no picture, and may be more than memory holds


def check_at_least(least: int = 1, **numbers: int | None) -> None:
    """Raises InputError for an option below `least`, or beyond what jax counts to.

    None is one that was not given.
    """
    for name, value in numbers.items():
        if value is None:
            continue
        if value < least:
            raise InputError(f"{_option(name)}: found {value}, expected at least {least}")
        if value > MOST:
            raise InputError(f"{_option(name)}: found {value}, expected at most {MOST}")


def check_pictured(num_images: int) -> None:
    """Raises InputError for a number of images that no picture shows."""
    if num_images not in range(1, MOST_PICTURED + 1):
        expected = f"1 to {MOST_PICTURED:,}"
        raise InputError(f"--num-images: found {num_images}, expected {expected}")


def check_some(**lists: Sequence[object]) -> None:
    """Raises InputError for an option that was given without values."""
    for name, values in lists.items():
        if not values:
            raise InputError(f"{_option(name)}: found no values, expected at least one")


def check_seeds(**seeds: int) -> None:
    """Raises InputError for a seed that is no 32-bit number."""
    for name, value in seeds.items():
        if value not in range(2**32):
            raise InputError(f"{_option(name)}: found {value}, expected 0 to {2**32 - 1}")


def check_picture(output: str | None) -> None:
    """Raises InputError for a picture that is not to be a PNG; before the work that it shows."""
    if output is not None and not output.lower().endswith(".png"):
        raise InputError(f"--output: found {output}, expected a name that ends in .png")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises InputError for a value that is not one of the choices."""
    if value not in choices:
        raise InputError(f"{_option(name)}: found {value!r}, expected one of {choices}")


def split_of(run: Run, name: str) -> Split:
    """A split of the run's data.

    Raises:
        InputError: the data set has no such split.
    """
    if name not in run.dataset.splits:
        raise InputError(
            f"--split: {run.dataset.name} has no {name} split in this run, expected one of "
            f"{', '.join(run.dataset.splits)}"
        )
    return run.dataset.splits[name]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
