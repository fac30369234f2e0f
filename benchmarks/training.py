"""How long an epoch takes, how long until the first step, and what more seeds cost.

    python -m benchmarks.training --data-dir DIR

- `epochs`: of the experiments.
- `start`: a new process with an empty cache of prepared data, up to the checkpoint after its first
  step; without a cache of compiled programs (JAX_COMPILATION_CACHE_DIR), and with one that is
  filled.
- `seeds`: a step of several seeds together, beside one of a single seed, on random images.

Rounds of what is compared alternate and the median is taken, since machines are noisy. Results go
to results/benchmarks.json.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from benchmarks import limit, timing
from benchmarks.limit import Limit
from benchmarks.timing import alternate, check_one_device, check_rounds, random_bits, run
from eval import records
from eval.options import check_at_least, check_some
from eval.records import Record
from eval.text import columns
from memjax import backend, configs, data, huge_pages, training
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.errors import InputError, WriteError
from memjax.types import Array
from train import devices
from train.devices import RunState
from train.replicas import stacked
from train.runner import fit_to_data

COMPILED = "JAX_COMPILATION_CACHE_DIR"
# What a new process runs; what it cannot use it says in one line, as `python -m train` would.
PROGRAM = """
import sys, train
from memjax.errors import exit_code_of
def main():
    train.run({name!r}, "run", data_dir={data_dir!r}, stop_at_step=1)
    return 0
sys.exit(exit_code_of(main))
"""
Part = Literal["epochs", "start", "seeds"]


class Epochs:
    """An experiment compiled and warm, of one seed or several, whose epochs can be timed."""

    def __init__(self, base: Experiment, dataset: Dataset, warm_up: int = 10):
        """Compile, take `warm_up` steps."""
        self.experiment = experiment = fit_to_data(base, dataset)
        split, batch_size = dataset.splits["train"], experiment.train.batch_size
        sampler = experiment.sampler
        self.steps = sampler.steps_per_epoch(len(split), batch_size)
        used = devices.choose(batch_size)
        optimizer = training.make_optimizer(
            **dataclasses.asdict(experiment.optimizer), steps_per_epoch=self.steps
        )
        step = devices.make_step(experiment, optimizer, used)
        batch = devices.blank_batch(experiment, split, dataset.maximum, len(used))
        seeds = range(experiment.seed, experiment.seed + experiment.train.num_seeds)
        several = len(seeds) > 1

        @jax.jit
        def initial(seed: Array) -> RunState:
            state = training.create_state(experiment.model, optimizer, batch, seed)
            return devices.initial_run_state(experiment.model, experiment.objective, state, batch)

        self._state = devices.replicate(stacked([initial(jnp.uint32(s)) for s in seeds]), used)
        self._dataset, self._step, self._batch = dataset, step, batch
        self._call = devices.make_call(experiment, step, dataset.maximum, used, several)
        self._source = devices.Source.of(experiment, split, used)
        plans = [sampler.plan(one, 0, len(split), batch_size) for one in seeds]
        self._plan = np.stack(plans) if several else plans[0]
        self.seconds(warm_up)

    @classmethod
    def of(cls, name: str, data_dir: str | None) -> "Epochs":
        """Load the data of a named experiment."""
        base = configs.get(name)
        merge = base.data.merge_validation
        return cls(base, data.load(base.dataset, data_dir, merge_validation=merge))

    @property
    def params(self) -> Any:
        """The model's parameters as they are now, in arrays of numpy."""
        return jax.device_get(self._state.train.params)

    @property
    def protocol(self) -> dict[str, Any]:
        """What a record says of a step, beside its experiment."""
        return {}

    def limit(self) -> Limit:
        """The matrix products of a step alone, of one seed on one device."""
        return Limit(limit.products(self._step, self._state.train, self._batch))

    def in_torch(self, module: Any, how: Any) -> Any:
        """Training from the same parameters on, by `training` of a module of the benchmarks."""
        return module.training(self.experiment, self.params, self._dataset, how)

    def seconds(self, count: int) -> float:
        """Take `count` steps; returns how long they took.

        They are one call, from the first row of the plan on. A fast device takes more of them in a
        call than the plan has rows: jax clamps an index, so that those beyond it take the last row
        again, which costs as much as any other.
        """
        started = time.monotonic()
        place = (jnp.int32(0), jnp.int32(0), jnp.int32(count))
        self._state = self._call(self._state, self._source, self._plan, *place)
        jax.block_until_ready(self._state)
        return time.monotonic() - started


def epoch_seconds(names: tuple[str, ...], rounds: int, data_dir: str | None) -> list[Record]:
    """Median seconds of an epoch of each experiment, their epochs alternating."""
    timed = [Epochs.of(name, data_dir) for name in names]
    seconds = [[one.seconds(one.steps) for one in timed] for _ in range(rounds)]
    return [
        _record(one.experiment.name, one.experiment.dataset, "epoch_seconds", list(found))
        for one, found in zip(timed, zip(*seconds, strict=True), strict=True)
    ]


