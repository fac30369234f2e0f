"""One call to the devices: many training steps under the one pmap."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from memjax import data, training
from memjax.config import Experiment
from memjax.training import Metrics, TrainState
from memjax.types import Array, Batch

logger = logging.getLogger("memjax")


@flax.struct.dataclass
class RunState:
    """What a checkpoint holds.

    Attributes:
        train: parameters, batch statistics, optimiser, step and seed.
        totals: sums of the metrics since the last line of the log.
        counted: int32, steps in these sums.
        nonfinite_step: int32, the first step whose objective was not finite, -1 if none.
    """

    train: TrainState
    totals: Metrics
    counted: Array
    nonfinite_step: Array


def choose(batch_size: int) -> list[jax.Device]:
    """The largest number of local devices that divides the batch; says so if it is not all."""
    devices = jax.local_devices()
    used = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if used < len(devices):
        logger.warning(
            "using %d of %d devices: the batch of %d examples does not divide by more",
            used,
            len(devices),
            batch_size,
        )
    return devices[:used]


def over_devices(
    function: Callable, devices: Sequence[jax.Device], in_axes: tuple, donate: tuple[int, ...] = ()
) -> Callable:
    """Map a function over the devices; what it returns must be equal on all of them."""
    return jax.pmap(
        function, "devices", in_axes=in_axes, out_axes=None, devices=devices, donate_argnums=donate
    )


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """The same arrays on every device, placed as `over_devices` returns them.

    A state placed otherwise would make the first call compile twice.
    """
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def split_batches(order: np.ndarray, batch_size: int, num_devices: int) -> np.ndarray:
    """Examples in their order -> `[N, S, B / N]` indices, one row of S steps per device.

    Examples beyond the last whole batch are left out.
    """
    steps = len(order) // batch_size
    batches = order[: steps * batch_size].reshape(steps, num_devices, batch_size // num_devices)
    return np.ascontiguousarray(batches.transpose(1, 0, 2))


def training_batch(
    experiment: Experiment, images: Array, index: Array, seed: Array, epoch: Array, maximum: int
) -> Batch:
    """The examples of `index`, binarised for that epoch."""
    binarisation = experiment.data.binarisation
    key = training.binarisation_key(seed, epoch if binarisation == "every_epoch" else None)
    pixels = data.prepare_images(images[index], index, key, binarisation, maximum)
    return Batch(pixels, index)


def make_step(
    experiment: Experiment, optimizer: optax.GradientTransformation, devices: Sequence[jax.Device]
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The training step of an experiment, for so many devices."""
    axis = "devices" if len(devices) > 1 else None
    return training.make_train_step(experiment.model, experiment.objective, optimizer, axis)


def make_call(
    experiment: Experiment,
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    maximum: int,
    devices: Sequence[jax.Device],
) -> Callable[..., RunState]:
    """A function (run state, images, plan, epoch, first, count) -> run state.

    It takes `count` steps of an epoch, from row `first` of the plan on. `count` is an argument, not
    a constant, so that one compilation serves calls of every length.

    Args:
        experiment: binarisation.
        step: from `training.make_train_step`.
        maximum: the grey value that counts as full ink.
        devices: to map over.
    """

    def one_step(i: Array, carry: tuple[RunState, Any]) -> tuple[RunState, Any]:
        run, (images, plan, epoch, first) = carry
        batch = training_batch(experiment, images, plan[first + i], run.train.seed, epoch, maximum)
        state, metrics = step(run.train, batch)
        failed = (run.nonfinite_step < 0) & ~jnp.isfinite(metrics["objective"])
        run = RunState(
            train=state,
            totals=jax.tree.map(jnp.add, run.totals, metrics),
            counted=run.counted + 1,
            nonfinite_step=jnp.where(failed, state.step, run.nonfinite_step),
        )
        return run, (images, plan, epoch, first)

    def call(
        run: RunState, images: Array, plan: Array, epoch: Array, first: Array, count: Array
    ) -> RunState:
        return lax.fori_loop(0, count, one_step, (run, (images, plan, epoch, first)))[0]

    return over_devices(call, devices, (None, None, 0, None, None, None), donate=(0,))


def initial_run_state(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    state: TrainState,
    batch: Batch,
) -> RunState:
    """A run that has taken no step; `batch` gives the shapes."""
    one_device = jax.vmap(step, in_axes=(None, 0), axis_name="devices")
    metrics = jax.eval_shape(one_device, state, jax.tree.map(lambda leaf: leaf[None], batch))[1]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), metrics)
    return RunState(state, zeros, counted=jnp.int32(0), nonfinite_step=jnp.int32(-1))
