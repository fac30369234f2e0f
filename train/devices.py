"""One call to the devices: many training steps under the one pmap."""

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from memjax import data, hosts, training
from memjax.config import Experiment
from memjax.data import Dataset, Split
from memjax.errors import InputError
from memjax.training import Metrics, TrainState
from memjax.types import Array, Batch, Module, Objective, Variables

from .shares import Shares

logger = logging.getLogger("memjax")
MOST_SKIPPED = 100


@flax.struct.dataclass
class RunState:
    """What a checkpoint holds.

    Attributes:
        train: parameters, batch statistics, optimiser, step and seed.
        totals: sums of the metrics since the last line of the log.
        counted: int32, steps in these sums.
        nonfinite_step: int32, the first step whose objective or gradient was not finite, -1 if
            none; where such steps are skipped, the last of `MOST_SKIPPED` in a row.
        nonfinite: bool, what was not finite there, or in the last step that was skipped, as
            `training.make_train_step` says it; not saved.
    """

    train: TrainState
    totals: Metrics
    counted: Array
    nonfinite_step: Array
    nonfinite: Any = None


class Start(Protocol):
    """A compiled function from a seed to a run that has taken no step."""

    def __call__(self, seed: Array) -> RunState: ...

    def eval_shape(self, seed: Array) -> RunState:
        """Build the model and compute nothing; a call does not trace again what this has traced."""


@flax.struct.dataclass
class Source:
    """A split on the devices.

    Attributes:
        images: `[N, H, W, C]` uint8.
        tables: what the sampler looks up.
    """

    images: Array
    tables: Any

    @classmethod
    def of(cls, experiment: Experiment, split: Split, devices: Sequence[jax.Device]) -> "Source":
        """The split's images and the sampler's tables, on every device."""
        images, tables = replicate((split.images, experiment.sampler.tables(split)), devices)
        return cls(images, tables)


def choose(batch_size: int, together: int = 1, blocks: int = 0) -> list[jax.Device]:
    """The largest number of devices that divides the batch; says so if it is not all.

    Several processes take all of their devices.

    Args:
        batch_size: B, a multiple of `together`.
        together: consecutive examples that stay on one device.
        blocks: of a memory that the devices share out, which they have to divide too; 0 if none.

    Raises:
        InputError: the devices of several processes do not divide the batch, or the blocks.
    """
    devices = hosts.devices()
    parts = batch_size // together
    if hosts.several():
        if blocks % len(devices):
            raise InputError(
                f"model.block_size: found {blocks} blocks, which do not divide by the "
                f"{len(devices)} devices of {jax.process_count()} processes, expected a multiple"
            )
        if parts % len(devices):
            raise InputError(
                f"train.batch_size: found {batch_size}, which does not divide by the "
                f"{len(devices)} devices of {jax.process_count()} processes, expected "
                f"{_nearest(batch_size, len(devices) * together)}"
            )
        return devices
    used = max(n for n in range(1, len(devices) + 1) if parts % n == blocks % n == 0)
    if used < len(devices):
        logger.warning(
            "using %d of %d devices: the batch of %d examples%s%s does not divide by more",
            used,
            len(devices),
            batch_size,
            f" in episodes of {together}" if together > 1 else "",
            f", or the memory of {blocks} blocks," if blocks else "",
        )
    return devices[:used]


def _nearest(size: int, unit: int) -> str:
    """The multiples below and above."""
    below = size // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)


def connect(devices: Sequence[jax.Device]) -> None:
    """Make the connections between processes, once all of them are here.

    On CPUs these are given up when a process is half a minute late; later it may be.
    """
    if hosts.several():
        hosts.gathered(0)
        over_devices(lambda one: lax.psum(one, "devices"), devices)(np.int32(1))


