"""One run, from an experiment and a folder to a trained state."""

import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from memjax import backend, config, configs, data, plots, sampling, training
from memjax.checkpoint import Checkpoints
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.errors import InputError
from memjax.training import TrainState
from memjax.types import Array, Batch

from . import devices as device_calls
from .devices import RunState
from .log import Log
from .sessions import Session
from .validation import make_validation

logger = logging.getLogger("memjax")
SHOWN = 64  # images in a grid of TensorBoard


class Stopped(Exception):
    """A signal asked the run to stop; everything is saved.

    Attributes:
        signal_number: of the signal.
        step: the step that was saved.
    """

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped at step {step}; the same command goes on from there")
        self.signal_number = signal_number
        self.step = step


class NonFiniteError(Exception):
    """The objective became infinite or not a number; the message names step and checkpoint."""


def run(
    experiment: Experiment | str,
    workdir: str,
    *,
    data_dir: str | None = None,
    stop_at_step: int | None = None,
) -> TrainState:
    """Train an experiment, or go on with it where its workdir holds a part of it.

    The same call resumes: a run that was stopped at any step ends in the same bits as one that was
    not, on the same machine.

    Args:
        experiment: an Experiment, or the name of one.
        workdir: where config, checkpoints and logs go; any address that etils.epath opens.
        data_dir: folder with `<name>.npz` files, see `data.load`.
        stop_at_step: leave off after that step, as a signal would.

    Returns:
        The trained state.

    Raises:
        InputError: bad data, a field out of range, or a workdir that holds another run.
        NonFiniteError: the objective became infinite or not a number.
        Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    if isinstance(experiment, str):
        experiment = configs.get(experiment)
    _check(experiment)
    backend.configure()
    dataset = data.load(experiment.dataset, data_dir, **_split_options(experiment))
    experiment = fit_to_data(experiment, dataset)
    _check_batch(experiment, dataset)
    prepare_workdir(experiment, workdir)
    training_run = _Run(experiment, dataset, workdir)
    try:
        with _signals() as received:
            return training_run.train(received, stop_at_step)
    finally:
        training_run.close()


def fit_to_data(experiment: Experiment, dataset: Dataset) -> Experiment:
    """The experiment with the model's image shape and precision filled in."""
    model = experiment.model.clone(
        image_shape=dataset.image_shape, precision=experiment.train.precision
    )
    return dataclasses.replace(experiment, model=model)


def prepare_workdir(experiment: Experiment, workdir: str) -> None:
    """Make the folder and write its config.json, or check that it holds this very run.

    Raises:
        InputError: it cannot be written, or holds something else.
    """
    path = epath.Path(workdir)
    try:
        if (path / config.FILE).exists():
            config.check_same_run(experiment, workdir)
        elif path.exists() and any(path.iterdir()):
            raise InputError(
                f"{workdir}: holds files but no {config.FILE}, "
                "expected a new folder, an empty one or the workdir of a run"
            )
        path.mkdir(parents=True, exist_ok=True)
        config.save(experiment, workdir)
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror}), expected a writable folder"
        ) from error