def start_seconds(name: str, rounds: int, data_dir: str | None) -> list[Record]:
    """Median seconds of `start` without a compilation cache and with a filled one, alternating."""
    with tempfile.TemporaryDirectory() as compiled:
        start(name, data_dir, compiled)
        caches = {"start_seconds": None, "start_seconds_warm": compiled}
        seconds = [
            [start(name, data_dir, cache) for cache in caches.values()] for _ in range(rounds)
        ]
    return [
        _record(name, configs.get(name).dataset, metric, list(found))
        for metric, found in zip(caches, zip(*seconds, strict=True), strict=True)
    ]


def start(name: str, data_dir: str | None, compiled: str | None) -> float:
    """Seconds from the start of a process to the checkpoint after its first step, where it ends.

    Args:
        name: of an experiment.
        data_dir: folder with <dataset>.npz files; the cache of prepared data is empty.
        compiled: folder of jax's compilation cache, if there is to be one.

    Raises:
        InputError: what the process cannot use, such as data that are not there.
        WriteError: what it cannot write.
    """
    program = PROGRAM.format(name=name, data_dir=data_dir)
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **{key: of for key, of in os.environ.items() if key != COMPILED},
            **({COMPILED: compiled} if compiled else {}),
            "MEMJAX_CACHE_DIR": f"{folder}/cache",
            "PYTHONPATH": str(Path.cwd()),
        }
        said, command = Path(folder, "said"), [sys.executable, "-c", program]
        with said.open("w") as file:
            started = time.monotonic()
            ended = subprocess.run(command, cwd=folder, env=environment, stderr=file)
            seconds = time.monotonic() - started
        _check_ended(ended, said.read_text(errors="replace"))
    return seconds


def _check_ended(ended: subprocess.CompletedProcess, said: str) -> None:
    """Raise the error that a process has said in its last line; pass on what else it has said."""
    *before, last = said.splitlines() or [""]
    kinds: dict[int, type[Exception]] = {2: InputError, 1: WriteError}
    if ended.returncode in kinds and last.startswith("error: "):
        print("".join(f"{line}\n" for line in before), end="", file=sys.stderr)
        raise kinds[ended.returncode](last.removeprefix("error: "))
    print(said, end="", file=sys.stderr)
    ended.check_returncode()


def seeds_seconds(name: str, num_seeds: int, rounds: int) -> list[Record]:
    """Median seconds of a step over the number of seeds: one, and several, alternating."""
    base, dataset = configs.get(name), random_bits(1, 10_000, 28)
    timed = [
        Epochs(
            dataclasses.replace(base, train=dataclasses.replace(base.train, num_seeds=n)), dataset
        )
        for n in (1, num_seeds)
    ]
    # As long as a call of training: the states are copied in each.
    found = alternate([one.seconds for one in timed], rounds, base.train.call_seconds / 2)
    medians = [timing.rounded(statistics.median(seconds)) for seconds in found]
    one = timing.record(timed[0].experiment, "step_seconds_by_seeds", found[0])
    return [dataclasses.replace(one, value=None, x=[1.0, float(num_seeds)], values=medians)]


def _record(experiment: str, dataset: str, metric: str, seconds: list[float]) -> Record:
    return Record(
        experiment=experiment,
        task="benchmark",
        dataset=dataset,
        split="train",
        metric=metric,
        value=round(statistics.median(seconds), 2),
        protocol={
            "rounds": len(seconds),
            "precision": "float32",
            **({"huge_pages": True} if huge_pages.in_use() else {}),
        },
        x=list(range(len(seconds))),
        values=[round(value, 2) for value in seconds],
        **records.here(),
    )


def main(
    parts: tuple[Part, ...] = ("epochs", "start", "seeds"),
    experiments: tuple[str, ...] = ("vae_mnist", "mem_vae_mnist"),
    rounds: int = 5,
    num_seeds: int = 3,
    data_dir: str | None = None,
    results: str = "results",
) -> None:
    """Time epochs, the start of training, and several seeds together.

    Args:
        parts: what to measure.
        experiments: whose epochs alternate; the first one's start is timed, the last one's seeds.
        rounds: of which the median is taken.
        num_seeds: that are trained together.
        data_dir: folder with <dataset>.npz files.
        results: folder of benchmarks.json.
    """
    check_rounds(rounds)
    check_some(parts=parts, experiments=experiments)
    for name in experiments:
        configs.get(name)
    check_at_least(2, num_seeds=num_seeds)
    path = epath.Path(results) / "benchmarks.json"
    records.check_file(path)
    backend.configure()
    backend.check_devices()
    if "seeds" in parts:
        check_one_device()
    folder = None if data_dir is None else str(epath.Path(data_dir).resolve())
    measured: dict[Part, Callable[[], list[Record]]] = {
        "epochs": lambda: epoch_seconds(experiments, rounds, folder),
        "start": lambda: start_seconds(experiments[0], rounds, folder),
        "seeds": lambda: seeds_seconds(experiments[-1], num_seeds, rounds),
    }
    rows = [("experiment", "metric", "median", "all")]
    for part in parts:
        found = measured[part]()
        records.add(path, found)
        for one in found:
            every = " ".join(f"{value:.3g}" for value in one.values or [])
            median = "-" if one.value is None else f"{one.value:.3g} s"
            rows.append((one.experiment, one.metric, median, every))
    print(columns(rows))


if __name__ == "__main__":
    run(main)
