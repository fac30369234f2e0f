"""What a step of variational memory addressing costs: recall, PyTorch's, hard and soft.

    python -m benchmarks.addressing                    the part of PyTorch needs: pip install torch

- `recall`: a step of vma_recall, with the decoder's skips and without.
- `few_shot`: a step of vma_few_shot and of the same model in PyTorch, eager and compiled.
- `memory`: a step of hard addressing and of soft attention over the number of entries.

Images are random bits of the sizes that the data sets have, so no folder is needed; what a step
costs does not depend on them. Everything is compiled and warm before it is timed, rounds of what is
compared alternate, and the median is taken. Results go to results/benchmarks.json; `python -m eval
tables` draws the curves.
"""

import dataclasses
import importlib
import importlib.metadata
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import tyro
from etils import epath

from benchmarks.training import Epochs
from eval import records
from eval.records import Record
from eval.text import columns
from memjax import backend, config, configs
from memjax.config import Experiment
from memjax.data import Dataset, Episodes, Split
from memjax.errors import InputError

Part = Literal["recall", "few_shot", "memory"]
Kind = Literal["convolutional", "dense"]
SIZES = (16, 32, 48, 64, 128, 256, 512, 1024, 2500)
CURVES = "step_seconds_by_memory"
SHORTEST = 0.2  # seconds of a call, which takes as many steps


class Timed:
    """Something whose steps can be timed, and the number of steps that make a call."""

    def __init__(self, seconds: Callable[[int], float]):
        """Find the number of steps, with `seconds` compiled already."""
        self._seconds = seconds
        self._steps = max(1, round(SHORTEST / min(seconds(1), seconds(1))))

    def step(self) -> float:
        """Seconds of a step, the mean of one call."""
        return self._seconds(self._steps) / self._steps


def alternate(seconds: Sequence[Callable[[int], float]], rounds: int) -> list[list[float]]:
    """Seconds of a step of each, round by round: A B A B ..."""
    timed = [Timed(one) for one in seconds]
    found = [[one.step() for one in timed] for _ in range(rounds)]
    return [list(of_one) for of_one in zip(*found, strict=True)]


