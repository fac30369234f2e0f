"""What the benchmarks of steps share: rounds that alternate, and records of them."""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tyro

from eval import records
from eval.options import check_at_least
from eval.records import Record
from memjax import backend, config, configs, huge_pages
from memjax.config import Experiment
from memjax.data import Dataset, Split
from memjax.errors import InputError, exit_code_of

# Seconds of a call, which takes as many steps: about that of a call in training. In shorter ones
# what XLA does once in a call, as taking its memory from the system, would weigh more than it does.
SHORTEST = 1.0


class Timed:
    """Something whose steps can be timed, and the number of steps that make a call."""

    def __init__(self, seconds: Callable[[int], float], shortest: float | None = None):
        """Find the number of steps, with `seconds` compiled already."""
        self._seconds = seconds
        shortest = SHORTEST if shortest is None else shortest
        self._steps = max(1, round(shortest / min(seconds(1), seconds(1))))

    def step(self) -> float:
        """Seconds of a step, the mean of one call."""
        return self._seconds(self._steps) / self._steps


def alternate(
    seconds: Sequence[Callable[[int], float]], rounds: int, shortest: float | None = None
) -> list[list[float]]:
    """Seconds of a step of each, round by round: A B A B ...; calls take `shortest` seconds."""
    timed = [Timed(one, shortest) for one in seconds]
    found = [[one.step() for one in timed] for _ in range(rounds)]
    return [list(of_one) for of_one in zip(*found, strict=True)]


def random_bits(classes: int, drawings: int, side: int) -> Dataset:
    """A data set `random` of so many classes: images `[classes * drawings, side, side, 1]`."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 2, (classes * drawings, side, side, 1), np.uint8)
    split = Split(images, np.repeat(np.arange(classes, dtype=np.int32), drawings))
    return Dataset("random", {"train": split, "test": split}, maximum=1)


def random_grey(number: int, side: int) -> Dataset:
    """A data set `random` of grey images `[number, side, side, 1]`."""
    images = np.random.default_rng(0).integers(0, 256, (number, side, side, 1), np.uint8)
    split = Split(images)
    return Dataset("random", {"train": split, "test": split}, maximum=255)


def optional(module: str, *libraries: str) -> Any:
    """A module of the benchmarks that needs libraries which memjax does not.

    Raises:
        InputError: one of the libraries is not installed, cannot be imported, or lacks what the
            module imports from it.
    """
    for library in libraries:
        try:
            importlib.import_module(library)
        except Exception as error:  # whatever a broken library ends in
            raise _unusable(library, error) from None
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or _library(error.name) not in map(_library, libraries):
            raise
        raise _unusable(error.name, error) from None


def _library(module: str) -> str:
    return module.partition(".")[0]


def _unusable(module: str, error: Exception) -> InputError:
    library = _library(module)
    missing = isinstance(error, ModuleNotFoundError) and error.name == library
    said = " ".join("".join(traceback.format_exception_only(error)).split())
    found = "not installed" if missing else f"found it broken ({said})"
    return InputError(
        f"{library}: {found}, expected it for the rivals that are written in it: "
        f"pip install {library}, or without them --rivals limit"
    )


def record(experiment: Experiment, metric: str, seconds: list[float]) -> Record:
    """The median of some rounds, of an experiment on random images."""
    changed = config.changed_fields(experiment, configs.get(experiment.name))
    return Record(
        experiment=experiment.name,
        task="benchmark",
        dataset="random",
        split="train",
        metric=metric,
        value=rounded(statistics.median(seconds)),
        protocol={
            "rounds": len(seconds),
            "precision": experiment.train.precision,
            "num_samples": experiment.objective.num_samples,
            "batch_size": experiment.train.batch_size,
            **({"changed": changed} if changed else {}),
            **({"huge_pages": True} if huge_pages.in_use() else {}),
        },
        x=list(range(len(seconds))),
        values=[rounded(value) for value in seconds],
        **records.here(),
    )


def rounded(seconds: float) -> float:
    """To three digits."""
    return float(f"{seconds:.3g}")


def say(what: str) -> None:
    """Show what comes next, since it takes a while."""
    print(f"timing {what}", file=sys.stderr, flush=True)


def with_version(one: Record, library: str) -> Record:
    """The record with the version of another library."""
    versions = {**one.versions, library: importlib.metadata.version(library)}
    return dataclasses.replace(one, versions=versions)


def rows(found: list[Record]) -> list[tuple[str, ...]]:
    """Of a table for the terminal."""
    made: list[tuple[str, ...]] = [("experiment", "what", "changed", "median", "all, ms")]
    for one in found:
        every = " ".join(f"{1000 * value:.3g}" for value in one.values or [])
        median = "-" if one.value is None else f"{1000 * one.value:.3g} ms"
        what, changed = one.protocol.get("curve", one.metric), one.protocol.get("changed", "-")
        made.append((one.experiment, what, str(changed), median, every))
    return made


def check_rounds(rounds: int) -> None:
    """Raises InputError for fewer than one, or more than jax counts to."""
    check_at_least(rounds=rounds)


@contextlib.contextmanager
def enough_memory(option: str, size: int) -> Iterator[None]:
    """Where what an option asks for may be more than memory holds.

    Raises:
        InputError: it is, says numpy or XLA.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        said = f"{error}".partition("\n")[0].rstrip(".")
        if not isinstance(error, MemoryError) and "Out of memory" not in said:
            raise
        name = option.replace("_", "-")
        raise InputError(
            f"--{name}: found {size}, expected fewer, for which there is memory ({said})"
        ) from None


def check_names(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError for an option without values, or with one that is not known."""
    if not given:
        raise InputError(f"--{option}: found none, expected some of {', '.join(known)}")
    for name in given:
        if name not in known:
            raise InputError(f"--{option}: found {name!r}, expected some of {', '.join(known)}")


def check_one_device() -> None:
    """Raises InputError for several: rivals and the machine's limit compute on one."""
    backend.check_devices()
    if (found := jax.device_count()) > 1:
        raise InputError(
            f"devices: found {found}, expected one (CUDA_VISIBLE_DEVICES=0): what is compared "
            "computes on one"
        )


def run(main: Callable[..., None]) -> None:
    """The command line of a benchmark, with the memory that `python -m train` asks for.

    It ends the process with the exit code.
    """
    specification = sys.modules["__main__"].__spec__
    name = "benchmarks" if specification is None else specification.name.removesuffix(".__main__")
    huge_pages.start_anew(name)
    sys.exit(exit_code_of(lambda: tyro.cli(main, prog=name) or 0))