class _Run:
    """The parts of a run that stay the same from step to step."""

    def __init__(self, experiment: Experiment, dataset: Dataset, workdir: str):
        self.experiment = experiment
        self.dataset = dataset
        self.workdir = workdir
        self.images = dataset.splits["train"].images
        self.batch_size = experiment.train.batch_size
        self.steps_per_epoch = len(self.images) // self.batch_size
        self.total_steps = experiment.train.num_epochs * self.steps_per_epoch
        self.devices = device_calls.choose(self.batch_size)
        optimizer = training.make_optimizer(
            **dataclasses.asdict(experiment.optimizer), steps_per_epoch=self.steps_per_epoch
        )
        self.step = training.make_train_step(experiment.model, experiment.objective, optimizer)
        self.initial = lambda: self._initial(optimizer)
        self.call = device_calls.make_call(experiment, self.step, dataset.maximum, self.devices)
        self.checkpoints = Checkpoints(workdir)
        self.validate = self._validation()
        self.seconds_per_step: float | None = None
        self.log: Log | None = None

    def train(self, received: list[int], stop_at_step: int | None) -> TrainState:
        state = device_calls.replicate(self._restore_or_start(), self.devices)
        step = int(state.train.step)
        self.log = Log(self.workdir, step, self.total_steps)
        images = device_calls.replicate(self.images, self.devices)
        last = min(self.total_steps, stop_at_step or self.total_steps)
        self.session = Session(self.workdir, step)
        plan_epoch, plan = -1, None
        while step < last:
            epoch, first = divmod(step, self.steps_per_epoch)
            if epoch != plan_epoch:
                plan_epoch, plan = epoch, self._plan(epoch)
            count = self._count(min(self.steps_per_epoch - first, last - step))
            state, bound = self._advance(state, images, plan, epoch, first, count)
            step += count
            self.log.progress(step, bound)
            if first + count == self.steps_per_epoch:
                state = self._end_of_epoch(state, epoch + 1)
            if received:
                self._save(state)
                raise Stopped(received[0], step)
        self._save(state)
        return state.train

    def close(self) -> None:
        self.checkpoints.close()
        if self.log is not None:
            self.log.close()

    def _initial(self, optimizer: Any) -> RunState:
        local = self.batch_size // len(self.devices)
        shape = (local, *self.dataset.image_shape)
        batch = Batch(jnp.zeros(shape), jnp.zeros(local, jnp.int32))
        state = training.create_state(self.experiment.model, optimizer, batch, self.experiment.seed)
        return device_calls.initial_run_state(self.step, state, batch)

    def _restore_or_start(self) -> RunState:
        latest = self.checkpoints.latest_step()
        if latest is None:
            state = jax.jit(self.initial)()
            count = sum(leaf.size for leaf in jax.tree.leaves(state.train.params))
            logger.info(
                "%s: %s parameters, %d training images, %d steps an epoch, %d device(s)",
                self.experiment.name,
                f"{count:,}",
                len(self.images),
                self.steps_per_epoch,
                len(self.devices),
            )
            return state
        logger.info("going on from step %d of %s", latest, self.workdir)
        return self.checkpoints.restore(jax.eval_shape(self.initial), latest)

    def _plan(self, epoch: int) -> Array:
        order = data.epoch_permutation(self.experiment.seed, epoch, len(self.images))
        return device_calls.split_batches(order, self.batch_size, len(self.devices))

    def _count(self, most: int) -> int:
        """Steps of the next call: one at first, to measure, then what the time allows."""
        if self.seconds_per_step is None:
            return 1
        return int(np.clip(self.experiment.train.call_seconds / self.seconds_per_step / 2, 1, most))

    def _advance(
        self, state: RunState, images: Array, plan: Any, epoch: int, first: int, count: int
    ) -> tuple[RunState, float]:
        before, counted = float(state.totals["bound"]), int(state.counted)
        started = time.monotonic()
        state = self.call(state, images, plan, jnp.int32(epoch), jnp.int32(first), jnp.int32(count))
        after = float(state.totals["bound"])
        seconds = (time.monotonic() - started) / count
        # The first call compiles; the second, of a few steps, gives the first honest time.
        self.seconds_per_step = 0.1 if self.seconds_per_step is None else seconds
        self._check_finite(state)
        return state, (after - before) / (int(state.counted) - counted)

    def _check_finite(self, state: RunState) -> None:
        if (step := int(state.nonfinite_step)) >= 0:
            self.checkpoints.close()
            good = self.checkpoints.latest_step()
            raise NonFiniteError(
                f"step {step}: the objective is not finite, training stopped; "
                f"last good checkpoint: {'none' if good is None else f'step {good}'} "
                f"in {self.workdir}"
            )

    def _end_of_epoch(self, state: RunState, epoch: int) -> RunState:
        train = self.experiment.train
        is_last = epoch == train.num_epochs
        save = is_last or epoch % train.save_every == 0
        bound = self.validate(state.train.variables) if save and self.validate else None
        if is_last or save or epoch % train.log_every == 0:
            state = self._log_metrics(state, epoch, bound)
        if save:
            self._log_images(state, epoch)
            self._save(state, bound)
        return state

    def _log_metrics(self, state: RunState, epoch: int, bound: float | None) -> RunState:
        counted = int(state.counted)
        values = {name: float(total) / counted for name, total in state.totals.items()}
        if bound is not None:
            values["validation_bound"] = bound
        self.log.metrics(int(state.train.step), epoch, values)
        zeros = jax.tree.map(jnp.zeros_like, state.totals)
        return dataclasses.replace(state, totals=zeros, counted=jnp.zeros_like(state.counted))

    def _log_images(self, state: RunState, epoch: int) -> None:
        del epoch
        samples, reconstructions = self._pictures(state.train.variables, state.train.seed)
        step = int(state.train.step)
        self.log.images(step, "samples", plots.tile(np.asarray(samples)))
        self.log.images(step, "reconstructions", plots.tile(np.asarray(reconstructions)))

    @property
    def _pictures(self) -> Callable[[Any, Array], tuple[Array, Array]]:
        if not hasattr(self, "_draw"):
            shown = np.arange(min(SHOWN, len(self.images)))
            pixels = jnp.asarray(self.images[shown])

            def draw(variables: Any, seed: Array) -> tuple[Array, Array]:
                key = training.stream(seed, "samples")
                means = sampling.generate(self.experiment.model, variables, key, SHOWN).means
                images = data.prepare_images(pixels, shown, key, "none", self.dataset.maximum)
                batch = Batch(images, jnp.asarray(shown))
                again = sampling.reconstruct(self.experiment.model, variables, batch, key)
                return means, again

            self._draw = jax.jit(draw)
        return self._draw

    def _validation(self) -> Callable[[Any], float] | None:
        split = self.dataset.splits.get("valid")
        if split is None:
            return None
        return make_validation(self.experiment, split, self.dataset.maximum, self.devices)

    def _save(self, state: RunState, bound: float | None = None) -> None:
        step = int(state.train.step)
        self.checkpoints.save(state, step, bound)
        self.session.saved(step)


