"""Disks that are full, folders that cannot be written, and two runs in one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from eval import files, parameters, records, tables
from eval.likelihood import write
from eval.partial import Partial
from eval.tables import BEGIN, END, insert
from memjax import plots
from memjax.checkpoint import Checkpoints
from memjax.errors import InputError, WriteError
from memjax.evaluation import Likelihood
from reliability.__main__ import add as add_figures
from tests import eval_records, runs
from train.command import main
from train.lock import locked
from train.log import Log
from train.sessions import Session

ROOT = Path(__file__).parent.parent
FULL = "No space left on device"


def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KiB."""
    yield from mounted(tmp_path / "small", "size=400k")


def fill(disk: Path) -> Path:
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match=FULL):
        while True:
            file.write(bytes(4096))
    return path


def state(step: int) -> dict[str, jax.Array]:
    # Random numbers, which orbax cannot compress.
    drawn = np.random.default_rng(step).normal(size=20_000)
    return {"kernel": jnp.asarray(drawn, jnp.float32)}


# Where one write fails, Orbax closes the event loop of those that go on, and tensorstore says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_last_complete_checkpoint_outlives_a_full_disk(small: Path) -> None:
    """Each takes 80 KiB and more: three fit in, with what orbax writes beside them."""
    checkpoints = Checkpoints(str(small))
    with pytest.raises(WriteError, match=rf"^{small}/checkpoints/\d+: cannot be written \(.*"):
        for step in range(1, 8):
            checkpoints.save(state(step), step)
    checkpoints.close()
    again = Checkpoints(str(small), create=False)
    steps = again.steps()
    assert steps and steps[-1] < 7
    found = again.restore(jax.eval_shape(lambda: {"kernel": jnp.zeros(20_000)}), steps[-1])
    np.testing.assert_array_equal(found["kernel"], state(steps[-1])["kernel"])
    assert not [path for path in (small / "checkpoints").iterdir() if "tmp" in path.name]


def test_logs_say_which_file(small: Path) -> None:
    log, session = Log(str(small), 0, 9), Session(str(small), 0)
    filler = fill(small)
    with pytest.raises(WriteError, match=rf"^{small}/metrics.jsonl: cannot be written \({FULL}"):
        log.metrics(1, 1, {"x" * 9000: 1.0})
    with pytest.raises(WriteError, match=rf"^{small}/tensorboard: cannot be written \({FULL}"):
        for step in range(100):
            log.images(step, "noise", np.random.default_rng(step).random((64, 64, 3)))
    with pytest.raises(WriteError, match=rf"^{small}/sessions.json: cannot be written \({FULL}"):
        session.saved(4)
    filler.unlink()
    session.saved(4)
    log.close()
    assert not list(small.glob("*.tmp"))


def _partial(folder: Path) -> None:
    found = Likelihood(np.zeros(9), np.zeros(9), np.zeros((2, 9))), {"kl_latent": np.zeros(9)}
    one = Partial.in_file(epath.Path(folder / "file"), found, 9)
    one.add(found)


def _likelihood(folder: Path) -> None:
    found = Likelihood(np.zeros(9), np.zeros(9), np.zeros((2, 9))), {}
    run = SimpleNamespace(workdir=epath.Path(folder))
    write(run, found, [1], [eval_records.record()])  # type: ignore[arg-type]


