"""Damaged checkpoints: every kind is detected, and the one before is used."""

import errno
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from memjax import manifest
from memjax.checkpoint import BrokenCheckpoint, Checkpoints, newest_whole
from memjax.errors import InputError, WriteError
from train import replicas
from train.devices import RunState
from train.sessions import Session

FIELDS = {"name": "mem_vae_digits", "seed": 3, "model.slots": (3, 2), "train.num_epochs": 4}
# Orbax adds it at the commit; nothing is read from it.
AFTERWARDS = "commit_success.txt"


def state(step: int) -> dict[str, jax.Array]:
    return {"kernel": jnp.arange(40, dtype=jnp.float32) + step, "step": jnp.int32(step)}


LIKE = jax.eval_shape(lambda: state(0))


def opened(workdir: Path, **changed: Any) -> Checkpoints:
    may_differ = frozenset({"train.num_epochs"})
    return Checkpoints(str(workdir), fields={**FIELDS, **changed}, may_differ=may_differ)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Steps 1 to 3, of which the second is the best."""
    checkpoints = opened(tmp_path)
    for step, bound in ((1, -9.0), (2, -7.0), (3, -8.0)):
        checkpoints.save(state(step), step, bound)
    checkpoints.close()
    return tmp_path


def files(workdir: Path, step: int = 3) -> list[Path]:
    folder = workdir / "checkpoints" / str(step)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << place % 8
    path.write_bytes(content)


def restored(workdir: Path, steps: list[int]) -> int:
    checkpoints = opened(workdir)
    try:
        step = newest_whole([checkpoints], steps)
        found = checkpoints.restore(LIKE, step)
    finally:
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, found, state(step))
    return step


DAMAGE: dict[str, Callable[[Path, int], object]] = {
    "flipped": flip,
    "truncated": lambda path, place: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path, place: path.write_bytes(b""),
    "deleted": lambda path, place: path.unlink(),
    "longer": lambda path, place: path.write_bytes(path.read_bytes() + b"\0"),
    "a folder": lambda path, place: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_any_file_is_detected(workdir: Path, kind: str) -> None:
    generator = np.random.default_rng(len(kind))
    found = files(workdir)
    assert len(found) > 10
    checked = 0
    for path in found:
        if path.name == AFTERWARDS and path.parent.name == "3":
            continue
        whole = path.read_bytes()
        assert whole
        # The time of the commit, which is not compared, is not at the beginning.
        last = 100 if path.name == "_CHECKPOINT_METADATA" else 10**6
        DAMAGE[kind](path, int(generator.integers(last)))
        with pytest.raises(BrokenCheckpoint, match=path.name):
            opened(workdir).check(3)
        if path.is_dir():
            path.rmdir()
        path.write_bytes(whole)
        checked += 1
    opened(workdir).check(3)
    assert checked == len(found) - 1


def test_every_bit_of_a_manifest_counts(workdir: Path) -> None:
    path = workdir / "checkpoints/3/manifest.json"
    whole = path.read_bytes()
    checkpoints = opened(workdir)
    for place in range(0, 8 * len(whole), 97):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(BrokenCheckpoint, match=r"manifest\.json"):
            checkpoints.check(3)


def test_the_one_before_is_used_and_the_broken_one_named(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Orbax would restore the flipped bit without a word."""
    broken = next(path for path in files(workdir) if "ocdbt.process" in str(path))
    flip(broken, 77)
    with caplog.at_level(logging.WARNING, logger="memjax"):
        assert restored(workdir, [3, 2, 1]) == 2
    (said,) = [one for one in caplog.messages if "found SHA-256" in one]
    assert said.startswith(f"{broken}: found SHA-256 ")
    checkpoints = opened(workdir)
    with pytest.raises(BrokenCheckpoint, match=r"found SHA-256 .*; other steps saved: 1, 2$"):
        checkpoints.restore(LIKE, 3)


