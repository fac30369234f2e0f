"""Numbers that are not finite: the run stops and says where, or skips the step and counts it."""

import dataclasses
import functools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

import memjax
import train
from memjax import training, workdirs
from memjax.errors import InputError, WriteError
from memjax.objectives import pathwise
from memjax.training import TrainState
from memjax.types import Batch, Terms
from tests import eval_runs, runs, tiny
from tests.tiny import quick_jit
from train import devices, loop


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
        0.5: "the batch statistics are not finite",
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
    left_out, _ = step(dataclasses.replace(state, step=state.step + 1), batch(0.5))
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, name), getattr(left_out, name))
    # Without it they would have been poisoned.
    plain, before = step_of(skips=False)
    poisoned, _ = plain(before, batch(value))
    assert not bool(training.all_finite((poisoned.params, poisoned.batch_stats)))


def test_where_all_is_finite_skipping_changes_nothing() -> None:
    found = []
    for skips in (False, True):
        step, state = step_of(skips)
        for value in (0.25, 0.5, 0.75):
            state, _ = step(state, batch(value))
        found.append((state.params, state.batch_stats))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *found)


def test_skipped_steps_are_left_out_of_the_means() -> None:
    step, state = step_of(skips=True)
    run = devices.initial_run_state(Line(), Plain(), state, batch(0.5))
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
    run = devices.initial_run_state(Line(), Plain(), state, batch(0.5))
    for value, expected in ((1.0, -1), (1.0, -1), (0.5, -1), *((1.0, -1),) * 2, (1.0, 6), (1.0, 6)):
        state, metrics = step(run.train, batch(value))
        run = devices.counted(run, state, dict(metrics))
        assert int(run.nonfinite_step) == expected
    assert devices.said_nonfinite(run) == "the gradient of slope is not finite"


@dataclasses.dataclass(frozen=True)
class Now:
    """An objective that is not a number in about a third of the steps."""

    num_samples: int = 2

    def __call__(self, terms: Terms) -> jax.Array:
        digit = jnp.floor(jnp.abs(jnp.mean(terms.log_likelihood)) * 100) % 3
        return jnp.where(digit == 0, jnp.nan, 1.0) * pathwise(terms)


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """In these steps, counted from one, the images of all batches are not numbers."""
    make_step = devices.make_step

    def poisoned(*arguments: Any) -> Any:
        step = make_step(*arguments)

        def call(state: TrainState, batch: Batch) -> Any:
            now = jnp.isin(state.step + 1, jnp.array(steps))
            images = jnp.where(now, jnp.nan, batch.images)
            return step(state, dataclasses.replace(batch, images=images))

        return call

    monkeypatch.setattr(devices, "make_step", poisoned)


