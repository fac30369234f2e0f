"""Training steps and evaluations beside their rivals: PyTorch, and the matrix products alone.

    python -m benchmarks                    needs PyTorch: pip install -r requirements-bench.txt

- `torch_eager`, `torch_compile`: the same model in PyTorch, with fused Adam.
- `pythae`: the library's IWAE, and its `get_nll`, of the same networks.
- `limit`: the matrix products and convolutions of ours and nothing else, by XLA.
- `ours_float32`, `limit_float32`: of what computes at a lower precision, itself in float32, and the
  products of that.

A job and its rival alternate, ours, the rival's, ours and so on, after both are compiled and warm;
medians of the rounds are compared. The ratio is the rival's seconds by ours, above 1 where ours are
fewer. A call takes about a second, as in training. Training is timed by the step, an evaluation of
5,000 samples by the image. Both have the same precision, unless the rival's name says otherwise;
that of PyTorch's bfloat16 is its autocast, whose results are bfloat16 where ours are float32.
Results go to results/benchmarks.json after each rival.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

from etils import epath

from benchmarks import jobs, timing, units
from benchmarks.jobs import IN_TORCH, JOBS, PYTHAE, RIVALS, Ours, pythae_module, torch_module
from benchmarks.timing import alternate, rounded, run, say
from eval import records
from eval.records import Record
from eval.text import columns
from memjax import backend, provenance
from memjax.errors import InputError
from memjax.products import Precision

FEWEST = 5  # rounds of a record
ROUNDS = 9  # of five, medians on busy machines differ by a third from one run to another


class Plan(NamedTuple):
    """A job at a precision, and the rivals that it is compared with."""

    job: str
    precision: Precision
    rivals: tuple[str, ...]


def compare(plan: Plan, rounds: int, keep: Callable[[Record], None]) -> list[Record]:
    """Time a job beside each of its rivals.

    Args:
        plan: which.
        rounds: of which the medians are taken.
        keep: called with each record once it is there.

    Raises:
        InputError: see `jobs.make_rival`.
    """
    job, found = JOBS[plan.job], []
    ours = jobs.make_ours(job, plan.precision)
    for rival in plan.rivals:
        say(f"{plan.job} {plan.precision} {rival}")
        theirs = jobs.make_rival(rival, job, ours)
        seconds = alternate([ours.seconds, theirs.seconds], rounds)
        found.append(record(plan.job, rival, ours, *seconds))
        keep(found[-1])
    return found


def record(
    job: str, rival: str, ours: Ours, our_seconds: Sequence[float], their_seconds: Sequence[float]
) -> Record:
    """A job and its rival, by their seconds of a step in each round."""
    pairs = zip(our_seconds, their_seconds, strict=True)
    one = timing.record(ours.experiment, "ratio", [theirs / mine for mine, theirs in pairs])
    medians = statistics.median(our_seconds), statistics.median(their_seconds)
    protocol = {
        **one.protocol,
        **ours.protocol,
        "job": job,
        "rival": rival,
        "device": provenance.hardware(),
        "ours_seconds": rounded(medians[0]),
        "rival_seconds": rounded(medians[1]),
    }
    made = dataclasses.replace(one, value=rounded(medians[1] / medians[0]), protocol=protocol)
    if rival in (*IN_TORCH, PYTHAE):
        made = timing.with_version(made, "torch")
    return timing.with_version(made, PYTHAE) if rival == PYTHAE else made


def rows(found: Sequence[Record]) -> list[tuple[str, ...]]:
    """Of a table for the terminal."""
    head = ("job", "precision", "rival", "ours, ms", "rival, ms", "ratio", "all")
    made: list[tuple[str, ...]] = [head]
    for one in found:
        names = [str(one.protocol[name]) for name in ("job", "precision", "rival")]
        seconds = [one.protocol[f"{whose}_seconds"] for whose in ("ours", "rival")]
        times = [f"{1000 * value:.3g}" for value in seconds]
        every = " ".join(f"{value:.3g}" for value in one.values or [])
        made.append((*names, *times, f"{one.value:.3g}", every))
    return made


def main(
    jobs: tuple[str, ...] = tuple(JOBS),
    rivals: tuple[str, ...] = RIVALS,
    rounds: int = ROUNDS,
    precisions: tuple[str, ...] | None = None,
    trial: bool = False,
    results: str = "results",
) -> None:
    """Time training steps and evaluations beside their rivals.

    Args:
        jobs: what is timed.
        rivals: beside what; a job takes those of them that it has.
        rounds: of which the medians are taken.
        precisions: of matrix products, float32, tensorfloat32 or bfloat16; if not given float32,
            and bfloat16 where the device has units for it.
        trial: take fewer rounds if asked to, and record nothing.
        results: folder of benchmarks.json.
    """
    timing.check_names("jobs", jobs, tuple(JOBS))
    timing.check_names("rivals", rivals, RIVALS)
    if precisions is not None:
        timing.check_names("precisions", precisions, get_args(Precision))
    _check_rounds(rounds, trial)
    path = epath.Path(results) / "benchmarks.json"
    if not trial:
        records.check_file(path)
    backend.configure()
    backend.check_devices()
    plans = plan(jobs, rivals, _precisions(precisions))
    _prepare(plans)
    found = []
    for one in plans:
        found += compare(one, rounds, lambda made: None if trial else records.add(path, [made]))
    print(columns(rows(found)))


def plan(
    names: Sequence[str], rivals: Sequence[str], precisions: Sequence[Precision]
) -> list[Plan]:
    """What is timed, in this order.

    Raises:
        InputError: a job has none of the rivals at these precisions.
    """
    made = []
    for name in names:
        known = {one: jobs.rivals_of(JOBS[name], one) for one in precisions}
        if not any(rival in of_one for of_one in known.values() for rival in rivals):
            raise InputError(
                f"--rivals: found {' '.join(rivals)}, expected for {name} at "
                f"{' '.join(precisions)} some of {', '.join(known[precisions[-1]])}"
            )
        for precision, of_one in known.items():
            made.append(Plan(name, precision, tuple(one for one in rivals if one in of_one)))
    return [one for one in made if one.rivals]


def _precisions(given: Sequence[str] | None) -> tuple[Precision, ...]:
    if given is None:
        return ("float32", "bfloat16") if units.has_bfloat16() else ("float32",)
    if "bfloat16" in given and not units.has_bfloat16():
        raise InputError(
            f"--precisions: found bfloat16, expected another: {provenance.hardware()} has no units "
            "for it"
        )
    return tuple(one for one in get_args(Precision) if one in given)


def _prepare(plans: Sequence[Plan]) -> None:
    """Refuse early what would fail after the first job."""
    timing.check_one_device()
    wanted = {rival for one in plans for rival in one.rivals}
    if wanted & {*IN_TORCH, PYTHAE}:
        torch_module("torch_common").device()
    if PYTHAE in wanted:
        pythae_module()


def _check_rounds(rounds: int, trial: bool) -> None:
    if not trial and rounds < FEWEST:
        raise InputError(
            f"--rounds: found {rounds}, expected at least {FEWEST}, or --trial, which records "
            "nothing"
        )
    timing.check_rounds(rounds)


if __name__ == "__main__":
    run(main)
