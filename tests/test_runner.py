"""Whole runs: stopped and resumed to the same bits, refused, broken off."""

import dataclasses
import errno
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memjax
import train
from memjax import manifest
from memjax.checkpoint import Checkpoints
from memjax.config import Experiment
from memjax.errors import InputError, WriteError
from memjax.objectives import pathwise
from memjax.training import TrainState
from memjax.types import Terms
from train import devices
from train.sessions import Session

from . import runs

ROOT = Path(__file__).parent.parent


class Run(NamedTuple):
    """A finished run that nobody writes to."""

    experiment: Experiment
    workdir: Path
    state: TrainState


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    workdir = tmp_path_factory.mktemp("runs") / "new" / "run"
    experiment = runs.experiment(images)
    return Run(experiment, workdir, train.run(experiment, str(workdir)))


@pytest.fixture
def workdir(uninterrupted: Run, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(uninterrupted.workdir, tmp_path / "run"))


def saved_steps(workdir: Path) -> tuple[list[int], int | None]:
    checkpoints = Checkpoints(str(workdir), create=False)
    found = checkpoints.steps(), next(iter(checkpoints.best_steps()), None)
    checkpoints.close()
    return found


def changed(experiment: Experiment, field: str, value: Any) -> Experiment:
    """`model.latent` and the like."""
    part, _, name = field.rpartition(".")
    if not part:
        return dataclasses.replace(experiment, **{name: value})
    node = dataclasses.replace(getattr(experiment, part), **{name: value})
    return dataclasses.replace(experiment, **{part: node})


def test_a_run_leaves_its_files(uninterrupted: Run) -> None:
    workdir, lines = uninterrupted.workdir, runs.metrics(uninterrupted.workdir)
    assert uninterrupted.state.step == runs.STEPS and uninterrupted.state.seed == 0
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 1), (8, 2), (12, 3)]
    for line in lines:
        assert line["elbo"] <= line["iwae_bound"] < 0 < line["penalty"]
        assert np.isfinite(list(line.values())).all() and "validation_bound" in line
    best = max(lines, key=lambda line: line["validation_bound"])["step"]
    assert saved_steps(workdir) == ([4, 8, 12], best)
    assert list((workdir / "tensorboard").iterdir())
    assert json.loads((workdir / "config.json").read_text())["fields"]["model"]["latent"] == 2
    (session,) = json.loads((workdir / "sessions.json").read_text())
    assert (session["first_step"], session["last_step"]) == (0, runs.STEPS)


def test_stopped_anywhere_and_resumed_it_is_the_same_run(
    uninterrupted: Run, tmp_path: Path
) -> None:
    # After the first step, between epochs, within one, one step before the end.
    for stop in (1, 4, 6, 11):
        state = train.run(uninterrupted.experiment, str(tmp_path), stop_at_step=stop)
        assert state.step == stop
        # As a process leaves it that goes on after its last checkpoint and is killed.
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 99, "epoch": 9, "steps_per_second": 1}\n{"step": 9')
    state = train.run(uninterrupted.experiment, str(tmp_path))
    runs.assert_same_bits(state, uninterrupted.state)
    assert runs.metrics(tmp_path) == runs.metrics(uninterrupted.workdir)
    steps, best = saved_steps(tmp_path)
    assert steps == sorted({best, 8, 11, 12})
    sessions = json.loads((tmp_path / "sessions.json").read_text())
    ends = [(session["first_step"], session["last_step"]) for session in sessions]
    assert ends == [(0, 1), (1, 4), (4, 6), (6, 11), (11, 12)]


def test_a_finished_run_has_nothing_left_to_do(uninterrupted: Run, workdir: Path) -> None:
    state = train.run(uninterrupted.experiment, str(workdir))
    runs.assert_same_bits(state, uninterrupted.state)
    assert runs.metrics(workdir) == runs.metrics(uninterrupted.workdir)


def test_a_run_may_be_made_longer(uninterrupted: Run, workdir: Path) -> None:
    longer = changed(uninterrupted.experiment, "train.num_epochs", 4)
    assert train.run(longer, str(workdir)).step == 16
    lines = runs.metrics(workdir)
    assert lines[:3] == runs.metrics(uninterrupted.workdir) and len(lines) == 4
    assert json.loads((workdir / "config.json").read_text())["fields"]["train"]["num_epochs"] == 4


def test_how_often_it_reports_is_no_part_of_a_run(uninterrupted: Run, tmp_path: Path) -> None:
    experiment = uninterrupted.experiment
    train_config = dataclasses.replace(
        experiment.train, save_every=2, log_every=3, call_seconds=1e-6
    )
    experiment = dataclasses.replace(experiment, train=train_config)
    runs.assert_same_bits(train.run(experiment, str(tmp_path)), uninterrupted.state)
    first, second, third = runs.metrics(uninterrupted.workdir)
    both, last = runs.metrics(tmp_path)
    assert (both["step"], last["step"]) == (8, 12)
    # A line holds means over the steps since the one before.
    for name in ("iwae_bound", "penalty", "reconstruction_nll"):
        np.testing.assert_allclose(both[name], (first[name] + second[name]) / 2, rtol=1e-5)
        np.testing.assert_allclose(last[name], third[name], rtol=1e-5)
    assert saved_steps(tmp_path)[0] == [8, 12]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("model.latent", 3),
        ("model.slots", ()),
        ("model.batch_norm", False),
        ("objective.num_samples", 1),
        ("data.binarisation", "fixed"),
        ("data.merge_validation", True),
        ("optimizer.learning_rate", 1e-4),
        ("train.batch_size", 4),
        ("train.precision", "bfloat16"),
    ],
)
def test_another_field_is_refused(
    uninterrupted: Run, workdir: Path, field: str, value: Any
) -> None:
    before = runs.contents(workdir)
    with pytest.raises(InputError, match=rf"holds a run with {field} .*, found .*; expected the"):
        train.run(changed(uninterrupted.experiment, field, value), str(workdir))
    assert runs.contents(workdir) == before


