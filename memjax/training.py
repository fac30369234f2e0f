"""One training step for every model: state, optimiser, step. The caller maps and compiles it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from memjax import bounds, sampling
from memjax.errors import InputError
from memjax.types import Array, Batch, Module, Objective, Terms

Metrics = dict[str, Array]


@flax.struct.dataclass
class TrainState:
    """Everything that determines the future of a run.

    Attributes:
        params: the model's parameters.
        batch_stats: moving averages of batch norm.
        opt_state: the optimiser's state.
        step: int32, steps taken.
        seed: uint32, from which all noise, shuffling and binarisation follow.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    step: Array
    seed: Array

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def stream(seed: Array | int, name: str) -> Array:
    """The key of one of a run's independent sources of randomness.

    Args:
        seed: the run's seed.
        name: one of `STREAMS`.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), STREAMS.index(name))


def binarisation_key(seed: Array | int, epoch: Array | int | None) -> Array:
    """The key that binarises the training images in an epoch; None for one key in all epochs."""
    key = stream(seed, "binarisation")
    return key if epoch is None else jax.random.fold_in(key, epoch)


STREAMS = (
    "initialisation",
    "noise",
    "binarisation",
    "validation",
    "evaluation",
    "samples",
    "evaluation_binarisation",
    "validation_binarisation",
    "statistics",
    "sampler",
    "validation_sampler",
    "evaluation_sampler",
    "imputation",
)


def make_optimizer(
    *,
    learning_rate: float,
    b1: float,
    b2: float,
    epsilon: float,
    constant_epochs: int,
    decay: float,
    clip_global_norm: float,
    clip_element: float,
    weight_decay: float,
    undecayed: tuple[str, ...],
    steps_per_epoch: int,
    later_rates: tuple[float, ...] = (),
) -> optax.GradientTransformation:
    """Clip by global norm, clip each element, decay weights, Adam with a rate for each epoch.

    Args:
        learning_rate: of the first `constant_epochs` epochs.
        b1: decay of Adam's first moment.
        b2: decay of Adam's second moment.
        epsilon: added to the root of Adam's second moment.
        constant_epochs: epochs of each constant learning rate.
        decay: factor on the last of them at every epoch after it.
        clip_global_norm: largest norm of the whole gradient; 0 for no limit.
        clip_element: largest magnitude of each element; 0 for no limit.
        weight_decay: times half the squared norm of the parameters is added to what is minimised.
        undecayed: names of parameters that are left out of it.
        steps_per_epoch: steps in one epoch.
        later_rates: learning rates of further stretches of `constant_epochs` epochs.

    Source: Kingma and Ba 2015; the limits are those of the first paper's code.
    """
    rates = (learning_rate, *later_rates)

    def schedule(count: Array) -> Array:
        # In integers: XLA divides floats by a rounded reciprocal, and is an epoch late at times.
        epoch = count // steps_per_epoch
        decays = jnp.maximum(epoch - (constant_epochs * len(rates) - 1), 0)
        rate = jnp.asarray(rates, jnp.float32)[
            jnp.minimum(epoch // constant_epochs, len(rates) - 1)
        ]
        return rate * decay ** decays.astype(jnp.float32)

    clips = []
    if clip_global_norm:
        clips.append(optax.clip_by_global_norm(clip_global_norm))
    if clip_element:
        clips.append(optax.clip(clip_element))
    decays = []
    if weight_decay:
        mask = functools.partial(_decayed, undecayed)
        decays.append(optax.add_decayed_weights(weight_decay, mask))
    return optax.chain(*clips, *decays, optax.adam(schedule, b1=b1, b2=b2, eps=epsilon))


def skip_nonfinite(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """An optimiser that counts the steps that are not `sound`, and keeps its state in them.

    The training step sees it by the state, and then leaves the model as it was too. The state is
    that of `optax.apply_if_finite`, which looks through the gradient once more, and whose
    condition copies all of the optimiser's state: a tenth of a step, where choosing is nearly
    free.
    """

    def update(
        gradient: Any,
        state: optax.ApplyIfFiniteState,
        params: Any = None,
        *,
        sound: Array,
        **_: Any,
    ) -> tuple[Any, optax.ApplyIfFiniteState]:
        updates, inner_state = optimizer.update(gradient, state.inner_state, params)
        # However many come in a row, none is taken: whoever calls the step decides when to stop.
        return updates, optax.ApplyIfFiniteState(
            notfinite_count=jnp.where(sound, 0, state.notfinite_count + 1),
            last_finite=sound,
            total_notfinite=state.total_notfinite + jnp.where(sound, 0, 1),
            inner_state=_choose(sound, inner_state, state.inner_state),
        )

    init = optax.apply_if_finite(optimizer, max_consecutive_errors=0).init
    return optax.GradientTransformationExtraArgs(init, update)


def _choose(first: Array, one: Any, other: Any) -> Any:
    """The first of two trees, or the second, to the bit."""
    return jax.tree.map(functools.partial(jnp.where, first), one, other)


def _decayed(undecayed: tuple[str, ...], params: Any) -> Any:
    """A tree like `params`, False for those of the names."""
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [path[-1].key for path, _ in flat]
    for name in undecayed:
        if name not in names:
            raise InputError(
                f"optimizer.undecayed: found {name!r}, expected names of the model's parameters, "
                f"some of {sorted(set(names))}"
            )
    return jax.tree_util.tree_unflatten(tree, [name not in undecayed for name in names])


def create_state(
    model: Module, optimizer: optax.GradientTransformation, batch: Batch, seed: Array | int
) -> TrainState:
    """The state before the first step; `batch` gives the shapes."""
    variables = sampling.initialise(model, stream(seed, "initialisation"), batch)
    return TrainState(
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        step=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
    )


def make_train_step(
    model: Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    device_axis: str | None = "devices",
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A step over one device's share of a batch.

    Args:
        model: a linen module that follows `types.Model`.
        objective: Terms `[K, B]` -> `[B]`, maximised.
        optimizer: an optax chain.
        device_axis: the mapped axis over which gradients, metrics and batch norm are averaged; None
            where there is one device, whose exchange with itself takes a twentieth of a step. Of
            the model's `shared_parameters` each device has its part, and its part of the gradient.

    Returns:
        A function (state, batch) -> (state, metrics). Metrics are in nats, averaged over the whole
        batch: `iwae_bound`, `elbo`, `objective`, `penalty`, `reconstruction_nll` (of
        -log p(x | z)), and the model's own diagnostics; scalars all but a `posterior`, `[M]`.
        Beside them `nonfinite`, bool: whether the objective is not finite, and which leaves of its
        gradient.
    """
    axes = ("samples",) if device_axis is None else ("samples", device_axis)
    loss = functools.partial(_loss, model.clone(batch_axes=axes), objective)
    shared = getattr(model, "shared_parameters", ())
    optimizer = optax.with_extra_args_support(optimizer)  # others than `skip_nonfinite` take none

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        gradient, (metrics, batch_stats) = jax.grad(loss, has_aux=True)(state.params, state, batch)
        if device_axis is not None:
            gradient = _over_devices(gradient, device_axis, shared)
            metrics = lax.pmean(metrics, device_axis)
        metrics["nonfinite"] = _nonfinite(metrics["objective"], gradient)
        if device_axis is not None and shared:
            metrics["nonfinite"] = lax.pmax(metrics["nonfinite"], device_axis)
        sound = ~jnp.any(metrics["nonfinite"]) & all_finite(batch_stats)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, sound=sound)
        params = optax.apply_updates(state.params, updates)
        if isinstance(opt_state, optax.ApplyIfFiniteState):
            params, batch_stats = _choose(
                sound, (params, batch_stats), (state.params, state.batch_stats)
            )
        state = dataclasses.replace(
            state, params=params, batch_stats=batch_stats, opt_state=opt_state, step=state.step + 1
        )
        return state, metrics

    return step


