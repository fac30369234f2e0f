"""memjax.restore: a trained model back from its workdir."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memjax
from memjax import configs
from memjax.checkpoint import Checkpoints
from memjax.errors import InputError
from memjax.types import Batch
from tests import eval_runs, tiny
from tests.eval_runs import STEPS_PER_EPOCH, Trained
from tests.runs import contents

LAST = eval_runs.EPOCHS * STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return eval_runs.trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def workdir(run: Trained, tmp_path: Path) -> Path:
    return eval_runs.copy(run, tmp_path / "run")


def validation_bounds(workdir: Path) -> dict[int, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["validation_bound"] for line in lines}


def test_experiment_and_model_are_those_that_were_trained(run: Trained) -> None:
    restored = memjax.restore(str(run.workdir))
    # Training fills in the shape of the images.
    model = run.experiment.model.clone(image_shape=(8, 8, 1))
    assert restored.experiment == dataclasses.replace(run.experiment, model=model)
    assert restored.model == model
    assert restored.step == LAST
    # What the command line had changed is not what the experiment's name stands for.
    assert restored.experiment != configs.get("mem_vae_digits")


def test_variables_are_bit_equal_to_the_trained_state(run: Trained) -> None:
    restored = memjax.restore(str(run.workdir))
    assert set(restored.variables) == {"params", "batch_stats"}
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, restored.variables[name], run.variables[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(restored.variables)} == {jnp.dtype("float32")}


def test_restored_model_computes(run: Trained) -> None:
    restored = memjax.restore(str(run.workdir))
    batch = Batch(jnp.zeros((3, 8, 8, 1)), jnp.arange(3))
    again = tiny.reconstruct(restored.model, restored.variables, batch, jax.random.key(0))
    assert again.shape == (3, 8, 8, 1)
    assert np.all((again >= 0) & (again <= 1))


def test_a_step_by_its_number(run: Trained) -> None:
    first = memjax.restore(str(run.workdir), STEPS_PER_EPOCH)
    assert first.step == STEPS_PER_EPOCH
    changed = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != b)),
        first.variables["params"],
        run.variables["params"],
    )
    assert all(jax.tree.leaves(changed))


def test_best_is_by_validation_bound_and_latest_is_by_step(workdir: Path) -> None:
    bounds = validation_bounds(workdir)
    best = max(bounds, key=lambda step: bounds[step])
    checkpoints = Checkpoints(str(workdir), create=False)
    like = memjax.restore(str(workdir)).variables
    worse = jax.tree.map(lambda leaf: 2 * leaf, like)
    checkpoints.save({"train": worse}, 99, validation_bound=-1e3)
    checkpoints.close()

    found = memjax.restore(str(workdir), "best")
    assert found.step == best
    latest = memjax.restore(str(workdir), "latest")
    assert latest.step == 99
    jax.tree.map(np.testing.assert_array_equal, latest.variables, worse)


def test_a_run_without_validation_has_no_best(run: Trained, workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints")
    checkpoints = Checkpoints(str(workdir))
    checkpoints.save({"train": run.variables}, 7)
    checkpoints.close()
    assert memjax.restore(str(workdir)).step == 7
    with pytest.raises(InputError, match="no checkpoint that is whole has a validation bound, e"):
        memjax.restore(str(workdir), "best")


def test_precision_of_training_is_the_models(workdir: Path) -> None:
    eval_runs.edit_config(workdir, train={"precision": "bfloat16"})
    restored = memjax.restore(str(workdir))
    assert restored.model.precision == restored.experiment.train.precision == "bfloat16"


def test_an_experiment_of_ones_own_is_given(run: Trained, workdir: Path) -> None:
    eval_runs.edit_config(workdir, name="mine", seed=3)
    with pytest.raises(InputError, match="experiment 'mine': unknown, expected one of"):
        memjax.restore(str(workdir))
    base = dataclasses.replace(configs.get("mem_vae_digits"), name="mine")
    restored = memjax.restore(str(workdir), experiment=base)
    model = run.experiment.model.clone(image_shape=(8, 8, 1))
    expected = dataclasses.replace(run.experiment, name="mine", seed=3, model=model)
    assert restored.experiment == expected


def test_unknown_experiment_names_the_nearest(workdir: Path) -> None:
    eval_runs.edit_config(workdir, name="mem_vae_digit")
    with pytest.raises(
        InputError, match="'mem_vae_digit': unknown, expected one of mem_vae_digits"
    ):
        memjax.restore(str(workdir))


def test_unknown_field_is_named(workdir: Path) -> None:
    eval_runs.edit_config(workdir, model={"slotz": [3, 2]})
    with pytest.raises(InputError, match=r"model\.slotz: unknown field, expected one of .*slots"):
        memjax.restore(str(workdir))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1}', "\x00"])
def test_config_that_is_none_is_refused(workdir: Path, text: str) -> None:
    (workdir / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: expected a memjax configuration in JSON"):
        memjax.restore(str(workdir))


def test_folder_that_is_no_workdir_is_refused_and_left_alone(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"config\.json: not found, expected the workdir of"):
            memjax.restore(str(folder))
    assert not list(tmp_path.iterdir())


def test_run_without_checkpoints_is_refused_and_left_alone(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints")
    before = contents(workdir)
    with pytest.raises(InputError, match="has no checkpoint yet, expected a run that has saved"):
        memjax.restore(str(workdir))
    assert contents(workdir) == before
    (workdir / "checkpoints").mkdir()
    with pytest.raises(InputError, match="has no checkpoint yet, expected a run that has saved"):
        memjax.restore(str(workdir))


def test_missing_step_names_those_that_are_there(run: Trained) -> None:
    expected = f"no checkpoint of step 3, expected one of {STEPS_PER_EPOCH}, {LAST}$"
    with pytest.raises(InputError, match=expected):
        memjax.restore(str(run.workdir), 3)
