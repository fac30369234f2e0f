"""How long an epoch takes, and how long until the first step.

    python -m benchmarks.training --data-dir DIR

Epochs of the experiments alternate and the median is taken, since machines are noisy. The start is
a new process with an empty cache of prepared data, up to its first step and its checkpoint. Both go
to results/benchmarks.json.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from benchmarks.timing import check_rounds, run
from eval import records
from eval.records import Record
from eval.text import columns
from memjax import backend, configs, data, training
from memjax.config import Experiment
from memjax.data import Dataset
from train import devices
from train.runner import fit_to_data


class Epochs:
    """An experiment compiled and warm, whose epochs can be timed."""

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
        state = training.create_state(experiment.model, optimizer, batch, experiment.seed)
        self._state = devices.replicate(devices.initial_run_state(step, state, batch), used)
        self._call = devices.make_call(experiment, step, dataset.maximum, used)
        self._source = devices.Source.of(experiment, split, used)
        self._plan = sampler.plan(experiment.seed, 0, len(split), batch_size)
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

    def seconds(self, count: int) -> float:
        """Take `count` steps; returns how long they took."""
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


def start_seconds(name: str, rounds: int, data_dir: str | None) -> Record:
    """Median seconds from the start of a process to the checkpoint after its first step."""
    program = f"import train; train.run({name!r}, 'run', data_dir={data_dir!r}, stop_at_step=1)"
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                **os.environ,
                "MEMJAX_CACHE_DIR": f"{folder}/cache",
                "PYTHONPATH": str(Path.cwd()),
            }
            started = time.monotonic()
            subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
            seconds.append(time.monotonic() - started)
    return _record(name, configs.get(name).dataset, "start_seconds", seconds)


def _record(experiment: str, dataset: str, metric: str, seconds: list[float]) -> Record:
    return Record(
        experiment=experiment,
        task="benchmark",
        dataset=dataset,
        split="train",
        metric=metric,
        value=round(statistics.median(seconds), 2),
        protocol={"rounds": len(seconds), "precision": "float32"},
        x=list(range(len(seconds))),
        values=[round(value, 2) for value in seconds],
        **records.here(),
    )


def main(
    experiments: tuple[str, ...] = ("vae_mnist", "mem_vae_mnist"),
    rounds: int = 5,
    data_dir: str | None = None,
    results: str = "results",
) -> None:
    """Time epochs and the start of training.

    Args:
        experiments: whose epochs alternate; the first one's start is timed.
        rounds: of which the median is taken.
        data_dir: folder with <dataset>.npz files.
        results: folder of benchmarks.json.
    """
    check_rounds(rounds)
    backend.configure()
    folder = None if data_dir is None else str(epath.Path(data_dir).resolve())
    found = epoch_seconds(experiments, rounds, folder)
    found.append(start_seconds(experiments[0], rounds, folder))
    records.add(epath.Path(results) / "benchmarks.json", found)
    rows = [("experiment", "metric", "median", "all")]
    for one in found:
        every = " ".join(f"{value:.1f}" for value in one.values or [])
        rows.append((one.experiment, one.metric, f"{one.value:.2f} s", every))
    print(columns(rows))


if __name__ == "__main__":
    run(main)
