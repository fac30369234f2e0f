"""What a step of variational memory addressing costs: with skips and without, hard and soft.

    python -m benchmarks.addressing

- `recall`: a step of vma_recall, with the decoder's skips and without.
- `memory`: a step of hard addressing and of soft attention over the number of entries.
- `learned`: the same of a learned memory whose entries have keys of their own, its hard addresses
  found by one softmax and in blocks, and the matrix products of the hard step alone.

Images are random bits of the sizes that the data sets have, so no folder is needed; what a step
costs does not depend on them. Everything is compiled and warm before it is timed, rounds of what is
compared alternate, and the median is taken. Results go to results/benchmarks.json; `python -m eval
tables` draws the curves.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

from etils import epath

from benchmarks.timing import (
    alternate,
    check_one_device,
    check_rounds,
    enough_memory,
    random_bits,
    record,
    rounded,
    rows,
    run,
    say,
)
from benchmarks.training import Epochs
from eval import records
from eval.options import check_at_least, check_some
from eval.records import Record
from eval.text import columns
from memjax import backend, configs
from memjax.config import Experiment
from memjax.data import Episodes
from memjax.errors import InputError
from memjax.objectives import Pathwise

Part = Literal["recall", "memory", "learned"]
Kind = Literal["convolutional", "dense"]
SIZES = (16, 32, 48, 64, 128, 256, 512, 1024, 2500)
LEARNED_SIZES = (16, 64, 256, 1024, 4096, 16_384, 65_536)
# A draw reads a block: with S = 1,024 that takes longer than all else over 4,096 entries.
BLOCK_SIZE = 128
CURVES = "step_seconds_by_memory"


def recall(rounds: int) -> list[Record]:
    """A step of vma_recall with and without skips, on as many images as binarized_mnist has."""
    base, dataset = configs.get("vma_recall"), random_bits(1, 50_000, 28)
    without = dataclasses.replace(base, model=dataclasses.replace(base.model, skips=False))
    timed = [Epochs(one, dataset) for one in (base, without)]
    say("recall")
    found = alternate([one.seconds for one in timed], rounds)
    return [
        record(one, "step_seconds", times)
        for one, times in zip((base, without), found, strict=True)
    ]


def over_memory(kind: Kind, sizes: Sequence[int], rounds: int) -> list[Record]:
    """A step of hard addressing and of soft attention, over the number of entries.

    32 targets of 26x26 pixels, four classes. K is 4 for hard addressing and 1 for soft, as in
    Bornschein et al. 2017, section 4.2, whose hard addressing is faster from 48 entries on.
    """
    found: dict[str, list[float]] = {}
    last: dict[str, Experiment] = {}
    for size in sizes:
        backend.forget_programs()
        with enough_memory("sizes", size):
            dataset = random_bits(4, size // 4 + 8, 26)
            compared = {name: Epochs(one, dataset, 1) for name, one in variants(kind, size).items()}
            say(f"{kind} {size}")
            times = alternate([one.seconds for one in compared.values()], rounds)
        for (name, one), seconds in zip(compared.items(), times, strict=True):
            found.setdefault(name, []).append(statistics.median(seconds))
            last[name] = one.experiment
    made = []
    for name, seconds in found.items():
        # Entries are what the curve is over.
        sampler = dataclasses.replace(
            last[name].sampler, shots=configs.get("vma_few_shot").sampler.shots
        )
        experiment = dataclasses.replace(last[name], sampler=sampler)
        made.append(_curve(experiment, f"{kind}, {name}", sizes, seconds, rounds))
    return made


def over_learned(sizes: Sequence[int], rounds: int) -> list[Record]:
    """A step of vma_learned_mnist over the number of entries, hard and soft, K as `over_memory`."""
    dataset, found = random_bits(1, 10_000, 28), dict[str, dict[int, float]]()
    for size in sizes:
        backend.forget_programs()
        with enough_memory("learned_sizes", size):
            compared = {name: Epochs(one, dataset, 1) for name, one in learned(size).items()}
            say(f"learned {size}")
            timed = {name: one.seconds for name, one in compared.items()}
            timed["products of hard"] = compared["hard"].limit().seconds
            times = alternate(list(timed.values()), rounds)
        for name, seconds in zip(timed, times, strict=True):
            found.setdefault(name, {})[size] = statistics.median(seconds)
    # Entries are what the curve is over.
    experiments = learned(configs.get("vma_learned_mnist").model.memory_size)
    return [
        _curve(
            experiments.get(name, experiments["hard"]),
            f"learned, {name}",
            tuple(seconds),
            tuple(seconds.values()),
            rounds,
        )
        for name, seconds in found.items()
    ]


def learned(size: int) -> dict[str, Experiment]:
    """Addressing of a learned memory of `size` entries: hard, in blocks if several, and soft."""
    base = configs.get("vma_learned_mnist")
    hard = dataclasses.replace(base.model, memory_size=size, embeddings="learned")
    soft = dataclasses.replace(hard, addressing="soft", blended="pixels")
    made = {"hard": dataclasses.replace(base, model=hard)}
    if size > BLOCK_SIZE:
        blocks = dataclasses.replace(hard, block_size=BLOCK_SIZE)
        made[f"hard in blocks of {BLOCK_SIZE}"] = dataclasses.replace(base, model=blocks)
    made["soft"] = dataclasses.replace(base, model=soft, objective=Pathwise())
    return made


def _curve(
    experiment: Experiment, name: str, sizes: Sequence[int], seconds: Sequence[float], rounds: int
) -> Record:
    curve = record(experiment, CURVES, [0.0] * rounds)
    protocol = {**curve.protocol, "curve": name}
    x, values = [float(size) for size in sizes], [rounded(value) for value in seconds]
    return dataclasses.replace(curve, value=None, protocol=protocol, x=x, values=values)


def variants(kind: Kind, size: int) -> dict[str, Experiment]:
    """What the curves compare, with `size` entries in memory."""
    sampler = Episodes(ways=4, shots=size // 4)
    fields = configs.get("vma_recall").model if kind == "dense" else None
    made = {}
    for name, experiment, blended in (
        ("hard", "vma_few_shot", "features"),
        ("soft features", "soft_few_shot", "features"),
        ("soft pixels", "soft_few_shot", "pixels"),
    ):
        base = configs.get(experiment)
        changed: dict[str, Any] = {"maps": (32,) * 6, "blended": blended}
        if fields is not None:
            changed = {"kind": "dense", "hidden": fields.hidden, "latent": fields.latent, **changed}
        model = dataclasses.replace(base.model, **changed)
        made[name] = dataclasses.replace(base, model=model, sampler=sampler)
    return made


def main(
    parts: tuple[Part, ...] = ("recall", "memory", "learned"),
    rounds: int = 7,
    kinds: tuple[Kind, ...] = ("convolutional", "dense"),
    sizes: tuple[int, ...] = SIZES,
    learned_sizes: tuple[int, ...] = LEARNED_SIZES,
    results: str = "results",
) -> None:
    """Time the steps of variational memory addressing.

    Args:
        parts: what to time.
        rounds: of which the median is taken.
        kinds: of networks, for memory.
        sizes: numbers of entries, multiples of four, for memory.
        learned_sizes: numbers of entries, for learned; above 128 multiples of that.
        results: folder of benchmarks.json.
    """
    check_rounds(rounds)
    check_some(parts=parts, kinds=kinds, sizes=sizes, learned_sizes=learned_sizes)
    for size in sizes:
        check_at_least(4, sizes=size)
        if size % 4:
            raise InputError(f"--sizes: found {size}, expected multiples of four")
    for size in learned_sizes:
        check_at_least(learned_sizes=size)
        if size > BLOCK_SIZE and size % BLOCK_SIZE:
            raise InputError(
                f"--learned-sizes: found {size}, expected at most {BLOCK_SIZE} or a multiple of it"
            )
    path = epath.Path(results) / "benchmarks.json"
    records.check_file(path)
    backend.configure()
    check_one_device()
    timings: dict[Part, Callable[[], list[Record]]] = {
        "recall": lambda: recall(rounds),
        "memory": lambda: [one for kind in kinds for one in over_memory(kind, sizes, rounds)],
        "learned": lambda: over_learned(learned_sizes, rounds),
    }
    for part in parts:
        found = timings[part]()
        records.add(path, found)
        print(columns(rows(found)))


if __name__ == "__main__":
    run(main)