def test_a_poisoned_batch_is_as_if_left_out() -> None:
    """To the bit, with batch norm and Adam."""
    base = runs.experiment("unused", on_nonfinite="skip")
    optimizer = devices.make_optimizer(base, steps_per_epoch=2)
    model = tiny.mem_vae()
    step = quick_jit(training.make_train_step(model, base.objective, optimizer, None))
    create = quick_jit(lambda: training.create_state(model, optimizer, tiny.batch(), 0))
    good = tiny.batch()
    bad = dataclasses.replace(good, images=good.images.at[3, 0, 0].set(jnp.nan))

    def taken(*batches: Batch | None) -> TrainState:
        state = create()
        for one in batches:
            if one is None:
                state = dataclasses.replace(state, step=state.step + 1)
            else:
                state, _ = step(state, one)
        return state

    skipped, left_out = taken(good, good, bad, good, good), taken(good, good, None, good, good)
    assert devices.skipped(skipped) == (1, 0) and devices.skipped(left_out) == (0, 0)
    assert skipped.step == left_out.step == 5
    assert jax.tree.leaves(skipped.batch_stats)
    for name in ("params", "batch_stats"):
        assert bits(getattr(skipped, name)) == bits(getattr(left_out, name)), name
        assert bits(getattr(skipped, name)) != bits(getattr(taken(good, good), name)), name
    assert bits(skipped.opt_state.inner_state) == bits(left_out.opt_state.inner_state)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


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


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ours: other libraries warn where a machine is slow."""
    ours = [record for record in caplog.records if record.name == "memjax"]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def strict_lines(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, by the letter of JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


@pytest.mark.parametrize(("most", "last", "good"), [(100, 12, "step 8"), (3, 3, "none")])
def test_a_run_that_cannot_go_on_does_not_end_well(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    most: int,
    last: int,
    good: str,
) -> None:
    """Be it shorter than the number of steps in a row that stop a longer one."""
    monkeypatch.setattr(devices, "MOST_SKIPPED", most)
    poison(monkeypatch, *range(1, runs.STEPS + 1))
    experiment = runs.experiment(runs.write_images(tmp_path), on_nonfinite="skip")
    workdir = tmp_path / "run"
    with pytest.raises(
        train.NonFiniteError,
        match=rf"^step {last}: the objective and the gradient of .* and of \d+ more parameters are "
        rf"not finite, as in the {last - 1} steps before, .* in {workdir}: {good}$",
    ):
        train.run(experiment, str(workdir))
    said = warnings(caplog)
    lines = strict_lines(workdir) if good != "none" else []
    assert len(said) == len(lines) == (2 if good != "none" else 0)
    for line, warning in zip(lines, said, strict=True):
        assert warning.startswith(
            f"{workdir}: step {line['step']}: all steps since the last line of metrics.jsonl were "
            "skipped, in this one the objective and"
        )
        assert line["skipped_steps"] == line["step"] and "iwae_bound" not in line
        assert line["validation_bound"] == lines[0]["validation_bound"]


def test_the_end_of_a_run_says_what_was_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poison(monkeypatch, 2, 11, 12)
    experiment = runs.experiment(runs.write_images(tmp_path), on_nonfinite="skip")
    workdir = tmp_path / "run"
    train.run(experiment, str(workdir), stop_at_step=6)
    train.run(experiment, str(workdir))
    assert warnings(caplog) == [
        f"{workdir}: 1 of 6 steps were not finite and skipped",
        f"{workdir}: 3 of 12 steps were not finite and skipped, the last 2 of them in a row, "
        "from step 11 on",
    ]
    assert [line["skipped_steps"] for line in strict_lines(workdir)] == [1, 1, 3]


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_batch_statistics_that_are_not_finite_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_nonfinite: str
) -> None:
    """Wherever they come from."""
    make_step = devices.make_step

    def spoiling(*arguments: Any) -> Any:
        step = make_step(*arguments)

        def call(state: TrainState, batch: Batch) -> Any:
            after, metrics = step(state, batch)
            factor = jnp.where(after.step == 6, jnp.inf, 1.0)
            spoilt = jax.tree.map(lambda leaf: leaf * factor, after.batch_stats)
            return dataclasses.replace(after, batch_stats=spoilt), metrics

        return call

    monkeypatch.setattr(devices, "make_step", spoiling)
    experiment = runs.experiment(runs.write_images(tmp_path), on_nonfinite=on_nonfinite)
    with pytest.raises(
        train.NonFiniteError,
        match=r"^step 6: the batch statistic \S+/mean is not finite, .*: step 4$",
    ):
        train.run(experiment, str(tmp_path / "run"), stop_at_step=6)
    folders = (tmp_path / "run" / "checkpoints").iterdir()
    assert [path.name for path in folders if path.name.isdecimal()] == ["4"]


@pytest.mark.parametrize("kind", ["params", "batch_stats", "opt_state"])
def test_what_is_not_finite_in_a_state_is_named(kind: str) -> None:
    batch_of_ones = batch(0.5)
    state = training.create_state(Line(), optax.sgd(0.1, momentum=0.9), batch_of_ones, 0)
    assert devices.first_nonfinite(state) is None
    spoilt = jax.tree.map(lambda leaf: leaf * jnp.inf + jnp.nan, getattr(state, kind))
    assert devices.first_nonfinite(dataclasses.replace(state, **{kind: spoilt})) == {
        "params": "the parameter shift",
        "batch_stats": "the batch statistic mean",
        "opt_state": "the state of the optimiser 0/trace/shift",
    }.get(kind)


def test_a_bound_that_is_not_finite_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bounds = iter([-5.0, np.inf, np.nan, -np.inf, -7.0])
    monkeypatch.setattr(loop, "make_validation", lambda *_: lambda *_: next(bounds))
    experiment = runs.experiment(runs.write_images(tmp_path), num_epochs=5)
    workdir = tmp_path / "run"
    train.run(experiment, str(workdir))
    lines = strict_lines(workdir)
    assert [line.get("validation_bound") for line in lines] == [-5.0, None, None, None, -7.0]
    assert memjax.restore(str(workdir), step="best").step == 4
    said = warnings(caplog)
    path = workdir / "metrics.jsonl"
    assert said == [
        f"{path}: step {step}: not finite and left out: validation_bound" for step in (8, 12, 16)
    ]
    assert [values for _, values in workdirs.load_metrics(epath.Path(workdir))] == lines


def test_all_replicas_are_closed_where_one_cannot_be() -> None:
    closed = []

    class Replica:
        def __init__(self, number: int):
            self.number = number

        def close(self) -> None:
            closed.append(self.number)
            if self.number == 1:
                raise WriteError("the disk is full")

    several = object.__new__(loop.Loop)
    several._replicas = [Replica(number) for number in range(3)]  # type: ignore[misc]
    with pytest.raises(WriteError, match=r"^the disk is full$"):
        several.close()
    assert sorted(closed) == [0, 1, 2]
