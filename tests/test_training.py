"""One training step: the same on every number of devices, and the optimiser that it takes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from memjax import configs, objectives, sampling, training
from memjax.config import OptimizerConfig
from memjax.data import Split
from memjax.errors import InputError
from memjax.types import Batch
from train import devices
from train.devices import RunState

from . import tiny
from .linear_gaussian import LinearGaussian

BATCH_SIZE = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (80, *tiny.IMAGE_SHAPE), dtype=np.uint8)
BASE = configs.get("mem_vae_digits")
EXPERIMENT = dataclasses.replace(
    BASE,
    model=tiny.mem_vae(),
    objective=dataclasses.replace(BASE.objective, num_samples=2),
    train=dataclasses.replace(BASE.train, batch_size=BATCH_SIZE),
)
# Keeps the gradient in its state, then does what training does.
OPTIMIZER = optax.chain(
    optax.trace(decay=0.0),
    training.make_optimizer(**dataclasses.asdict(EXPERIMENT.optimizer), steps_per_epoch=10),
)


@functools.cache
def compiled(num_devices: int) -> tuple[Any, RunState]:
    """The call of a run on so many devices, and its initial state on the host."""
    step = devices.make_step(EXPERIMENT, OPTIMIZER, jax.devices()[:num_devices])
    call = devices.make_call(EXPERIMENT, step, 255, jax.devices()[:num_devices])
    batch = devices.blank_batch(EXPERIMENT, Split(IMAGES), 255, num_devices)

    @tiny.quick_jit
    def initial() -> RunState:
        state = training.create_state(EXPERIMENT.model, OPTIMIZER, batch, seed=3)
        return devices.initial_run_state(EXPERIMENT.model, EXPERIMENT.objective, state, batch)

    return call, jax.tree.map(np.asarray, initial())


def take_steps(
    num_devices: int, *counts: int, epoch: int = 0, state: RunState | None = None
) -> RunState:
    """Calls of `counts` steps, one after the other, through the first epoch's batches."""
    call, initial = compiled(num_devices)
    used = jax.devices()[:num_devices]
    state = devices.replicate(initial if state is None else state, used)
    source = devices.Source.of(EXPERIMENT, Split(IMAGES), used)
    plan = np.arange(80).reshape(-1, BATCH_SIZE)
    for first, count in zip(np.cumsum([0, *counts]), counts, strict=False):
        state = call(state, source, plan, *map(jnp.int32, (epoch, first, count)))
    return jax.tree.map(np.asarray, state)


def with_params(state: RunState, params: Any, **fields: Any) -> RunState:
    return dataclasses.replace(
        state, train=dataclasses.replace(state.train, params=params, **fields)
    )


def largest(tree: Any) -> float:
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def difference(a: Any, b: Any) -> Any:
    return jax.tree.map(np.subtract, a, b)


def test_gradient_does_not_know_the_number_of_devices() -> None:
    one, four = take_steps(1, 1), take_steps(4, 1)
    gradients = [state.train.opt_state[0].trace for state in (one, four)]
    # Relative to the whole: biases in front of batch norm have no gradient but rounding.
    assert largest(gradients[0]) > 1e-2
    assert largest(difference(*gradients)) < 1e-5 * largest(gradients[0])
    assert largest(difference(one.train.batch_stats, four.train.batch_stats)) < 1e-6
    for name, total in one.totals.items():
        np.testing.assert_allclose(four.totals[name], total, rtol=1e-5, err_msg=name)


def test_parameters_after_ten_steps_on_one_and_four_devices() -> None:
    one, four = take_steps(1, 10), take_steps(4, 10)
    initial = compiled(1)[1].train.params
    assert largest(difference(one.train.params, initial)) > 1e-3
    assert largest(difference(one.train.params, four.train.params)) < 1e-4
    assert one.train.step == four.train.step == 10


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (1, 3), (3, 1)])
def test_one_call_of_four_steps_is_four_calls(counts: tuple[int, ...]) -> None:
    jax.tree.map(np.testing.assert_array_equal, take_steps(1, *counts), take_steps(1, 4))


