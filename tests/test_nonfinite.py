"""Numbers that are not finite: the run stops and says where, or skips the step and counts it."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import memjax
import train
from memjax import training
from memjax.errors import InputError
from memjax.objectives import pathwise
from memjax.training import TrainState
from memjax.types import Batch, Terms
from tests import eval_runs, runs
from tests.tiny import quick_jit
from train import devices


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with eval_runs.one_device():
        yield


class Line(nn.Module):
    """The smallest model that has parameters and batch statistics."""

    batch_axes: tuple[str, ...] = ()

    def setup(self) -> None:
        self.slope = self.param("slope", nn.initializers.ones, (2,))
        self.shift = self.param("shift", nn.initializers.zeros, ())
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, ())

    def encode(self, batch: Batch, train: bool) -> jax.Array:
        value = jnp.mean(batch.images, axis=(1, 2, 3))
        if train and not self.is_initializing():
            self.mean.value = jnp.mean(value)
        return value

    def terms(self, batch: Batch, encoding: jax.Array, keys: Any, train: bool) -> Terms:
        zero = jnp.zeros_like(encoding)
        # The gradient of `slope` alone is not finite at images of exactly one.
        steep = jnp.sqrt(jnp.maximum(self.slope[0] - encoding, 0.0))
        likelihood = -((self.shift - encoding) ** 2) + 0.0 * steep
        return Terms(likelihood, zero, zero, zero, zero, zero)


@dataclasses.dataclass(frozen=True)
class Plain:
    num_samples: int = 1

    def __call__(self, terms: Terms) -> jax.Array:
        return terms.log_likelihood[0]


def batch(value: float) -> Batch:
    return Batch(jnp.full((2, 1, 1, 1), value), jnp.arange(2))


def step_of(skips: bool) -> tuple[Any, TrainState]:
    optimizer = optax.sgd(0.1)
    optimizer = training.skip_nonfinite(optimizer) if skips else optimizer
    state = training.create_state(Line(), optimizer, batch(0.5), 0)
    return quick_jit(training.make_train_step(Line(), Plain(), optimizer, None)), state


@pytest.mark.parametrize(
    ("value", "expected"),
    # The objective, then the gradients of shift and slope.
    [(0.5, [0, 0, 0]), (1.0, [0, 0, 1]), (np.nan, [1, 1, 1]), (np.inf, [1, 1, 1])],
)
def test_what_is_not_finite_is_named(value: float, expected: list[int]) -> None:
    step, state = step_of(skips=False)
    after, metrics = step(state, batch(value))
    assert metrics["nonfinite"].tolist() == [bool(one) for one in expected]
    run = devices.RunState(after, {}, jnp.int32(0), jnp.int32(1), metrics["nonfinite"])
    said = {
        0.5: "the batch statistics is not finite",
        1.0: "the gradient of slope is not finite",
    }.get(value, "the objective and the gradient of shift and of 1 more parameters are not finite")
    assert devices.said_nonfinite(run) == said


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_a_skipped_step_leaves_the_model_as_it_was(value: float) -> None:
    step, state = step_of(skips=True)
    state, _ = step(state, batch(0.25))
    after, metrics = step(state, batch(value))
    assert bool(jnp.any(metrics["nonfinite"]))
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    jax.tree.map(
        np.testing.assert_array_equal, after.opt_state.inner_state, state.opt_state.inner_state
    )
    assert (int(after.step), int(after.opt_state.total_notfinite)) == (2, 1)
    again, _ = step(after, batch(0.5))
    assert again.opt_state.notfinite_count == 0
    assert again.batch_stats["mean"] == 0.5
    # Without it they would have been poisoned.
    plain, before = step_of(skips=False)
    poisoned, _ = plain(before, batch(value))
    assert not bool(training.all_finite((poisoned.params, poisoned.batch_stats)))


def test_skipped_steps_are_left_out_of_the_means() -> None:
    step, state = step_of(skips=True)
    run = devices.initial_run_state(
        training.make_train_step(Line(), Plain(), training.skip_nonfinite(optax.sgd(0.1))),
        state,
        batch(0.5),
    )
    found = []
    for value in (0.25, 1.0, np.nan, 0.5):
        state, metrics = step(run.train, batch(value))
        found.append(float(metrics["objective"]))
        run = devices.counted(run, state, dict(metrics))
    assert int(run.counted) == 2 and int(run.nonfinite_step) == -1
    assert float(run.totals["objective"]) == np.float32(found[0]) + np.float32(found[3])


def test_too_many_in_a_row_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MOST_SKIPPED", 3)
    step, state = step_of(skips=True)
    run = devices.initial_run_state(
        training.make_train_step(Line(), Plain(), training.skip_nonfinite(optax.sgd(0.1))),
        state,
        batch(0.5),
    )
    for value, expected in ((1.0, -1), (1.0, -1), (0.5, -1), *((1.0, -1),) * 2, (1.0, 6), (1.0, 6)):
        state, metrics = step(run.train, batch(value))
        run = devices.counted(run, state, dict(metrics))
        assert int(run.nonfinite_step) == expected
    said = devices.said_nonfinite(run)
    assert said == "the gradient of slope is not finite, as in the 2 steps before"


@dataclasses.dataclass(frozen=True)
class Now:
    """An objective that is not a number in about a third of the steps."""

    num_samples: int = 2

    def __call__(self, terms: Terms) -> jax.Array:
        digit = jnp.floor(jnp.abs(jnp.mean(terms.log_likelihood)) * 100) % 3
        return jnp.where(digit == 0, jnp.nan, 1.0) * pathwise(terms)


def test_a_run_that_skips(tmp_path: Path) -> None:
    """And goes on to the same bits; skipping cannot be changed on the way."""
    images = runs.write_images(tmp_path)
    base = runs.experiment(images, on_nonfinite="skip")
    experiment = dataclasses.replace(base, objective=Now())
    workdir = tmp_path / "run"
    train.run(experiment, str(workdir), stop_at_step=6)
    state = train.run(experiment, str(workdir))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    skipped = [line["skipped_steps"] for line in lines]
    assert skipped == sorted(skipped) and 0 < skipped[-1] < runs.STEPS
    assert int(state.step) == runs.STEPS
    assert int(state.opt_state.total_notfinite) == skipped[-1]
    assert bool(training.all_finite(state.variables))
    assert np.isfinite([value for line in lines for value in line.values()]).all()
    whole = train.run(experiment, str(tmp_path / "whole"))
    runs.assert_same_bits(state, whole)
    restored = memjax.restore(str(workdir))
    jax.tree.map(np.testing.assert_array_equal, restored.variables["params"], state.params)
    stops = dataclasses.replace(
        experiment, train=dataclasses.replace(experiment.train, on_nonfinite="stop")
    )
    with pytest.raises(InputError, match=r"holds a run with train\.on_nonfinite skip, found stop"):
        train.run(stops, str(workdir))
