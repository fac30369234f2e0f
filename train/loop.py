"""The loop of a run: calls to the devices, logs, validation, checkpoints."""

import contextlib
import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax import hosts, training
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.training import TrainState
from memjax.types import Variables

from . import devices
from .devices import RunState, Source
from .pictures import make_pictures
from .replicas import Replica, folders, restored, stacked
from .shares import Shares
from .signals import Signals, Stopped
from .validation import make_validation

logger = logging.getLogger("memjax")


class NonFiniteError(hosts.Agreed):
    """Objective, gradient or state are infinite or not a number.

    The message names the step, the parameter and the last good checkpoint.
    """


class Loop:
    """One run over one data set in one workdir, of one seed or of several side by side."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        workdir: str,
        shares: Shares,
        start: devices.Start,
    ):
        """Compile nothing yet; open the checkpoints, start or resume, open the logs.

        Args:
            experiment: with the model's image shape filled in.
            dataset: all splits.
            workdir: prepared.
            shares: over the devices that `devices.choose` chose.
            start: from `devices.make_start`.
        """
        self._experiment = experiment
        self._workdir = workdir
        self._split = dataset.splits["train"]
        self._steps_per_epoch = experiment.sampler.steps_per_epoch(
            len(self._split), experiment.train.batch_size
        )
        self._total_steps = experiment.train.num_epochs * self._steps_per_epoch
        self._shares, self._devices = shares, shares.devices
        devices.connect(self._devices)
        optimizer = devices.make_optimizer(experiment, self._steps_per_epoch)
        self._replicas = [Replica(one, path) for path, one in folders(experiment, workdir).items()]
        several = len(self._replicas) > 1
        self._validate = _validation(experiment, dataset, self._shares)
        self._draw = make_pictures(experiment, dataset, self._shares)
        self._all_finite = jax.jit(training.all_finite)
        self._seconds_per_step: float | None = None
        self._state = self._start(start, optimizer, dataset)
        self._call = devices.make_call(
            experiment,
            devices.make_step(experiment, optimizer, self._devices),
            dataset.maximum,
            self._devices,
            several,
            self._shares.axes(self._state),
        )
        for i, replica in enumerate(self._replicas):
            replica.open_logs(self._step, self._total_steps, i == 0, len(self._replicas))

    def train(self, signals: Signals, stop_at_step: int | None) -> TrainState:
        """Take all steps that are left; the state has an axis in front if there are several seeds.

        Args:
            signals: grows when a signal arrives.
            stop_at_step: leave off after that step.

        Raises:
            NonFiniteError: objective, gradient or state are infinite or not a number; where such
                steps are skipped, they are too many.
            Stopped: a signal arrived.
        """
        source = Source.of(self._experiment, self._split, self._devices)
        step = self._step
        last = self._total_steps if stop_at_step is None else min(self._total_steps, stop_at_step)
        planned, plan = -1, np.empty(0)
        if step < last:
            logger.info("compiling")
        while step < last:
            epoch, first = divmod(step, self._steps_per_epoch)
            if epoch != planned:
                planned, plan = epoch, self._plan(epoch)
            count = self._count(min(self._steps_per_epoch - first, last - step))
            bound = self._advance(source, plan, epoch, first, count)
            step += count
            signals.nothing_to_save = False
            for replica in self._replicas:
                replica.log_progress(step, bound)
            if first + count == self._steps_per_epoch:
                self._end_epoch(epoch + 1)
            if (stop := _stop(signals)) is not None:
                self._save()
                self._say_skipped()
                raise Stopped(stop, step)
        self._save()
        self._say_skipped()
        return self._shares.join(self._state.train)

    def close(self) -> None:
        """Wait for the checkpoints and flush the logs."""
        with contextlib.ExitStack() as stack:  # all of them, whatever becomes of one
            for replica in self._replicas:
                stack.callback(replica.close)

    @property
    def _step(self) -> int:
        return int(np.reshape(self._state.train.step, -1)[0])

    def _states(self) -> list[RunState]:
        """The state of each replica."""
        if len(self._replicas) == 1:
            return [self._state]
        return [
            jax.tree.map(lambda leaf, i=i: leaf[i], self._state) for i in range(len(self._replicas))
        ]

    def _start(
        self, start: devices.Start, optimizer: optax.GradientTransformation, dataset: Dataset
    ) -> RunState:
        experiment = self._experiment
        shapes = start.eval_shape(jnp.uint32(0))
        logger.info(
            "%s: %s parameters, %s training images, %d steps an epoch, %d device(s), %d seed(s)",
            experiment.name,
            f"{sum(leaf.size for leaf in jax.tree.leaves(shapes.train.params)):,}",
            f"{len(self._split):,}",
            self._steps_per_epoch,
            len(self._devices),
            len(self._replicas),
        )
        found = restored(self._replicas, self._shares.on_host(shapes))
        if found is not None:
            latest, states = found
            logger.info("going on from step %d of %s", latest, self._workdir)
            return self._shares.split(stacked(states))
        if self._shares.names:
            maximum, count = dataset.maximum, len(self._devices)
            batch = devices.blank_batch(experiment, self._split, maximum, count)
            each = devices.start_on_each(experiment, optimizer, batch, self._shares, shapes)
            return each(jnp.uint32(experiment.seed))
        states = [start(jnp.uint32(one.experiment.seed)) for one in self._replicas]
        return self._shares.split(stacked(states))

    def _plan(self, epoch: int) -> np.ndarray:
        """Rows of each step, `[S, ...]`, or `[R, S, ...]` of several replicas."""
        plan, size = self._experiment.sampler.plan, self._experiment.train.batch_size
        seeds = [replica.experiment.seed for replica in self._replicas]
        plans = [plan(seed, epoch, len(self._split), size) for seed in seeds]
        return plans[0] if len(plans) == 1 else np.stack(plans)

    def _count(self, most: int) -> int:
        """Steps of the next call: one and then a few, to measure, then what the time allows."""
        if self._seconds_per_step is None:
            return 1
        aim = self._experiment.train.call_seconds / 2  # the speed of a machine varies
        # Every process has its own clock, and all of them take part in every step.
        return hosts.of_first(int(np.clip(aim / self._seconds_per_step, 1, most)))

    def _advance(
        self, source: Source, plan: np.ndarray, epoch: int, first: int, count: int
    ) -> float:
        """Take `count` steps of an epoch; returns their mean bound in nats."""
        before, counted = self._bound_so_far()
        started = time.monotonic()
        place = (jnp.int32(epoch), jnp.int32(first), jnp.int32(count))
        self._state = self._call(self._state, source, plan, *place)
        after, counted_after = self._bound_so_far()  # waits for the devices
        seconds = (time.monotonic() - started) / count
        # The first call compiles, and says nothing of the next but that it should be short.
        compiled = self._seconds_per_step is not None
        self._seconds_per_step = seconds if compiled else self._experiment.train.call_seconds
        self._check_finite()
        gained, taken = after - before, counted_after - counted
        some = taken > 0  # the others have skipped all
        return float(np.mean(gained[some] / taken[some])) if some.any() else math.nan

    def _bound_so_far(self) -> tuple[np.ndarray, np.ndarray]:
        """The sum of the bounds since the last line of the log, and its steps, of each replica."""
        totals, counted = self._state.totals["iwae_bound"], self._state.counted
        return np.array(totals, np.float64).reshape(-1), np.array(counted).reshape(-1)

    def _check_finite(self) -> None:
        if np.max(self._state.nonfinite_step) >= 0:
            for replica, state in self._each(self._states()):
                if (step := int(state.nonfinite_step)) >= 0:
                    self._raise_nonfinite(replica, state, step, devices.MOST_SKIPPED)
        self._check_state()
        if self._step == self._total_steps:
            self._check_last_epoch()

    def _check_state(self) -> None:
        """Parameters, batch statistics and optimiser: what is saved has to be of use."""
        if self._all_finite(self._state.train):
            return
        for replica, state in self._each(self._states()):
            if (name := devices.first_nonfinite(state.train)) is not None:
                raise self._nonfinite(f"step {self._step}: {name} is not finite", replica)

    def _check_last_epoch(self) -> None:
        """A run that has skipped all of it did not end well, however short it is."""
        for replica, state in self._each(self._states()):
            _, row = devices.skipped(state.train)
            if row >= self._steps_per_epoch:
                self._raise_nonfinite(replica, state, self._step, row)

    def _raise_nonfinite(self, replica: Replica, state: RunState, step: int, row: int) -> NoReturn:
        """At a step, the last of so many in a row if such steps are skipped."""
        skips = self._experiment.train.on_nonfinite == "skip"
        before = f", as in the {row - 1} steps before" if skips else ""
        raise self._nonfinite(f"step {step}: {devices.said_nonfinite(state)}{before}", replica)

    def _say_skipped(self) -> None:
        for replica, state in self._each(self._states()):
            if hosts.is_first() and (said := devices.said_skipped(state.train)) is not None:
                logger.warning("%s: %s", replica.workdir, said)

    def _nonfinite(self, what: str, replica: Replica) -> NonFiniteError:
        good = replica.checkpoints.latest_step()
        return NonFiniteError(
            f"{what}, training stopped; last good checkpoint in {replica.workdir}: "
            f"{'none' if good is None else f'step {good}'}"
        )

    def _end_epoch(self, epoch: int) -> None:
        train = self._experiment.train
        save = epoch == train.num_epochs or epoch % train.save_every == 0
        log = save or epoch % train.log_every == 0
        if not log:
            return
        states = self._states()
        bounds = [self._bound(one, state) if save else None for one, state in self._each(states)]
        for (replica, state), bound in zip(self._each(states), bounds, strict=True):
            replica.log_metrics(state, self._step, epoch, bound)
            # What the devices share, all of them have to read.
            if save and (hosts.is_first() or self._shares.names):
                grids = self._draw(state.train.variables, replica.experiment.seed)
                replica.log_images(self._step, grids)
        self._state = dataclasses.replace(
            self._state,
            totals=jax.tree.map(jnp.zeros_like, self._state.totals),
            counted=jnp.zeros_like(self._state.counted),
        )
        if save:
            self._save(bounds)

    def _each(self, states: list[RunState]) -> Iterator[tuple[Replica, RunState]]:
        return zip(self._replicas, states, strict=True)

    def _bound(self, replica: Replica, state: RunState) -> float | None:
        if self._validate is None:
            return None
        return self._validate(state.train.variables, replica.experiment.seed)

    def _save(self, bounds: Sequence[float | None] | None = None) -> None:
        self._check_state()
        states = self._states()
        for (replica, state), bound in zip(
            self._each(states), bounds or [None] * len(states), strict=True
        ):
            replica.save(self._shares.join(state), self._step, bound, self._shares.axes(state))


def _stop(signals: Sequence[int]) -> int | None:
    """The signal to stop at, if there is one; all processes stop at the same step."""
    if not hosts.several():
        return signals[0] if signals else None
    if not hosts.preempted():
        return None
    hosts.end_at_sigterm(but_one=True)
    return signals[0] if signals else signal.SIGTERM


def _validation(
    experiment: Experiment, dataset: Dataset, shares: Shares
) -> Callable[[Variables, int], float] | None:
    split = dataset.splits.get("valid")
    if split is None:
        return None
    return make_validation(experiment, split, dataset.maximum, shares)
