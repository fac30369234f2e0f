"""Where the time of a step goes: matrix products, element-wise operations, sums and copies.

    python -m benchmarks.profiling

The jobs of `python -m benchmarks`, beside their matrix products alone, by what XLA tells
`jax.profiler` of the operations that it runs on a CPU. Seconds on the clock are medians of rounds
that alternate; seconds of a kind are those of its operations added up, of which several may run at
a time. Results go to results/benchmarks.json.
"""

import collections
import dataclasses
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
from etils import epath
from jax.profiler import ProfileData

from benchmarks import jobs, timing
from benchmarks.evaluation import SIZES
from benchmarks.jobs import JOBS, Ours, Steps
from benchmarks.timing import alternate, check_rounds, run, say
from eval import benchmark_tables, records
from eval.records import Record
from eval.text import columns
from memjax import backend, provenance
from memjax.errors import InputError
from memjax.products import Precision

CLOCK, LIMIT, OTHER = "clock", "products alone", "element-wise"
# By the names that XLA gives to its operations and to what it fuses; the first that fits.
KINDS = {
    "products": re.compile("ynn|dot|conv(?!ert)"),
    "sums": re.compile("reduce"),
    "random": re.compile("threefry|rng|shift|random|xor"),
    "copies": re.compile("copy|transpose|slice|concatenate|pad|gather|scatter"),
}
# Operations that consist of others.
OUTER = re.compile("while|call|conditional")
STEPS = SIZES.batch_size  # that are profiled together: an evaluation takes whole batches


def kind_of(name: str) -> str:
    """The kind of an operation of XLA."""
    return next((kind for kind, pattern in KINDS.items() if pattern.search(name)), OTHER)


def seconds_by_kind(timed: Steps) -> dict[str, float]:
    """Seconds of the operations of a step added up, by their kind."""
    found: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            timed.seconds(STEPS)
        # Its types warn on Python 3.13 that they are of no module.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            for path in Path(folder).rglob("*.xplane.pb"):
                for event in _operations(ProfileData.from_file(str(path))):
                    found[kind_of(event.name)] += event.duration_ns * 1e-9 / STEPS
    return dict(found)


def _operations(profile: Any) -> Iterator[Any]:
    """Those that contain no others."""
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if not OUTER.match(event.name) and any(name == "hlo_op" for name, _ in event.stats):
                    yield event


def profile(name: str, precision: Precision, rounds: int) -> list[Record]:
    """A record for each kind of operation of a job, for the clock and for the products alone."""
    say(f"{name} {precision}")
    ours = jobs.make_ours(JOBS[name], precision)
    clock = alternate([ours.seconds, ours.limit().seconds], rounds)
    kinds = {kind: [seconds] for kind, seconds in seconds_by_kind(ours).items()}
    every = {CLOCK: clock[0], LIMIT: clock[1], **kinds}
    return [_record(name, ours, kind, seconds) for kind, seconds in every.items()]


def _record(name: str, ours: Ours, kind: str, seconds: list[float]) -> Record:
    one = timing.record(ours.experiment, benchmark_tables.BY_KIND, seconds)
    said = {"job": name, "kind": kind, "device": provenance.hardware()}
    return dataclasses.replace(one, protocol={**one.protocol, **ours.protocol, **said})


def rows(found: Sequence[Record]) -> list[tuple[str, ...]]:
    """Of a table, in milliseconds: a row for each job and precision."""
    by_job: dict[tuple[str, str], dict[str, float]] = {}
    for one in found:
        key = (str(one.protocol["job"]), str(one.protocol["precision"]))
        by_job.setdefault(key, {})[one.protocol["kind"]] = 1000 * (one.value or 0.0)
    return [
        (*key, *(f"{kinds.get(column, 0.0):.3g}" for column in benchmark_tables.KINDS))
        for key, kinds in by_job.items()
    ]


def main(
    jobs: tuple[str, ...] = tuple(JOBS),
    precisions: tuple[str, ...] = ("float32",),
    rounds: int = 5,
    results: str = "results",
) -> None:
    """Profile the steps of jobs on a CPU.

    Args:
        jobs: of `python -m benchmarks`.
        precisions: of matrix products.
        rounds: of which the medians are taken.
        results: folder of benchmarks.json.
    """
    check_rounds(rounds)
    timing.check_names("jobs", jobs, tuple(JOBS))
    timing.check_names("precisions", precisions, get_args(Precision))
    path = epath.Path(results) / "benchmarks.json"
    records.check_file(path)
    backend.configure()
    timing.check_one_device()
    if (platform := jax.default_backend()) != "cpu":
        raise InputError(f"devices: found {platform}, expected cpu: kinds are told by its names")
    every = []
    for name in jobs:
        for precision in get_args(Precision):
            if precision in precisions:
                found = profile(name, precision, rounds)
                records.add(path, found)
                every += found
    print(columns([("job", "precision", *benchmark_tables.KINDS), *rows(every)]))


if __name__ == "__main__":
    run(main)
