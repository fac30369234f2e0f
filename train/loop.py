"""The loop of a run: calls to the devices, logs, validation, checkpoints."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax import training
from memjax.checkpoint import Checkpoints
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.memory import usage
from memjax.training import TrainState
from memjax.types import Variables

from . import devices
from .devices import RunState, Source
from .log import Log
from .pictures import make_pictures
from .sessions import Session
from .signals import Stopped
from .validation import make_validation

logger = logging.getLogger("memjax")


class NonFiniteError(Exception):
    """The objective became infinite or not a number; the message names step and checkpoint."""


class Loop:
    """One run over one data set in one workdir."""

    def __init__(self, experiment: Experiment, dataset: Dataset, workdir: str):
        """Compile nothing yet; open the checkpoints, start or resume, open the logs.

        Args:
            experiment: with the model's image shape filled in.
            dataset: all splits.
            workdir: prepared.
        """
        self._experiment = experiment
        self._workdir = workdir
        self._split = dataset.splits["train"]
        self._steps_per_epoch = experiment.sampler.steps_per_epoch(
            len(self._split), experiment.train.batch_size
        )
        self._total_steps = experiment.train.num_epochs * self._steps_per_epoch
        self._devices = devices.choose(experiment.train.batch_size, experiment.sampler.together)
        optimizer = training.make_optimizer(
            **dataclasses.asdict(experiment.optimizer), steps_per_epoch=self._steps_per_epoch
        )
        step = devices.make_step(experiment, optimizer, self._devices)
        self._call = devices.make_call(experiment, step, dataset.maximum, self._devices)
        self._validate = _validation(experiment, dataset, self._devices)
        self._draw = make_pictures(experiment, dataset)
        self._seconds_per_step: float | None = None
        self._checkpoints = Checkpoints(workdir)
        self._state = devices.replicate(self._start(step, optimizer, dataset), self._devices)
        self._log = Log(workdir, self._step, self._total_steps)
        self._session = Session(workdir, self._step)

    def train(self, signals: Sequence[int], stop_at_step: int | None) -> TrainState:
        """Take all steps that are left.

        Args:
            signals: grows when a signal arrives.
            stop_at_step: leave off after that step.

        Raises:
            NonFiniteError: the objective became infinite or not a number.
            Stopped: a signal arrived.
        """
        source = Source.of(self._experiment, self._split, self._devices)
        step = self._step
        last = self._total_steps if stop_at_step is None else min(self._total_steps, stop_at_step)
        planned, plan = -1, np.empty(0)
        while step < last:
            epoch, first = divmod(step, self._steps_per_epoch)
            if epoch != planned:
                planned, plan = epoch, self._plan(epoch)
            count = self._count(min(self._steps_per_epoch - first, last - step))
            bound = self._advance(source, plan, epoch, first, count)
            step += count
            self._log.progress(step, bound)
            if first + count == self._steps_per_epoch:
                self._end_epoch(epoch + 1)
            if signals:
                self._save()
                raise Stopped(signals[0], step)
        self._save()
        return self._state.train

    def close(self) -> None:
        """Wait for the checkpoints and flush the logs."""
        self._checkpoints.close()
        self._log.close()

    @property
    def _step(self) -> int:
        return int(self._state.train.step)

    def _start(
        self, step: Callable, optimizer: optax.GradientTransformation, dataset: Dataset
    ) -> RunState:
        experiment = self._experiment
        batch = devices.blank_batch(experiment, self._split, dataset.maximum, len(self._devices))

        def initial() -> RunState:
            state = training.create_state(experiment.model, optimizer, batch, experiment.seed)
            return devices.initial_run_state(step, state, batch)

        shapes = jax.eval_shape(initial)
        logger.info(
            "%s: %s parameters, %s training images, %d steps an epoch, %d device(s)",
            experiment.name,
            f"{sum(leaf.size for leaf in jax.tree.leaves(shapes.train.params)):,}",
            f"{len(self._split):,}",
            self._steps_per_epoch,
            len(self._devices),
        )
        latest = self._checkpoints.latest_step()
        if latest is None:
            return jax.jit(initial)()
        logger.info("going on from step %d of %s", latest, self._workdir)
        return self._checkpoints.restore(shapes, latest)

    def _plan(self, epoch: int) -> np.ndarray:
        experiment = self._experiment
        return experiment.sampler.plan(
            experiment.seed, epoch, len(self._split), experiment.train.batch_size
        )

    def _count(self, most: int) -> int:
        """Steps of the next call: one and then a few, to measure, then what the time allows."""
        if self._seconds_per_step is None:
            return 1
        aim = self._experiment.train.call_seconds / 2  # the speed of a machine varies
        return int(np.clip(aim / self._seconds_per_step, 1, most))

    def _advance(
        self, source: Source, plan: np.ndarray, epoch: int, first: int, count: int
    ) -> float:
        """Take `count` steps of an epoch; returns their mean bound in nats."""
        before, counted = float(self._state.totals["iwae_bound"]), int(self._state.counted)
        started = time.monotonic()
        place = (jnp.int32(epoch), jnp.int32(first), jnp.int32(count))
        self._state = self._call(self._state, source, plan, *place)
        after = float(self._state.totals["iwae_bound"])  # waits for the devices
        seconds = (time.monotonic() - started) / count
        # The first call compiles, and says nothing of the next but that it should be short.
        compiled = self._seconds_per_step is not None
        self._seconds_per_step = seconds if compiled else self._experiment.train.call_seconds
        self._check_finite()
        return (after - before) / (int(self._state.counted) - counted)

    def _check_finite(self) -> None:
        step = int(self._state.nonfinite_step)
        if step >= 0:
            raise self._nonfinite(f"step {step}: the objective is not finite")

    def _nonfinite(self, what: str) -> NonFiniteError:
        good = self._checkpoints.latest_step()
        return NonFiniteError(
            f"{what}, training stopped; last good checkpoint in {self._workdir}: "
            f"{'none' if good is None else f'step {good}'}"
        )

    def _end_epoch(self, epoch: int) -> None:
        train = self._experiment.train
        save = epoch == train.num_epochs or epoch % train.save_every == 0
        if save:
            self._check_parameters()
        bound = self._validate(self._state.train.variables) if save and self._validate else None
        if save or epoch % train.log_every == 0:
            self._log_metrics(epoch, bound)
        if save:
            for name, grid in self._draw(self._state.train.variables).items():
                self._log.images(self._step, name, grid)
            self._save(bound)

    def _log_metrics(self, epoch: int, bound: float | None) -> None:
        state = self._state
        means = {name: np.asarray(a) / int(state.counted) for name, a in state.totals.items()}
        used = usage(means.pop("posterior")) if "posterior" in means else {}
        values = {name: float(mean) for name, mean in means.items()} | used
        if bound is not None:
            values["validation_bound"] = bound
        self._log.metrics(self._step, epoch, values)
        self._state = dataclasses.replace(
            state,
            totals=jax.tree.map(jnp.zeros_like, state.totals),
            counted=jnp.zeros_like(state.counted),
        )

    def _check_parameters(self) -> None:
        if not all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(self._state.train.params)):
            raise self._nonfinite(f"step {self._step}: a parameter is not finite")

    def _save(self, validation_bound: float | None = None) -> None:
        self._check_parameters()
        self._checkpoints.save(self._state, self._step, validation_bound)
        self._session.saved(self._step)


def _validation(
    experiment: Experiment, dataset: Dataset, used: Sequence[jax.Device]
) -> Callable[[Variables], float] | None:
    split = dataset.splits.get("valid")
    if split is None:
        return None
    return make_validation(experiment, split, dataset.maximum, used)