def over_devices(
    function: Callable,
    devices: Sequence[jax.Device],
    donate: tuple[int, ...] = (),
    first_axes: Any = None,
    out_axes: Any = None,
) -> Callable:
    """Run a function on every device, each of which knows its place by the axis `devices`.

    All get the same arguments, and what they return must be equal on all of them, but for what
    they share out (`Shares`). Of several processes each passes the arguments to its own devices,
    and finds the results there.

    Args:
        function: of positional arguments.
        devices: to map over, of all processes.
        donate: arguments whose memory may be used again.
        first_axes: of the first argument, see `Shares.axes`.
        out_axes: of what is returned, likewise.
    """
    _, *others = inspect.signature(function).parameters
    # Of several processes pmap wants a tree that can be hashed, which a tuple of its leaves can.
    axes, structure = jax.tree.flatten(out_axes, is_leaf=lambda axis: axis is None)

    def flat(_: Array, *arguments: Any) -> Any:
        returned = function(*arguments)
        return returned if out_axes is None else tuple(jax.tree.leaves(returned))

    mapped = jax.pmap(
        flat,  # pmap wants an argument that is mapped, too
        "devices",
        in_axes=(0, first_axes, *(None for _ in others)),
        out_axes=None if out_axes is None else tuple(axes),
        devices=devices,
        donate_argnums=tuple(number + 1 for number in donate),
    )
    call = functools.partial(mapped, np.arange(len(hosts.own(devices))))
    if out_axes is None:
        return call
    return lambda *arguments: jax.tree.unflatten(structure, call(*arguments))


def over_shares(function: Callable, shares: Shares) -> Callable:
    """`over_devices` for a function of a model's variables, and of more."""
    mapped: Callable | None = None

    def call(variables: Variables, *others: Any) -> Any:
        nonlocal mapped
        if mapped is None:
            mapped = over_devices(function, shares.devices, first_axes=shares.axes(variables))
        return mapped(variables, *others)

    return call


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """The same arrays on every device of this process, placed as `over_devices` returns them.

    A state placed otherwise would make the first call compile twice.
    """
    mesh = jax.sharding.Mesh(np.array(hosts.own(devices)), ("devices",))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def share(tree: Any, num_devices: int) -> Any:
    """This device's part of arrays `[B, ...]`, inside the map over devices."""

    def part(array: Array) -> Array:
        size = array.shape[0] // num_devices
        return lax.dynamic_slice_in_dim(array, lax.axis_index("devices") * size, size)

    return tree if num_devices == 1 else jax.tree.map(part, tree)


def draw_batch(
    experiment: Experiment,
    source: Source,
    row: Array,
    keys: tuple[Array, Array],
    maximum: int,
    num_devices: int = 1,
) -> Batch:
    """The images of one step: targets of this device, and the whole memory.

    Args:
        experiment: sampler, batch size and binarisation.
        source: of the split.
        row: of the sampler's plan.
        keys: what draws the places, and what binarises.
        maximum: the grey value that counts as full ink.
        num_devices: that share the targets.
    """
    drawn = experiment.sampler.draw(source.tables, row, keys[0], experiment.train.batch_size)
    targets, labels = share((drawn.targets, drawn.labels), num_devices)
    mine = dataclasses.replace(drawn, targets=targets, labels=labels)
    return data.gather(mine, source.images, keys[1], experiment.data.binarisation, maximum)


def training_keys(experiment: Experiment, state: TrainState, epoch: Array) -> tuple[Array, Array]:
    """The keys of `draw_batch` for one step of training."""
    anew = experiment.data.binarisation == "every_epoch"
    binarisation = training.binarisation_key(state.seed, epoch if anew else None)
    return jax.random.fold_in(training.stream(state.seed, "sampler"), state.step), binarisation