def test_totals_add_up() -> None:
    states = [take_steps(1, count) for count in (1, 2)]
    assert [int(state.counted) for state in states] == [1, 2]
    assert set(states[0].totals) >= {
        "iwae_bound",
        "elbo",
        "objective",
        "penalty",
        "reconstruction_nll",
    }
    for state in states:
        expected = state.totals["iwae_bound"] - state.totals["penalty"]
        np.testing.assert_allclose(state.totals["objective"], expected, rtol=1e-5)
        assert state.totals["elbo"] <= state.totals["iwae_bound"]


def test_steps_differ_in_noise_and_epochs_in_binarisation() -> None:
    first, later = take_steps(1, 1), take_steps(1, 1, epoch=1)
    assert first.totals["iwae_bound"] != later.totals["iwae_bound"]
    initial = compiled(1)[1]
    moved = with_params(initial, initial.train.params, step=np.int32(1))
    assert take_steps(1, 1, state=moved).totals["iwae_bound"] != first.totals["iwae_bound"]


@pytest.mark.parametrize("num_devices", [1, 4])
def test_the_first_step_that_fails_is_named(num_devices: int) -> None:
    initial = compiled(num_devices)[1]
    assert take_steps(num_devices, 1).nonfinite_step == -1
    params = dict(initial.train.params)
    params["image_mean"] = {**params["image_mean"], "bias": np.full(12, np.nan, np.float32)}
    poisoned = with_params(initial, params, step=np.int32(5))
    found = take_steps(num_devices, 1, 2, state=poisoned)
    # After five steps: the sixth fails, and stays the first that did.
    assert found.nonfinite_step == 6 and found.train.step == 8


@pytest.mark.parametrize("binarisation", ["none", "fixed", "every_epoch"])
def test_binarisation_of_a_batch(binarisation: Any) -> None:
    experiment = dataclasses.replace(
        EXPERIMENT, data=dataclasses.replace(EXPERIMENT.data, binarisation=binarisation)
    )
    index = jnp.array([70, 3, 20])
    state = compiled(1)[1].train

    @tiny.quick_jit
    def images(epoch: jax.Array) -> jax.Array:
        keys = devices.training_keys(experiment, state, epoch)
        source = devices.Source(jnp.asarray(IMAGES), None)
        return devices.draw_batch(experiment, source, index, keys, 255).images

    first, again, second = images(0), images(0), images(1)
    np.testing.assert_array_equal(first, again)
    assert bool((first == second).all()) == (binarisation != "every_epoch")
    if binarisation == "none":
        np.testing.assert_allclose(first, IMAGES[np.asarray(index)] / 255, rtol=1e-6)
    else:
        assert set(np.unique(first)) == {0.0, 1.0}


def test_a_step_of_another_model_follows_the_gradient() -> None:
    # No batch norm, no penalty: only the protocol is shared with MEM-VAE.
    model, objective = LinearGaussian(), objectives.Pathwise(3)
    images = np.random.default_rng(1).standard_normal((6, 2, 3, 1)).astype(np.float32)
    batch = Batch(jnp.asarray(images), jnp.arange(6))
    optimizer = optax.sgd(1.0)
    state = tiny.quick_jit(lambda: training.create_state(model, optimizer, batch, seed=1))()

    def value(params: Any) -> jax.Array:
        key = jax.random.fold_in(training.stream(1, "noise"), 0)
        keys = sampling.sample_keys(key, batch.index, jnp.arange(3))
        terms, _ = sampling.sample_terms(model, {"params": params}, batch, keys, False)
        return jnp.mean(objective(terms))

    step = training.make_train_step(model, objective, optimizer)
    mapped = jax.vmap(step, in_axes=(None, 0), out_axes=None, axis_name="devices")
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:]), batch)
    moved, metrics = tiny.quick_jit(mapped)(state, halves)
    expected, gradient = tiny.quick_jit(jax.value_and_grad(value))(state.params)
    np.testing.assert_allclose(metrics["objective"], expected, rtol=1e-5)
    assert moved.step == 1
    climbed = difference(moved.params, state.params)  # upwards: the objective is maximised
    assert largest(difference(climbed, gradient)) < 1e-5 * largest(gradient)