def blank_metrics(model: Module, objective: Objective, state: TrainState, batch: Batch) -> Metrics:
    """The metrics of a step as zeros, for their shapes; no gradient is traced."""
    loss = functools.partial(_loss, model.clone(batch_axes=("samples",)), objective)
    _, (metrics, _) = jax.eval_shape(loss, state.params, state, batch)
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)
    return blank | {"nonfinite": jnp.zeros(1 + len(jax.tree.leaves(state.params)), bool)}


def _loss(
    model: Module, objective: Objective, params: Any, state: TrainState, batch: Batch
) -> tuple[Array, tuple[Metrics, Any]]:
    """What is minimised, with the metrics and the new batch statistics."""
    key = jax.random.fold_in(stream(state.seed, "noise"), state.step)
    keys = sampling.sample_keys(key, batch.index, jnp.arange(objective.num_samples))
    variables = {"params": params, "batch_stats": state.batch_stats}
    terms, batch_stats = sampling.sample_terms(model, variables, batch, keys, True)
    value = jnp.mean(objective(terms))
    return -value, (_metrics(terms, value), batch_stats)


def _over_devices(gradient: Any, axis: str, shared: Sequence[str]) -> Any:
    """The gradient of the mean over all devices, of this one's part of what they share."""
    count = lax.axis_size(axis)

    def one(path: Any, leaf: Array) -> Array:
        # What is read from another device takes its gradient there: the sum is complete.
        return leaf / count if path[-1].key in shared else lax.pmean(leaf, axis)

    if not shared:
        return lax.pmean(gradient, axis)
    return jax.tree_util.tree_map_with_path(one, gradient)


def _nonfinite(objective: Array, gradient: Any) -> Array:
    """`[1 + leaves]`: the objective, then each leaf of the gradient.

    The norm is computed anyway to limit it, and says in one number that there is nothing to find.
    """
    leaves = [objective, *jax.tree.leaves(gradient)]
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in leaves[1:])
    return lax.cond(
        jnp.isfinite(objective) & jnp.isfinite(squares),
        lambda: jnp.zeros(len(leaves), bool),
        lambda: jnp.stack([~jnp.isfinite(leaf).all() for leaf in leaves]),
    )


def all_finite(tree: Any) -> Array:
    """Whether every number of a tree is finite."""
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def _metrics(terms: Terms, objective: Array) -> Metrics:
    named = {
        "iwae_bound": bounds.iwae_bound(terms.log_weights),
        "elbo": bounds.elbo(terms.log_weights),
        "objective": objective,
        "penalty": terms.penalty,
        "reconstruction_nll": -terms.log_likelihood,
    }
    means = {name: jnp.mean(value) for name, value in named.items()}
    return means | {name: value.mean(axis=(0, 1)) for name, value in terms.diagnostics.items()}