def test_the_best_that_is_whole(workdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = workdir / "checkpoints/2/metrics/metrics"
    metrics.write_text(metrics.read_text().replace("-7", "-9"))
    with caplog.at_level(logging.WARNING, logger="memjax"):
        assert opened(workdir).best_steps() == [3, 1]
    assert f"{metrics}: found SHA-256" in caplog.text


def test_none_that_is_whole_is_an_error(workdir: Path) -> None:
    for step in (1, 2, 3):
        files(workdir, step)[-1].unlink()
    with pytest.raises(InputError, match=r"no checkpoint can be read, .*/3/.*: is missing, expec"):
        restored(workdir, [3, 2, 1])


def test_what_orbax_adds_and_unknown_files_do_no_harm(workdir: Path) -> None:
    folder = workdir / "checkpoints/3"
    (folder / "commit_success.txt").write_text("moved elsewhere")
    (folder / "notes.txt").write_text("the good one")
    (folder / "default" / "more").mkdir()
    (folder / "default" / "more" / "round").symlink_to(folder)
    assert restored(workdir, [3]) == 3


def test_a_manifest_goes_with_its_step(workdir: Path) -> None:
    checkpoints = opened(workdir)
    checkpoints.save(state(4), 4, -8.5)
    checkpoints.save(state(5), 5, -8.5)
    checkpoints.close()
    found = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert found == ["2", "3", "4", "5"]
    assert len(list(workdir.rglob(manifest.NAME))) == 4


def test_steps_that_changed_places_are_broken(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = workdir / "checkpoints"
    for old, new in (("2", "other"), ("3", "2"), ("other", "3")):
        (folder / old).rename(folder / new)
    checkpoints = opened(workdir)
    with pytest.raises(BrokenCheckpoint, match="holds step 2, expected 3"):
        checkpoints.check(3)
    for _ in range(2):
        assert newest_whole([checkpoints], [3, 2, 1]) == 1
    said = [record.message for record in caplog.records]
    broken = [line for line in said if "expected" in line]
    assert len(broken) == 2, "each is named once"
    assert said[-1] == "step 1 is taken instead"


def test_names_that_no_step_has_are_left_alone(workdir: Path) -> None:
    (workdir / "checkpoints/003").mkdir()
    checkpoints = opened(workdir)
    assert checkpoints.steps() == [1, 2, 3]
    assert checkpoints.latest_step() == 3


def test_steps_are_set_aside_beside_each_other(workdir: Path) -> None:
    for _ in range(2):
        checkpoints = opened(workdir)
        checkpoints.set_aside(3)
        assert checkpoints.latest_step() == 2
        checkpoints.save(state(3), 3)
        checkpoints.close()
    aside = workdir / "checkpoints/set_aside"
    assert sorted(path.name for path in aside.iterdir()) == ["3", "3.1"]
    for path in (aside / "3", aside / "3.1"):
        path.rename(workdir / path.name)
    aside.rmdir()
    aside.write_text("")
    with pytest.raises(WriteError, match="3: cannot be moved to"):
        opened(workdir).set_aside(3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "vae_digits", "seed": 4}, "with name mem_vae_digits, expected vae_digits"),
        ({"seed": 4}, "with seed 3, expected 4"),
        ({"model.slots": (3,)}, r"with model.slots \[3, 2\], expected \[3\]"),
    ],
)
def test_another_run_is_refused(workdir: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"3: is a checkpoint of a run {said}") as caught:
        opened(workdir, **changed).restore(LIKE, 3)
    assert not isinstance(caught.value, BrokenCheckpoint)
    # No older step is taken in its place, which may be of yet another run.
    with pytest.raises(InputError, match="3: is a checkpoint of a run with"):
        newest_whole([opened(workdir, **changed)], [3, 2, 1])