def test_other_images_are_refused(uninterrupted: Run, workdir: Path, tmp_path: Path) -> None:
    path = tmp_path / "others.npz"
    np.savez(path, images=np.zeros((30, 4, 3), np.uint8))
    with pytest.raises(
        InputError, match=r"holds a run with dataset .*grey.npz, found .*others.npz"
    ):
        train.run(runs.experiment(path), str(workdir))


def test_other_images_of_the_same_name_are_refused(images: Path, tmp_path: Path) -> None:
    own = shutil.copy(images, tmp_path / "own.npz")
    workdir = tmp_path / "run"
    train.run(runs.experiment(own), str(workdir), stop_at_step=1)
    before = runs.contents(workdir)
    with np.load(own) as file:
        np.savez(own, images=255 - file["images"])
    with pytest.raises(InputError, match=r"own.npz: holds images with SHA-256 \w{12}, expected"):
        train.run(runs.experiment(own), str(workdir))
    assert runs.contents(workdir) == before


def test_fewer_epochs_than_trained_are_refused(uninterrupted: Run, workdir: Path) -> None:
    before = runs.contents(workdir)
    with pytest.raises(
        InputError, match=r"^train.num_epochs: found 2, expected at least the 3 epochs that"
    ):
        train.run(changed(uninterrupted.experiment, "train.num_epochs", 2), str(workdir))
    assert runs.contents(workdir) == before


@pytest.mark.parametrize("folder_too", [True, False])
def test_a_run_whose_checkpoints_are_gone_is_refused(
    uninterrupted: Run, workdir: Path, folder_too: bool
) -> None:
    shutil.rmtree(workdir / "checkpoints")
    if not folder_too:
        (workdir / "checkpoints").mkdir()
    before = runs.contents(workdir)
    with pytest.raises(InputError, match=r"holds a run of 12 steps without its checkpoints, exp"):
        train.run(uninterrupted.experiment, str(workdir))
    assert runs.contents(workdir) == before