def optimizer(steps_per_epoch: int = 1, **fields: Any) -> optax.GradientTransformation:
    config = dataclasses.asdict(OptimizerConfig(**fields))
    return training.make_optimizer(**config, steps_per_epoch=steps_per_epoch)


def learning_rates(chosen: optax.GradientTransformation, steps: int) -> np.ndarray:
    """Of a gradient that is always one Adam makes the learning rate, to 1 / (1 + epsilon)."""
    one = jnp.ones(1)

    def step(state: Any, _: None) -> tuple[Any, jax.Array]:
        updates, state = chosen.update(one, state, one)
        return state, -updates[0]

    return np.asarray(jax.jit(lambda: lax.scan(step, chosen.init(one), length=steps)[1])())


def test_weight_decay_pulls_all_but_the_undecayed_towards_zero() -> None:
    params = {"memory": jnp.array([2.0, -3.0]), "dense": {"kernel": jnp.array([5.0, -7.0])}}
    gradient = jax.tree.map(lambda leaf: 0.1 * leaf**2, params)
    unlimited = {"clip_global_norm": 0.0, "clip_element": 0.0}
    decayed = optimizer(weight_decay=0.5, undecayed=("memory",), **unlimited)
    by_hand = {"memory": gradient["memory"], "dense": {"kernel": gradient["dense"]["kernel"]}}
    by_hand["dense"]["kernel"] += 0.5 * params["dense"]["kernel"]
    plain = optimizer(**unlimited)
    expected, _ = plain.update(by_hand, plain.init(params), params)
    found, _ = decayed.update(gradient, decayed.init(params), params)
    jax.tree.map(np.testing.assert_allclose, found, expected)


def test_undecayed_names_are_those_of_parameters() -> None:
    with pytest.raises(InputError, match=r"^optimizer.undecayed: found 'slots', expected names"):
        optimizer(weight_decay=0.5, undecayed=("slots",)).init({"memory": jnp.zeros(1)})


def test_learning_rate_of_the_paper() -> None:
    found = learning_rates(optimizer(epsilon=1e-12), 3000)
    np.testing.assert_allclose(found[:1000], 1e-3, rtol=1e-4)
    expected = 1e-3 * 0.998 ** np.arange(1, 2001)
    np.testing.assert_allclose(found[1000:], expected, rtol=3e-4)
    np.testing.assert_allclose(found[-1], 1.8e-5, rtol=0.02)


