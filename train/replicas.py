"""The seeds of a run: each has its own folder, with checkpoints and logs of its own."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from memjax import hosts
from memjax.checkpoint import Checkpoints
from memjax.config import Experiment
from memjax.memory import usage

from .devices import RunState
from .log import Log
from .sessions import Session

logger = logging.getLogger("memjax")


def folders(experiment: Experiment, workdir: str) -> dict[str, Experiment]:
    """Folder -> the experiment of one seed, as it would be trained alone; of one seed the workdir.

    Folders are numbered by their seeds.
    """
    count, first = experiment.train.num_seeds, experiment.seed
    if count == 1:
        return {workdir: experiment}
    alone = dataclasses.replace(
        experiment, train=dataclasses.replace(experiment.train, num_seeds=1)
    )
    return {
        str(epath.Path(workdir) / f"seed_{seed}"): dataclasses.replace(alone, seed=seed)
        for seed in range(first, first + count)
    }


def stacked(states: Sequence[RunState]) -> RunState:
    """States of several seeds as one, along a first axis; that of one seed as it is."""
    if len(states) == 1:
        return states[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


class Replica:
    """One seed of a run. Of several processes all save it, and the first one writes its logs."""

    def __init__(self, experiment: Experiment, workdir: str):
        """Open the checkpoints; the logs are opened once it is known where the run goes on."""
        self.experiment = experiment
        self.workdir = workdir
        self.checkpoints = Checkpoints(workdir)
        self._log: Log | None = None
        self._session: Session | None = None

    def open_logs(self, step: int, total_steps: int, shown: bool) -> None:
        """Open the logs of a run that starts or goes on at `step`."""
        if hosts.is_first():
            self._log = Log(self.workdir, step, total_steps, shown)
            self._session = Session(self.workdir, step)

    def log_progress(self, step: int, bound: float) -> None:
        """Show where the run is; `bound` in nats."""
        if self._log is not None:
            self._log.progress(step, bound)

    def log_metrics(self, state: RunState, step: int, epoch: int, bound: float | None) -> None:
        """Write a line of means since the last one, and the validation bound if there is one."""
        if self._log is None:
            return
        means = {name: np.asarray(a) / int(state.counted) for name, a in state.totals.items()}
        used = usage(means.pop("posterior")) if "posterior" in means else {}
        values = {name: float(mean) for name, mean in means.items()} | used
        if bound is not None:
            values["validation_bound"] = bound
        self._log.metrics(step, epoch, values)

    def log_images(self, step: int, grids: Mapping[str, np.ndarray]) -> None:
        """Show grids of images in TensorBoard."""
        if self._log is not None:
            for name, grid in grids.items():
                self._log.images(step, name, grid)

    def save(self, state: Any, step: int, bound: float | None) -> None:
        """Save a checkpoint, and who has trained it."""
        self.checkpoints.save(hosts.spread(state), step, bound)
        if self._session is not None:
            self._session.saved(step)

    def close(self) -> None:
        """Wait for the checkpoints and flush the logs."""
        self.checkpoints.close()
        if self._log is not None:
            self._log.close()