GROWN = eval_records.record(protocol={"text": "x" * 9000})
PAGE = "{}".join(["x" * 9000, BEGIN, END])
WRITERS: dict[str, Callable[[Path], object]] = {
    "file.json": lambda folder: records.add(epath.Path(folder / "file.json"), [GROWN]),
    "reliability.json": lambda folder: add_figures(
        epath.Path(folder / "reliability.json"), "part", {"x": "x" * 9000}
    ),
    "file.png": lambda folder: files.save_figure(
        plots.curves({"a": ([1, 2], [3, 4])}, "x", "y"), epath.Path(folder / "file.png")
    ),
    "file.gif": lambda folder: files.save_animation(
        list(np.random.default_rng(0).random((3, 40, 40, 3))), epath.Path(folder / "file.gif")
    ),
    "page.md": lambda folder: insert(epath.Path(folder / "page.md"), "x" * 9000),
    "README.md": lambda folder: tables(str(folder)),
    "parameters.json": lambda folder: parameters(results=str(folder)),
    r"file_\w{16}.npz.partial": _partial,
    r"likelihood_test_5000_\w{8}.npz": _likelihood,
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_evaluation_says_which_file(
    name: str, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was there is as it was."""
    monkeypatch.setattr("eval.partial.SAVED_EVERY", 0)
    old = {"page.md": PAGE, "file.json": "[]", "reliability.json": "{}", "parameters.json": "[]"}
    (small / name).write_text(old.get(name, "old"))
    filler, before = fill(small), (small / name).read_text()
    with pytest.raises(WriteError, match=rf"^{small}/{name}: cannot be written \({FULL}\)$"):
        WRITERS[name](small)
    assert (small / name).read_text() == before
    assert {path.name for path in small.iterdir()} <= {name, f"{name}.lock", "filler"}
    filler.unlink()
    WRITERS[name](small)
    assert not list(small.glob("*.tmp"))


def test_a_disk_that_fills_in_a_run_ends_it_in_a_few_lines(small: Path, tmp_path: Path) -> None:
    """Whatever Orbax and tensorstore say of a save that fails."""
    images = runs.write_images(tmp_path)
    with (small / "filler").open("wb") as file:
        file.write(bytes(200 * 1024))
    command = [sys.executable, "-m", "train", *runs.arguments(images, small / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    *before, said = done.stderr.splitlines()
    assert len(before) < 10 and "Traceback" not in done.stderr, done.stderr
    full = r"\S+: cannot be written \("  # whichever file comes first
    assert re.match(rf"error: {small}/run/{full}", said)
    assert FULL in said and said.endswith("; once it can be, the same command goes on")


LEFT = """
import asyncio, os, sys
from train import command

async def write(place):
    raise OSError(f"another part of {place}")

async def save():
    asyncio.create_task(write("the save"))
    await asyncio.sleep(0)

class Unfinished:
    def __del__(self):
        raise self.error

for error in (OSError(28, os.strerror(28)), RuntimeError("Event loop is closed"), OSError("ours")):
    sys.unraisablehook = command.unraisable
    command.main(["--list"])
    write("nothing")
    asyncio.run(save())
    unfinished = Unfinished()
    unfinished.error = error
    del unfinished
"""


def test_what_is_left_of_a_write_that_failed_is_not_said_again() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT], cwd=ROOT, capture_output=True, text=True)
    first, *_, last = done.stderr.splitlines()
    assert done.returncode == 0
    assert first.startswith("Exception ignored ") and last == "OSError: ours"
    assert done.stderr.count("Error") == 1


def test_a_run_on_a_full_disk_ends_in_one_line(small: Path, tmp_path: Path) -> None:
    images = runs.write_images(tmp_path)
    fill(small)
    command = [sys.executable, "-m", "train", *runs.arguments(images, small / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"error: {small}/run: cannot be written ({FULL})")
    assert "the same command goes on" in said and "Traceback" not in done.stderr


def test_a_read_only_disk_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = runs.write_images(tmp_path)
    for folder in mounted(tmp_path / "fixed", "size=400k,ro"):
        assert main(runs.arguments(images, folder / "run")) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == (
            f"error: {folder}/run: cannot be written (Read-only file system), "
            "expected a writable folder"
        )


HOLD = """
import sys, time
from train.lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "locked\n"
        said = rf"^{tmp_path}: in use by the run of process {first.pid} on {os.uname().nodename}, "
        with pytest.raises(InputError, match=said), locked(str(tmp_path)):
            pass
        first.kill()
    with locked(str(tmp_path)):
        content = (tmp_path / "lock").read_text()
        assert content == f"process {os.getpid()} on {os.uname().nodename}\n"
        with pytest.raises(InputError, match="in use by"), locked(str(tmp_path)):
            pass


def test_a_run_keeps_to_the_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, workdir = runs.write_images(tmp_path), tmp_path / "run"
    workdir.mkdir()
    with locked(str(workdir)):
        assert main(runs.arguments(images, workdir)) == 2
    assert "in use by the run of process" in capsys.readouterr().err
    assert [path.name for path in workdir.iterdir()] == ["lock"]


@pytest.mark.parametrize("name", ["with space", "mémoire-記憶", "a'b\"c"])
def test_folders_of_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    with locked(name):
        checkpoints = Checkpoints(name)  # relative
        checkpoints.save(state(1), 1)
        checkpoints.close()
        log = Log(name, 0, 1)
        log.metrics(1, 1, {"elbo": -1.0})
        log.close()
    monkeypatch.chdir("/")
    again = Checkpoints(str(tmp_path / name), create=False)
    again.check(1)
    assert again.steps() == [1]
    assert (tmp_path / name / "metrics.jsonl").read_text().startswith('{"step": 1')