def test_a_first_save_that_failed_is_no_run_whose_checkpoints_are_gone(
    uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        with pytest.raises(WriteError, match=r"checkpoints/4: cannot be written"):
            train.run(uninterrupted.experiment, str(tmp_path / "run"))
    state = train.run(uninterrupted.experiment, str(tmp_path / "run"))
    runs.assert_same_bits(state, uninterrupted.state)
    assert runs.metrics(tmp_path / "run") == runs.metrics(uninterrupted.workdir)


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(
    uninterrupted: Run, workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = max((workdir / "checkpoints" / str(runs.STEPS)).rglob("d/*"))
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    with caplog.at_level(logging.INFO, logger="memjax"):
        assert memjax.restore(str(workdir)).step == 8
        state = train.run(uninterrupted.experiment, str(workdir))
    assert caplog.text.count(f"{broken}: found SHA-256 ") >= 2
    assert f"going on from step 8 of {workdir}" in caplog.text
    runs.assert_same_bits(state, uninterrupted.state)
    assert runs.metrics(workdir) == runs.metrics(uninterrupted.workdir)
    assert saved_steps(workdir) == saved_steps(uninterrupted.workdir)
    assert (workdir / "checkpoints/set_aside" / str(runs.STEPS)).is_dir()


def test_where_no_checkpoint_is_whole_nothing_is_begun(uninterrupted: Run, workdir: Path) -> None:
    for step in saved_steps(workdir)[0]:
        (workdir / "checkpoints" / str(step) / "default" / "_METADATA").unlink()
    before = runs.contents(workdir / "checkpoints")
    for refused in (
        lambda: train.run(uninterrupted.experiment, str(workdir)),
        lambda: memjax.restore(str(workdir)),
    ):
        with pytest.raises(InputError, match=r"no checkpoint can be read, .*_METADATA: is missing"):
            refused()
    assert runs.contents(workdir / "checkpoints") == before


@pytest.mark.parametrize("text", ["[{}]", '{"a": 1}', "5", "[5]", "[", "NaN", "[" * 100_000])
@pytest.mark.parametrize("name", ["sessions.json", "metrics.jsonl"])
def test_a_damaged_file_is_refused_and_kept(
    uninterrupted: Run, workdir: Path, name: str, text: str
) -> None:
    (workdir / name).write_text(f"{text}\n")
    before = runs.contents(workdir)
    with pytest.raises(InputError, match=f"{name}: .*expected"):
        train.run(uninterrupted.experiment, str(workdir))
    assert runs.contents(workdir) == before


def test_a_session_ends_where_the_next_begins(tmp_path: Path) -> None:
    # Killed while it saved step 8, so that the run goes on from step 4.
    killed = Session(str(tmp_path), 0)
    killed.saved(4)
    killed.saved(8)
    Session(str(tmp_path), 4).saved(12)
    sessions = json.loads((tmp_path / "sessions.json").read_text())
    ends = [(session["first_step"], session["last_step"]) for session in sessions]
    assert ends == [(0, 4), (4, 12)]


def test_a_kill_in_the_first_write_is_no_folder_of_something_else(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json.4321.tmp").write_text('{"format_ver')
    assert train.run(runs.experiment(images), str(tmp_path), stop_at_step=1).step == 1


def test_another_experiment_is_refused(uninterrupted: Run, workdir: Path) -> None:
    before = runs.contents(workdir)
    with pytest.raises(InputError, match="holds a run of mem_vae_digits, found vae_digits"):
        train.run(changed(uninterrupted.experiment, "name", "vae_digits"), str(workdir))
    assert runs.contents(workdir) == before


def test_no_name_of_a_folder_is_refused(images: Path) -> None:
    with pytest.raises(InputError, match="workdir: found '', expected a folder"):
        train.run(runs.experiment(images), "")


def test_a_folder_of_something_else_is_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds files but no config.json, expected a new folder"):
        train.run(runs.experiment(images), str(tmp_path))
    assert runs.contents(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("below", ["", "run", "run/deeper"])
def test_a_folder_that_cannot_be_is_refused(images: Path, tmp_path: Path, below: str) -> None:
    # Below a file nobody can write, root included.
    file = tmp_path / "file"
    file.write_text("a file")
    with pytest.raises(InputError, match=r"file.*expected a (writable )?folder"):
        train.run(runs.experiment(images), str(file / below))
    assert file.read_text() == "a file"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.slots", (3,), r"model.slots: found \(3,\), expected nothing or 2 values"),
        ("objective.num_samples", 0, r"objective.num_samples: found 0, expected at least 1"),
        ("train.num_epochs", 0, r"train.num_epochs: found 0, expected at least 1"),
        ("train.batch_size", 25, r"train.batch_size: found 25, expected at most the 24 training"),
        ("train.batch_size", 0, r"train.batch_size: found 0, expected at least 1"),
        ("train.save_every", 0, r"train.save_every: found 0"),
        ("train.call_seconds", float("nan"), r"train.call_seconds: found nan, expected more than"),
        ("optimizer.learning_rate", -1.0, r"optimizer.learning_rate: found -1.0, expected more"),
        ("optimizer.learning_rate", float("inf"), r"found inf, expected more than 0, and finite"),
        ("optimizer.b1", 1.0, r"optimizer.b1: found 1.0, expected .*less than 1"),
        ("optimizer.clip_element", -1.0, r"optimizer.clip_element: found -1.0, expected at least"),
        ("seed", -1, r"seed: found -1, expected 0 to 4294967295"),
        ("seed", 2**32, r"seed: found 4294967296, expected 0 to"),
        ("data.split_seed", -1, r"data.split_seed: found -1, expected 0 to 4294967295"),
        ("data.binarisation", "sometimes", r"^data.binarisation: found 'sometimes', expected one"),
        ("model.attention", "hard", r"^model.attention: found 'hard', expected one of sigmoid"),
        ("train.precision", "float16", r"^train.precision: found 'float16', expected one of fl"),
        ("objective.kl", "none", r"^objective.kl: found 'none', expected one of sampled, analytic"),
        ("dataset", "mnits", r"unknown data set 'mnits', expected mnist"),
        ("dataset", "no/such/file.npz", r"no/such/file.npz"),
    ],
)
def test_bad_values_leave_nothing_behind(
    images: Path, tmp_path: Path, field: str, value: Any, message: str
) -> None:
    workdir = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        train.run(changed(runs.experiment(images), field, value), str(workdir))
    assert not workdir.exists()


def test_a_broken_objective_stops_the_run(images: Path, tmp_path: Path) -> None:
    # In the second epoch the learning rate is 1e30: its first step, the fifth, leaves parameters
    # that the sixth cannot use.
    rarely = runs.experiment(images, save_every=3)
    schedule = dataclasses.replace(rarely.optimizer, constant_epochs=1, decay=1e33)
    rarely = dataclasses.replace(rarely, optimizer=schedule)
    workdir = tmp_path / "rarely"
    with pytest.raises(
        train.NonFiniteError, match=rf"^step 6: .*last good checkpoint in {workdir}: none$"
    ):
        train.run(rarely, str(workdir))
    workdir = tmp_path / "often"
    for _ in range(2):  # going on from the checkpoint leads to the same end
        with pytest.raises(
            train.NonFiniteError, match=rf"^step 6: .*last good checkpoint in {workdir}: step 4$"
        ):
            train.run(changed(rarely, "train.save_every", 1), str(workdir))
        assert saved_steps(workdir)[0] == [4]


@dataclasses.dataclass(frozen=True)
class Cliff:
    """An objective with a value everywhere and a gradient nowhere."""

    num_samples: int = 2

    def __call__(self, terms: Terms) -> jax.Array:
        return pathwise(terms) + jnp.sqrt(0.0 * terms.kl[0])


def test_parameters_that_are_not_finite_are_not_saved(images: Path, tmp_path: Path) -> None:
    experiment = dataclasses.replace(runs.experiment(images), objective=Cliff())
    # Stopped before the objective has seen the parameters that the first step made.
    with pytest.raises(train.NonFiniteError, match=r"^step 1: .*: none$"):
        train.run(experiment, str(tmp_path), stop_at_step=1)
    assert saved_steps(tmp_path)[0] == []


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(8, 4), (100, 4), (6, 3), (2, 2), (5, 1), (1, 1)]
)
def test_choice_of_devices(
    batch_size: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(jax.local_devices()) == 4
    with caplog.at_level(logging.WARNING, logger="memjax"):
        assert devices.choose(batch_size) == jax.local_devices()[:expected]
    notices = [record.getMessage() for record in caplog.records]
    if expected == 4:
        assert notices == []
    else:
        (notice,) = notices
        assert f"using {expected} of 4 devices: the batch of {batch_size} examples" in notice


@pytest.mark.parametrize(("batch_size", "expected"), [(200, 4), (30, 3), (20, 2), (10, 1)])
def test_episodes_stay_whole(
    batch_size: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="memjax"):
        assert devices.choose(batch_size, together=10) == jax.local_devices()[:expected]
    said = f"the batch of {batch_size} examples in episodes of 10 does not divide by more"
    assert (expected < 4) == (said in caplog.text)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, "it ended before it trained"
        time.sleep(0.01)


def test_sigterm_saves_and_the_run_goes_on(images: Path, tmp_path: Path) -> None:
    # Epochs without end; the number of epochs may change from one part of a run to the next.
    endless = {"num_epochs": 10**6, "save_every": 10**6}
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "train", *runs.arguments(images, workdir, **endless)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_for(workdir / "metrics.jsonl", process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    steps, _ = saved_steps(workdir)
    (stopped,) = steps
    assert f"stopped at step {stopped}; the same command goes on from there" in said
    # Not on a terminal there are plain lines and no bar.
    assert "\r" not in said and "it/s" not in said
    experiment = runs.experiment(images, **endless)
    resumed = train.run(experiment, str(workdir), stop_at_step=stopped + 3)
    fresh = train.run(experiment, str(tmp_path / "fresh"), stop_at_step=stopped + 3)
    runs.assert_same_bits(resumed, fresh)
    assert runs.metrics(workdir) == runs.metrics(tmp_path / "fresh")
