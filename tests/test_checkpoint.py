"""Checkpoints: which are kept, and that they come back as they were."""

import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from memjax import checkpoint
from memjax.checkpoint import Checkpoints


def state(step: int) -> dict[str, Any]:
    return {
        "params": {"kernel": jnp.full((3, 2), step / 3), "bias": jnp.full(2, -step)},
        "step": jnp.int32(step),
        "seed": jnp.uint32(2**32 - 1),
    }


def save_all(workdir: Path, bounds: dict[int, float | None]) -> None:
    """As one process of a run would."""
    checkpoints = Checkpoints(str(workdir))
    for step, bound in bounds.items():
        checkpoints.save(state(step), step, bound)
    checkpoints.close()


def kept(workdir: Path) -> tuple[list[int], int | None]:
    """The steps that a new process finds, and the best of them."""
    checkpoints = Checkpoints(str(workdir))
    found = checkpoints.steps(), next(iter(checkpoints.best_steps()), None)
    assert checkpoints.latest_step() == (found[0][-1] if found[0] else None)
    checkpoints.close()
    return found


def test_newest_three_and_the_best_are_kept(tmp_path: Path) -> None:
    save_all(tmp_path, {1: -90.0, 2: -85.0, 3: -88.0, 4: -87.0, 5: -86.0, 6: -86.5})
    assert kept(tmp_path) == ([2, 4, 5, 6], 2)


def test_the_best_is_kept_from_one_process_to_the_next(tmp_path: Path) -> None:
    save_all(tmp_path, {1: -85.0, 2: -90.0, 3: -90.0})
    save_all(tmp_path, {4: -90.0, 5: -89.0, 6: None})
    assert kept(tmp_path) == ([1, 4, 5, 6], 1)
    save_all(tmp_path, {7: -80.0})
    assert kept(tmp_path) == ([5, 6, 7], 7)


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    assert kept(tmp_path) == ([], None)
    save_all(tmp_path, dict.fromkeys(range(1, 6)))
    assert kept(tmp_path) == ([3, 4, 5], None)


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_all(tmp_path, {1: None, 7: -3.0})
    checkpoints = Checkpoints(str(tmp_path))
    for step in (1, 7):
        found = checkpoints.restore(jax.eval_shape(lambda: state(0)), step)
        jax.tree.map(np.testing.assert_array_equal, found, state(step))
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, (found, state(0)))
        assert dtypes[0] == dtypes[1]
    # A part of it, as evaluation wants.
    found = checkpoints.restore({"params": jax.eval_shape(lambda: state(0)["params"])}, 7)
    jax.tree.map(np.testing.assert_array_equal, found, {"params": state(7)["params"]})
    checkpoints.close()


def test_what_orbax_writes_late_is_sealed_as_it_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It describes a step in a thread that a busy machine may hold up."""
    store = type(ocp.metadata.metadata_store(enable_write=True))
    update = store._update_and_log
    held: list[str] = []

    def late(self: Any, file: epath.Path, **fields: Any) -> None:
        time.sleep(0.5)
        held.extend(fields)
        update(self, file, **fields)

    monkeypatch.setattr(store, "_update_and_log", late)
    save_all(tmp_path, {1: -3.0})
    assert "item_handlers" in held
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.check(1)
    checkpoints.close()


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    save_all(tmp_path, {1: -3.0})
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(state(5), 1)
    checkpoints.save(state(2), 2)
    checkpoints.save(state(5), 2)
    found = checkpoints.restore(jax.eval_shape(lambda: state(0)), 2)
    jax.tree.map(np.testing.assert_array_equal, found, state(2))
    assert checkpoints.best_steps() == [1]
    checkpoints.close()


@pytest.mark.parametrize("left", ["nothing", "parameters"])
def test_a_step_that_was_being_deleted_is_in_nobodys_way(tmp_path: Path, left: str) -> None:
    save_all(tmp_path, {1: -90.0, 2: -88.0, 3: -86.0})
    oldest = tmp_path / "checkpoints" / "1"
    shutil.rmtree(oldest / "metrics")
    if left == "nothing":
        shutil.rmtree(oldest)
        oldest.mkdir()
    assert kept(tmp_path)[1] == 3
    save_all(tmp_path, {4: -87.0, 5: -89.0})
    assert kept(tmp_path) == ([3, 4, 5], 3)


def test_the_folder_of_a_step_is_there_when_it_is_being_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(state(7), 7)
    (found,) = (tmp_path / "checkpoints").iterdir()
    assert found.name.startswith("7")
    checkpoints.close()


def test_a_process_that_is_gone_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def barrier(*_: Any, **__: Any) -> None:
        raise jax.errors.JaxRuntimeError("ABORTED: another task died")

    checkpoints = Checkpoints(str(tmp_path))
    monkeypatch.setattr(checkpoint._Manager, "save", barrier)
    with pytest.raises(jax.errors.JaxRuntimeError, match="another task died"):
        checkpoints.save(state(1), 1)