@pytest.mark.parametrize("name", [manifest.NAME, "metrics/metrics"])
def test_a_disk_that_cannot_be_read_now_is_no_damage(
    workdir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is set aside for it, and nothing older is taken."""
    broken = workdir / "checkpoints/3" / name
    kind = type(epath.Path(broken))

    def failing(read: Callable[..., Any]) -> Callable[..., Any]:
        def reads(path: epath.Path, *arguments: Any) -> Any:
            if Path(path) == broken:
                raise OSError(errno.EIO, "Input/output error", str(path))
            return read(path, *arguments)

        return reads

    for method in ("open", "read_bytes"):
        monkeypatch.setattr(kind, method, failing(getattr(kind, method)))
    message = f"{broken}: cannot be read (Input/output error), expected a disk that can be; "
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        newest_whole([opened(workdir)], [3, 2, 1])
    assert not isinstance(caught.value, BrokenCheckpoint)


def test_what_cannot_be_looked_at_is_no_damage(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = files(workdir)[-1]

    def stat(path: Path, real: Callable[..., Any] = Path.stat, **named: Any) -> os.stat_result:
        if path == hidden:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, **named)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(InputError, match=re.escape(f"{hidden}: cannot be read (Input/")) as caught:
        newest_whole([opened(workdir)], [3, 2, 1])
    assert not isinstance(caught.value, BrokenCheckpoint)


def test_what_goes_while_it_is_looked_at_is_no_unreadable_disk(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training run prunes its steps while they are evaluated."""

    def pruned(path: epath.Path) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(manifest, "_described", pruned)
    with pytest.raises(BrokenCheckpoint, match="is missing"):
        opened(workdir).check(3)


def test_steps_that_cannot_be_listed_are_an_error(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workdir / "checkpoints"
    checkpoints = opened(workdir)

    def closed(path: epath.Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(type(epath.Path(folder)), "iterdir", closed)
    with pytest.raises(InputError, match=r"checkpoints: cannot be read \(Permission denied\)"):
        checkpoints.steps()


def test_a_save_that_orbax_leaves_out_is_said(workdir: Path) -> None:
    checkpoints = opened(workdir)
    checkpoints.save(state(9), 9)
    with pytest.raises(WriteError, match="4: cannot be written"):
        checkpoints.save(state(4), 4)


def test_a_longer_run_and_new_fields_are_the_same_run(workdir: Path) -> None:
    found = opened(workdir, **{"train.num_epochs": 9, "model.new": 1}).restore(LIKE, 3)
    jax.tree.map(np.testing.assert_array_equal, found, state(3))


def test_a_newer_format_is_refused(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "FORMAT_VERSION", 2)
        checkpoints = opened(workdir)
        checkpoints.save(state(4), 4)
        checkpoints.close()
    with pytest.raises(InputError, match="found format version 2, this memjax reads 1") as caught:
        opened(workdir).restore(LIKE, 4)
    assert not isinstance(caught.value, BrokenCheckpoint)


def test_files_outside_of_a_checkpoint_are_not_read(workdir: Path) -> None:
    path = workdir / "checkpoints/3/manifest.json"
    body = json.loads(path.read_text())["manifest"]
    body["files"]["../../../../dev/zero"] = {"bytes": 0, "sha256": ""}
    document = {"manifest": body, "sha256": manifest._sum_of(body)}
    path.write_text(json.dumps(document, sort_keys=True))
    with pytest.raises(BrokenCheckpoint, match="dev/zero: is missing"):
        opened(workdir).check(3)


def test_without_any_manifest_nothing_is_taken_on_trust(workdir: Path) -> None:
    for step in (1, 2, 3):
        (workdir / "checkpoints" / str(step) / manifest.NAME).unlink()
    with pytest.raises(InputError, match=r"3/manifest\.json: cannot be read, expected a manifest"):
        restored(workdir, [3, 2, 1])


def test_half_written_ones_are_removed_and_named(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = workdir / "checkpoints/3.orbax-checkpoint-tmp"
    (workdir / "checkpoints/3").rename(half)
    checkpoints = opened(workdir)
    assert checkpoints.steps() == [1, 2]
    with caplog.at_level(logging.WARNING, logger="memjax"):
        checkpoints.save(state(3), 3)
    checkpoints.close()
    assert f"{half}: half written, removed" in caplog.text and not half.exists()
    assert restored(workdir, [3]) == 3


class Seed(NamedTuple):
    """As much of a replica as is asked for."""

    workdir: str
    checkpoints: Checkpoints

    def restore(self, like: RunState, step: int) -> RunState:
        return self.checkpoints.restore(like, step)


def run_state(step: int) -> RunState:
    return RunState(state(step), {}, jnp.int32(step), jnp.int32(-1))  # type: ignore[arg-type]


def seeds(folder: Path, saved: dict[str, tuple[int, ...]]) -> list[Seed]:
    for name, steps in saved.items():
        checkpoints = opened(folder / name)
        for step in steps:
            checkpoints.save(run_state(step), step)
        checkpoints.close()
    return [Seed(str(folder / name), opened(folder / name)) for name in saved]


def like() -> RunState:
    return jax.eval_shape(lambda: run_state(0).replace(nonfinite=jnp.zeros(3, bool)))


def test_seeds_go_on_from_the_step_that_is_whole_in_all(tmp_path: Path) -> None:
    both = seeds(tmp_path, {"a": (1, 2, 3), "b": (1, 2)})
    flip(files(tmp_path / "b", 2)[-1], 9)
    found = replicas.restored(both, like())  # type: ignore[arg-type]
    assert found is not None and found[0] == 1
    assert [int(one.counted) for one in found[1]] == [1, 1]
    assert found[1][0].nonfinite.tolist() == [False] * 3
    # What is newer makes way, so that it can be saved again.
    for seed, steps in zip(both, (["2", "3"], ["2"]), strict=True):
        assert seed.checkpoints.steps() == [1]
        aside = Path(seed.workdir) / "checkpoints/set_aside"
        assert sorted(path.name for path in aside.iterdir()) == steps
        seed.checkpoints.save(run_state(2), 2)
        seed.checkpoints.close()
        assert seed.checkpoints.steps() == [1, 2]


def test_a_kill_between_the_first_saves_of_two_seeds(tmp_path: Path) -> None:
    both = seeds(tmp_path, {"a": (1,), "b": ()})
    Session(both[0].workdir, 0).saved(1)
    assert replicas.restored(both, like()) is None  # type: ignore[arg-type]
    # With sessions and no checkpoint it would be taken for a run that has lost them.
    assert json.loads((tmp_path / "a/sessions.json").read_text()) == []
    assert both[0].checkpoints.steps() == []


def test_a_seed_that_is_lost_does_not_begin_the_others_anew(tmp_path: Path) -> None:
    both = seeds(tmp_path, {"a": (1, 2), "b": ()})
    with pytest.raises(InputError, match="have no checkpoint of the same step"):
        replicas.restored(both, like())  # type: ignore[arg-type]
    assert both[0].checkpoints.steps() == [1, 2]


def test_nothing_is_begun_anew_where_nothing_can_be_read(tmp_path: Path) -> None:
    (one,) = seeds(tmp_path, {"a": (1, 2)})
    for step in (1, 2):
        os.truncate(files(tmp_path / "a", step)[-1], 1)
    with pytest.raises(InputError, match="no checkpoint can be read"):
        replicas.restored([one], like())  # type: ignore[list-item]
    assert one.checkpoints.steps() == [1, 2]
    apart = seeds(tmp_path, {"c": (1,), "d": (2,)})
    with pytest.raises(InputError, match="have no checkpoint of the same step"):
        replicas.restored(apart, like())  # type: ignore[arg-type]