def random_bits(classes: int, drawings: int, side: int) -> Dataset:
    """A data set `random` of so many classes: images `[classes * drawings, side, side, 1]`."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 2, (classes * drawings, side, side, 1), np.uint8)
    split = Split(images, np.repeat(np.arange(classes, dtype=np.int32), drawings))
    return Dataset("random", {"train": split, "test": split}, maximum=1)


def recall(rounds: int) -> list[Record]:
    """A step of vma_recall with and without skips, on as many images as binarized_mnist has."""
    base, dataset = configs.get("vma_recall"), random_bits(1, 50_000, 28)
    without = dataclasses.replace(base, model=dataclasses.replace(base.model, skips=False))
    timed = [Epochs(one, dataset) for one in (base, without)]
    _say("recall")
    found = alternate([one.seconds for one in timed], rounds)
    return [
        _record(one, "step_seconds", times)
        for one, times in zip((base, without), found, strict=True)
    ]


def few_shot(maps: Sequence[int], rounds: int) -> list[Record]:
    """A step of vma_few_shot with so many maps, and the same in PyTorch.

    Raises:
        InputError: torch is not installed.
    """
    rival = torch_model()
    base, dataset = configs.get("vma_few_shot"), random_bits(964, 20, 26)
    images = dataset.splits["train"].images.reshape(964, 20, 26, 26)
    ours, theirs = [], []
    for number in maps:
        model = dataclasses.replace(base.model, maps=(number,) * len(base.model.maps))
        one = Epochs(dataclasses.replace(base, model=model), dataset)
        ours.append(one)
        theirs += [
            rival.TorchSteps(one.experiment.model, one.params, images, compiled)
            for compiled in (False, True)
        ]
    _say("few_shot")
    found = iter(alternate([one.seconds for one in (*ours, *theirs)], rounds))
    made = [_record(one.experiment, "step_seconds", next(found)) for one in ours]
    for one in ours:
        for how in ("eager", "compiled"):
            record = _record(one.experiment, f"step_seconds_torch_{how}", next(found))
            versions = {**record.versions, "torch": importlib.metadata.version("torch")}
            made.append(dataclasses.replace(record, versions=versions))
    return made


def torch_model() -> Any:
    """The module `benchmarks.torch_vma`.

    Raises:
        InputError: torch is not installed.
    """
    try:
        return importlib.import_module("benchmarks.torch_vma")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            "torch: not installed, expected it for few_shot: pip install torch"
        ) from None


def over_memory(kind: Kind, sizes: Sequence[int], rounds: int) -> list[Record]:
    """A step of hard addressing and of soft attention, over the number of entries.

    32 targets of 26x26 pixels, four classes. K is 4 for hard addressing and 1 for soft, as in
    Bornschein et al. 2017, section 4.2, whose hard addressing is faster from 48 entries on.
    """
    found: dict[str, list[float]] = {}
    last: dict[str, Experiment] = {}
    for size in sizes:
        dataset = random_bits(4, size // 4 + 8, 26)
        compared = {name: Epochs(one, dataset, 1) for name, one in variants(kind, size).items()}
        _say(f"{kind} {size}")
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
        record = _record(dataclasses.replace(last[name], sampler=sampler), CURVES, [0.0] * rounds)
        protocol = {**record.protocol, "curve": f"{kind}, {name}"}
        x, values = [float(size) for size in sizes], [_rounded(value) for value in seconds]
        made.append(dataclasses.replace(record, value=None, protocol=protocol, x=x, values=values))
    return made


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


def _record(experiment: Experiment, metric: str, seconds: list[float]) -> Record:
    changed = config.changed_fields(experiment, configs.get(experiment.name))
    return Record(
        experiment=experiment.name,
        task="benchmark",
        dataset="random",
        split="train",
        metric=metric,
        value=_rounded(statistics.median(seconds)),
        protocol={
            "rounds": len(seconds),
            "precision": experiment.train.precision,
            "num_samples": experiment.objective.num_samples,
            "batch_size": experiment.train.batch_size,
            **({"changed": changed} if changed else {}),
        },
        x=list(range(len(seconds))),
        values=[_rounded(value) for value in seconds],
        **records.here(),
    )


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _say(what: str) -> None:
    print(f"timing {what}", file=sys.stderr, flush=True)


def main(
    parts: tuple[Part, ...] = ("recall", "few_shot", "memory"),
    rounds: int = 7,
    maps: tuple[int, ...] = (32, 64),
    kinds: tuple[Kind, ...] = ("convolutional", "dense"),
    sizes: tuple[int, ...] = SIZES,
    results: str = "results",
) -> None:
    """Time the steps of variational memory addressing.

    Args:
        parts: what to time.
        rounds: of which the median is taken.
        maps: of the convolutions of few_shot.
        kinds: of networks, for memory.
        sizes: numbers of entries, multiples of four, for memory.
        results: folder of benchmarks.json.
    """
    backend.configure()
    timings: dict[Part, Callable[[], list[Record]]] = {
        "few_shot": lambda: few_shot(maps, rounds),
        "recall": lambda: recall(rounds),
        "memory": lambda: [one for kind in kinds for one in over_memory(kind, sizes, rounds)],
    }
    for part in parts:
        found = timings[part]()
        records.add(epath.Path(results) / "benchmarks.json", found)
        print(columns(_rows(found)))


def _rows(found: list[Record]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("experiment", "what", "changed", "median", "all, ms")]
    for one in found:
        every = " ".join(f"{1000 * value:.3g}" for value in one.values or [])
        median = "-" if one.value is None else f"{1000 * one.value:.3g} ms"
        what, changed = one.protocol.get("curve", one.metric), one.protocol.get("changed", "-")
        rows.append((one.experiment, what, str(changed), median, every))
    return rows


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