def _split_options(experiment: Experiment) -> dict[str, Any]:
    return {
        "merge_validation": experiment.data.merge_validation,
        "split_order": experiment.data.split_order,
        "split_seed": experiment.data.split_seed,
    }


def _check(experiment: Experiment) -> None:
    """Refuse values that no run can have.

    Raises:
        InputError: names the field.
    """
    train = experiment.train
    at_least_one = {
        "objective.num_samples": experiment.objective.num_samples,
        "train.num_epochs": train.num_epochs,
        "train.batch_size": train.batch_size,
        "train.save_every": train.save_every,
        "train.log_every": train.log_every,
        "train.validation_samples": train.validation_samples,
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise InputError(f"{name}: found {value}, expected at least 1")
    if experiment.seed not in range(2**32):
        raise InputError(f"seed: found {experiment.seed}, expected 0 to {2**32 - 1}")
    if not train.call_seconds > 0:
        raise InputError(f"train.call_seconds: found {train.call_seconds}, expected more than 0")


def _check_batch(experiment: Experiment, dataset: Dataset) -> None:
    found, most = experiment.train.batch_size, len(dataset.splits["train"].images)
    if found > most:
        raise InputError(
            f"train.batch_size: found {found}, expected at most the {most} training images "
            f"of {dataset.name}"
        )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT, so that the call under way is finished and saved.

    A second signal acts at once. Outside the main thread there is nothing to collect.
    """
    received: list[int] = []
    previous = {}

    def remember(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        logger.warning("%s: saving, then stopping", signal.Signals(number).name)
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, remember)
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