def test_learning_rate_falls_between_epochs() -> None:
    chosen = optimizer(steps_per_epoch=4, epsilon=1e-12, constant_epochs=3, decay=0.5)
    found = learning_rates(chosen, 24)
    expected = 1e-3 * np.repeat([1, 1, 1, 0.5, 0.25, 0.125], 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_learning_rate_of_several_stretches() -> None:
    fields = {"constant_epochs": 2, "later_rates": (3e-4, 1e-4)}
    chosen = optimizer(steps_per_epoch=2, epsilon=1e-12, decay=0.5, **fields)
    expected = np.repeat([1e-3, 1e-3, 3e-4, 3e-4, 1e-4, 1e-4, 5e-5, 2.5e-5], 2)
    np.testing.assert_allclose(learning_rates(chosen, 16), expected, rtol=1e-4)
    of_the_paper = dataclasses.asdict(configs.get("gmn_table1").optimizer)
    of_the_paper |= {"epsilon": 1e-12, "steps_per_epoch": 1}
    found = learning_rates(training.make_optimizer(**of_the_paper), 900)
    expected = np.repeat([1e-3, 3e-4, 1e-4, 1e-4], [250, 250, 250, 150])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("steps_per_epoch", [321, 600])
def test_learning_rate_falls_at_the_first_step_of_every_epoch(steps_per_epoch: int) -> None:
    # Without moments Adam makes the learning rate of the step, whichever it is.
    chosen = optimizer(steps_per_epoch, b1=0.0, b2=0.0, epsilon=1e-12)
    one = jnp.ones(1)

    def learning_rate(count: jax.Array) -> jax.Array:
        state = optax.tree_utils.tree_set(chosen.init(one), count=count)
        return -chosen.update(one, state, one)[0][0]

    epochs = np.arange(1, 3000)
    found = jax.jit(jax.vmap(jax.vmap(learning_rate)))(
        jnp.asarray(epochs * steps_per_epoch)[:, None] + jnp.array([-1, 0])
    )
    last, first = (1e-3 * 0.998 ** np.maximum(epochs + i - 1000, 0) for i in (0, 1))
    np.testing.assert_allclose(found, np.stack([last, first], axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # The norm is 50: first (3, 4), then (1, 1).
        ({}, (1.0, 1.0)),
        ({"clip_element": 0.0}, (3.0, 4.0)),
        ({"clip_global_norm": 0.0}, (1.0, 1.0)),
        ({"clip_element": 3.5}, (3.0, 3.5)),
        ({"clip_element": 0.0, "clip_global_norm": 0.0}, (30.0, 40.0)),
        ({"clip_global_norm": 0.5}, (0.3, 0.4)),
        ({"clip_global_norm": 100.0, "clip_element": 35.0}, (30.0, 35.0)),
    ],
)
def test_clipping(fields: dict[str, float], expected: tuple[float, float]) -> None:
    # With epsilon = 1 the first step of Adam is g / (|g| + 1), from which g is seen.
    chosen = optimizer(learning_rate=1.0, epsilon=1.0, **fields)
    gradient = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    updates, _ = chosen.update(gradient, chosen.init(gradient), gradient)
    for name, clipped in zip("ab", expected, strict=True):
        np.testing.assert_allclose(-updates[name], clipped / (clipped + 1), rtol=1e-4)


def test_adam_by_hand() -> None:
    chosen = optimizer(b1=0.8, b2=0.95, epsilon=1e-2)
    params = jnp.zeros(1)
    state = chosen.init(params)
    first, second = 0.0, 0.0
    for step, gradient in enumerate((0.5, -0.25, 0.75), start=1):
        updates, state = chosen.update(jnp.array([gradient]), state, params)
        first = 0.8 * first + 0.2 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        moment, root = first / (1 - 0.8**step), np.sqrt(second / (1 - 0.95**step))
        np.testing.assert_allclose(updates[0], -1e-3 * moment / (root + 1e-2), rtol=1e-4)


def test_streams_are_independent() -> None:
    assert len(set(training.STREAMS)) == len(training.STREAMS)
    keys = [training.stream(seed, name) for seed in (0, 1) for name in training.STREAMS]
    keys += [training.binarisation_key(0, epoch) for epoch in (0, 1)]
    found = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}
    assert len(found) == len(keys)
    # Runs are resumed by later versions: a stream keeps its place.
    assert training.STREAMS[:3] == ("initialisation", "noise", "binarisation")


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_targets_are_shared_by_devices(num_devices: int) -> None:
    targets = jnp.arange(8) + 10
    used = jax.devices()[:num_devices]
    shared = devices.over_devices(
        lambda whole: jax.lax.all_gather(devices.share(whole, num_devices), "devices"),
        used,
    )(targets)
    assert shared.shape == (num_devices, 8 // num_devices)
    np.testing.assert_array_equal(shared.reshape(-1), targets)
