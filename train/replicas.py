"""The seeds of a run: each has its own folder, with checkpoints and logs of its own."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from memjax import hosts, workdirs
from memjax.checkpoint import BrokenCheckpoint, Checkpoints, newest_whole
from memjax.config import Experiment
from memjax.errors import InputError
from memjax.memory import usage

from .devices import RunState, said_nonfinite
from .log import Log
from .sessions import Session, cut_back

logger = logging.getLogger("memjax")
_NONE = -1  # in place of a step, where none is saved


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
        self.checkpoints = self._opened(create=True)
        self._log: Log | None = None
        self._session: Session | None = None
        self._is_first_save = True

    def restore(self, like: RunState, step: int) -> RunState:
        """The state of a step; each process reads by itself, so that none waits for the others.

        Raises:
            InputError: it cannot be restored.
        """
        if not hosts.several():
            return self.checkpoints.restore(like, step)
        own = self._opened(create=False)
        try:
            return own.restore(like, step)
        finally:
            own.close()

    def _opened(self, create: bool) -> Checkpoints:
        fields = workdirs.flat_fields(self.experiment)
        return Checkpoints(
            self.workdir, create=create, fields=fields, may_differ=workdirs.OF_NO_CHECKPOINT
        )

    def open_logs(self, step: int, total_steps: int, shown: bool, num_seeds: int) -> None:
        """Open the logs of a run of so many seeds that starts or goes on at `step`."""
        if hosts.is_first():
            self._log = Log(self.workdir, step, total_steps, shown)
            self._session = Session(self.workdir, step, num_seeds)

    def log_progress(self, step: int, bound: float) -> None:
        """Show where the run is; `bound` in nats."""
        if self._log is not None:
            self._log.progress(step, bound)

    def log_metrics(self, state: RunState, step: int, epoch: int, bound: float | None) -> None:
        """Write a line of means since the last one, and the validation bound if there is one."""
        if self._log is None:
            return
        count = int(state.counted)
        if not count:
            logger.warning(
                "%s: step %d: all steps since the last line of %s were skipped, in this one %s",
                *(self.workdir, step, workdirs.METRICS, said_nonfinite(state)),
            )
        means = {name: np.asarray(a) / count for name, a in state.totals.items() if count}
        used = usage(means.pop("posterior")) if "posterior" in means else {}
        values = {name: float(mean) for name, mean in means.items()} | used
        if isinstance(state.train.opt_state, optax.ApplyIfFiniteState):
            values["skipped_steps"] = int(state.train.opt_state.total_notfinite)
        if bound is not None:
            values["validation_bound"] = bound
        self._log.metrics(step, epoch, values)

    def log_images(self, step: int, grids: Mapping[str, np.ndarray]) -> None:
        """Show grids of images in TensorBoard."""
        if self._log is not None:
            for name, grid in grids.items():
                self._log.images(step, name, grid)

    def save(self, state: RunState, step: int, bound: float | None, axes: Any = None) -> None:
        """Save a checkpoint, and who has trained it; `axes` say which arrays are shared."""
        kept = dataclasses.replace(hosts.spread(state, axes), nonfinite=None)
        self.checkpoints.save(kept, step, bound)
        if self._is_first_save:
            # All processes wait, so that no session is without a checkpoint.
            self.checkpoints.latest_step()
            self._is_first_save = False
        if self._session is not None:
            self._session.saved(step)

    def close(self) -> None:
        """Wait for the checkpoints and flush the logs."""
        with contextlib.ExitStack() as both:
            if self._log is not None:
                both.callback(self._log.close)
            both.callback(self.checkpoints.close)


def restored(replicas: Sequence[Replica], like: RunState) -> tuple[int, list[RunState]] | None:
    """The newest step that is whole in all replicas, and its states; None where none is saved.

    Steps that are newer, and those that are broken, are set aside: they would be in the way of
    saving them again. Of several processes the first one chooses, since a folder that all of them
    share may look different from another for a moment.

    Raises:
        InputError: steps are saved, and none is whole; or a process does not find the one chosen.
    """
    with hosts.refused_together():
        step = _chosen(replicas) if hosts.is_first() else _NONE
    step = hosts.of_first(step)
    if step == _NONE:
        return None
    kept = dataclasses.replace(like, nonfinite=None)
    nonfinite = jnp.zeros(like.nonfinite.shape, bool)
    with hosts.refused_together():
        states = [replica.restore(kept, step) for replica in replicas]
    return step, [dataclasses.replace(state, nonfinite=nonfinite) for state in states]


def _chosen(replicas: Sequence[Replica]) -> int:
    opened = [replica.checkpoints for replica in replicas]
    saved = [one.steps() for one in opened]
    # A kill may come between the first saves of two replicas, and between any later ones.
    if not all(saved) and max(map(len, saved)) <= 1:
        step = _NONE
    elif common := sorted(set.intersection(*map(set, saved)), reverse=True):
        step = newest_whole(opened, common)
    else:
        folders = ", ".join(replica.workdir for replica in replicas)
        raise InputError(f"{folders}: have no checkpoint of the same step, expected one")
    for replica in replicas:
        if step == _NONE:
            # Sessions without a checkpoint are those of a run whose checkpoints are lost.
            cut_back(replica.workdir, 0)
        _tidy(replica.checkpoints, step)
    return step


def _tidy(checkpoints: Checkpoints, step: int) -> None:
    """Set aside what is newer than a step, and what is broken, once all has been looked at."""
    in_the_way = []
    for other in checkpoints.steps():
        try:
            checkpoints.check(other)
            if other > step:
                in_the_way.append(other)
        except BrokenCheckpoint as error:
            checkpoints.say_broken(other, error)
            in_the_way.append(other)
    for other in in_the_way:
        checkpoints.set_aside(other)