def blank_batch(experiment: Experiment, split: Split, maximum: int, num_devices: int) -> Batch:
    """A batch of zeros, of the shapes that each device gets."""
    sampler, size = experiment.sampler, experiment.train.batch_size
    row = sampler.plan(0, 0, len(split), size)[0]
    key = training.stream(0, "sampler")

    def whole(images: Array, tables: Any, row: Array) -> Batch:
        return draw_batch(experiment, Source(images, tables), row, (key, key), maximum)

    shapes = jax.eval_shape(whole, split.images, sampler.tables(split), row)
    batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    targets = (batch.images, batch.index, batch.labels)
    images, index, labels = jax.tree.map(lambda leaf: leaf[: size // num_devices], targets)
    return dataclasses.replace(batch, images=images, index=index, labels=labels)


def make_optimizer(experiment: Experiment, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of an experiment."""
    fields = dataclasses.asdict(experiment.optimizer)
    optimizer = training.make_optimizer(**fields, steps_per_epoch=steps_per_epoch)
    skips = experiment.train.on_nonfinite == "skip"
    return training.skip_nonfinite(optimizer) if skips else optimizer


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
    replicas: bool = False,
    axes: Any = None,
) -> Callable[..., RunState]:
    """A function (run state, source, plan, epoch, first, count) -> run state.

    It takes `count` steps of an epoch, from row `first` of the plan on. `count` is an argument, not
    a constant, so that one compilation serves calls of every length.

    Args:
        experiment: sampler and binarisation.
        step: from `training.make_train_step`.
        maximum: the grey value that counts as full ink.
        devices: to map over.
        replicas: whether run state and plan have another axis in front, of seeds that do not know
            of each other.
        axes: of the run state, see `Shares.axes`.
    """

    def one_step(i: Array, carry: tuple[RunState, Any]) -> tuple[RunState, Any]:
        run, (source, plan, epoch, first) = carry
        keys = training_keys(experiment, run.train, epoch)
        batch = draw_batch(experiment, source, plan[first + i], keys, maximum, len(devices))
        state, metrics = step(run.train, batch)
        return counted(run, state, metrics), (source, plan, epoch, first)

    def call(
        run: RunState, source: Source, plan: Array, epoch: Array, first: Array, count: Array
    ) -> RunState:
        return lax.fori_loop(0, count, one_step, (run, (source, plan, epoch, first)))[0]

    mapped = _over_replicas(call) if replicas else call
    return over_devices(mapped, devices, donate=(0,), first_axes=axes, out_axes=axes)


def counted(run: RunState, state: TrainState, metrics: Metrics) -> RunState:
    """A run after one more step."""
    nonfinite = metrics.pop("nonfinite")
    taken, noted = 1, jnp.any(nonfinite)
    failed = noted
    if isinstance(state.opt_state, optax.ApplyIfFiniteState):
        taken = state.opt_state.last_finite
        metrics = jax.tree.map(lambda leaf: jnp.where(taken, leaf, 0), metrics)
        noted = ~taken
        failed = state.opt_state.notfinite_count >= MOST_SKIPPED
    goes_on = run.nonfinite_step < 0
    return RunState(
        train=state,
        totals=jax.tree.map(jnp.add, run.totals, metrics),
        counted=run.counted + taken,
        nonfinite_step=jnp.where(failed & goes_on, state.step, run.nonfinite_step),
        nonfinite=jnp.where(noted & goes_on, nonfinite, run.nonfinite),
    )


def _over_replicas(call: Callable[..., RunState]) -> Callable[..., RunState]:
    """A call for each replica: all at once, or on CPUs one after the other.

    A CPU takes longer for a batch of matrix products than for one after the other.
    """

    def calls(
        run: RunState, source: Source, plan: Array, epoch: Array, first: Array, count: Array
    ) -> RunState:
        def one(run: RunState, plan: Array) -> RunState:
            return call(run, source, plan, epoch, first, count)

        def replace(i: Array, every: RunState) -> RunState:
            new = one(jax.tree.map(lambda leaf: leaf[i], every), plan[i])
            return jax.tree.map(lambda old, leaf: old.at[i].set(leaf), every, new)

        if jax.default_backend() == "cpu":
            # In place: `lax.map` would copy all states once more.
            return lax.fori_loop(0, plan.shape[0], replace, run)
        return jax.vmap(one)(run, plan)

    return calls


def initial_run_state(
    model: Module, objective: Objective, state: TrainState, batch: Batch
) -> RunState:
    """A run that has taken no step; `batch` gives the shapes."""
    metrics = training.blank_metrics(model, objective, state, batch)
    nonfinite = metrics.pop("nonfinite")
    return RunState(state, metrics, jnp.int32(0), nonfinite_step=jnp.int32(-1), nonfinite=nonfinite)


def make_start(experiment: Experiment, dataset: Dataset) -> Start:
    """How the runs of an experiment begin.

    Args:
        experiment: with the model's image shape filled in.
        dataset: whose training split gives the shapes.
    """
    split, size = dataset.splits["train"], experiment.train.batch_size
    optimizer = make_optimizer(experiment, experiment.sampler.steps_per_epoch(len(split), size))

    @jax.jit
    def start(seed: Array) -> RunState:
        # Of one device: the metrics are the same, and need no others.
        batch = blank_batch(experiment, split, dataset.maximum, 1)
        state = training.create_state(experiment.model, optimizer, batch, seed)
        return initial_run_state(experiment.model, experiment.objective, state, batch)

    return start


def start_on_each(
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    batch: Batch,
    shares: Shares,
    shapes: RunState,
) -> Callable[[Array], RunState]:
    """The function of `make_start` on devices of which none holds all of a run.

    Args:
        experiment: whose model has shared parameters.
        optimizer: of the run.
        batch: gives the shapes of a device's batch.
        shares: over the devices.
        shapes: of such a run.
    """

    def share(seed: Array) -> RunState:
        state = training.create_state(shares.model(experiment.model), optimizer, batch, seed)
        blank = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes.totals, shapes.nonfinite)
        )
        return RunState(state, blank[0], jnp.int32(0), jnp.int32(-1), blank[1])

    return over_devices(share, shares.devices, out_axes=shares.axes(shapes))


def said_nonfinite(run: RunState) -> str:
    """What was not finite, by the names of the parameters."""
    names = [name for name, _ in named_leaves(run.train.params)]
    objective, *leaves = np.asarray(run.nonfinite).tolist()
    found = [name for name, bad in zip(names, leaves, strict=True) if bad]
    parts = ["the objective"] if objective else []
    if found:
        more = f" and of {len(found) - 1} more parameters" if found[1:] else ""
        parts.append(f"the gradient of {found[0]}{more}")
    said = " and ".join(parts) or "the batch statistics"
    return f"{said} {'is' if len(parts) == 1 else 'are'} not finite"


def said_skipped(state: TrainState) -> str | None:
    """How many steps of a run were skipped, and since when; None if none was."""
    total, row = skipped(state)
    if not total:
        return None
    step = int(state.step)
    since = f", the last {row} of them in a row, from step {step - row + 1} on" if row else ""
    return f"{total} of {step} steps were not finite and skipped{since}"


def skipped(state: TrainState) -> tuple[int, int]:
    """Steps that were skipped, and those of them that are the last steps taken."""
    found = state.opt_state
    if not isinstance(found, optax.ApplyIfFiniteState):
        return 0, 0
    return int(found.total_notfinite), int(found.notfinite_count)


def first_nonfinite(state: TrainState) -> str | None:
    """The first array of a state that is not finite, by its name."""
    for path, leaf in named_leaves(state):
        if not jnp.isfinite(leaf).all():
            kind, name = path.split("/", 1)
            return f"the {_KINDS[kind]} {name}"
    return None


_KINDS = {
    "params": "parameter",
    "batch_stats": "batch statistic",
    "opt_state": "state of the optimiser",
}


def named_leaves(tree: Any) -> list[tuple[str, Array]]:
    """Arrays by their paths, such as `decoder_0/weights`."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
