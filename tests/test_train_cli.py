"""`python -m train`: what it lists, explains, refuses and prints."""

import contextlib
import importlib.util
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
import pytest

from memjax import config, configs, errors
from train.command import main

from . import runs

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """The program sets up the logger of memjax; put it back."""
    logger = logging.getLogger("memjax")
    before = (logger.handlers, logger.propagate, logger.level)
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return runs.write_images(tmp_path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must exit with code 2; returns what it printed, in one line."""
    try:
        code: object = main(arguments)
    except SystemExit as left:  # tyro leaves by itself
        code = left.code
    assert code == 2
    said = capsys.readouterr()
    assert not said.out and "Traceback" not in said.err
    return re.sub(r"[\s│─╭╮╰╯]+", " ", said.err)


@pytest.mark.parametrize("arguments", [["--list"], ["--help"], ["-h"], []])
def test_every_experiment_is_listed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, experiment in configs.EXPERIMENTS.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        reference = experiment.reference
        assert reference.paper in line and reference.table in line
        assert reference.value is None or f"{reference.value:.2f} {reference.metric}" in line


def test_help_names_every_field_and_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # one column of options: side by side they cannot be read
    with pytest.raises(SystemExit) as left:
        main(["mem_vae_mnist", "--help"])
    assert left.value.code == 0
    said = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    fields = config.flatten(config.fields_of(configs.get("mem_vae_mnist")))
    assert len(fields) > 35
    for name, value in fields.items():
        if name in ("name", "model.image_shape"):
            continue  # set by the program
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        pattern = (
            rf"--{re.escape(name.replace('_', '-'))} [^-].*?\(default: {re.escape(str(shown))}\)"
        )
        assert re.search(pattern, said, re.DOTALL), f"{name}, default {value}"
    for hidden in ("--model.batch-axes", "--model.precision", "--model.parent", "--reference"):
        assert hidden not in said
    assert "--workdir" in said and "--data-dir" in said


def test_an_unknown_experiment(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refused(["mem_vae_mnits", "--workdir", str(tmp_path / "run")], capsys)
    assert said.startswith("error: experiment 'mem_vae_mnits': unknown, expected one of mem_vae_m")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["--list", "mnist"], ["--workdir", "run", "vae_mnist"]])
def test_the_experiment_comes_first(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {arguments[0]}: expected the name of an experiment first")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--train.num-epoch", "3"], "--train.num-epochs"),
        (["--model.slot", "3", "4"], "--model.slots"),
        (["--sead", "3"], "--seed"),
        (["--train.num-epochs", "many"], "--train.num-epochs"),
        (["--model.attention", "hard"], "--model.attention"),
        (["--model.hidden", "5", "x"], "--model.hidden"),
        (["--data.merge-validation", "perhaps"], "--data.merge-validation"),
    ],
)
def test_fields_that_cannot_be_read(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    said = refused(["mem_vae_digits", "--workdir", str(workdir), *options], capsys)
    assert options[0] in said and expected in said
    assert not workdir.exists()


def test_workdir_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--workdir" in refused(["mem_vae_digits"], capsys)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--objective.num-samples", "0"], "objective.num_samples: found 0, expected at least 1"),
        (["--model.slots", "3"], "model.slots: found (3,), expected nothing or 2 values"),
        (["--train.batch-size", "25"], "train.batch_size: found 25, expected at most the 24"),
        (["--seed", "-1"], "seed: found -1, expected 0 to"),
        (["--dataset", "nothing.npz"], "nothing.npz"),
        (["--dataset", "mnits"], "unknown data set 'mnits', expected mnist"),
        (
            ["--dataset", "mnist", "--data-dir", "/no/such/folder"],
            "/no/such/folder: no such folder",
        ),
    ],
)
def test_bad_values(
    options: list[str],
    expected: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workdir = tmp_path / "run"
    said = refused([*runs.arguments(images, workdir), *options], capsys)
    assert said.startswith("error: ") and expected in said
    assert not workdir.exists()


@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_devices_that_are_not_there(platform: str, tmp_path: Path) -> None:
    if platform == "cuda" and importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("jax has its part for NVIDIA GPUs")
    workdir = ["--workdir", str(tmp_path / "run")]
    for program in (["train", "vae_digits", *workdir], ["eval", "samples", *workdir]):
        ended = subprocess.run(
            [sys.executable, "-m", *program],
            env={**os.environ, "JAX_PLATFORMS": platform},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 2
        assert re.fullmatch(f"error: JAX_PLATFORMS: found {platform}, .*\n", ended.stderr)


def test_images_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "float.npz"
    np.savez(path, images=np.full((30, 4, 3), np.nan))
    said = refused(runs.arguments(path, tmp_path / "run"), capsys)
    assert said.startswith(f"error: {path}: ") and "expected uint8" in said
    assert said.count("error") == 1 and not (tmp_path / "run").exists()


def test_what_does_not_fit_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ["--model.latent", str(10**9)]  # 800 GB of weights
    assert main(["vae_digits", "--workdir", str(tmp_path / "run"), *fields]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(r"error: out of memory .*, expected a smaller model or batch", last)


def test_a_run_without_a_terminal_prints_plain_lines(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    assert main(runs.arguments(images, workdir, num_epochs=1)) == 0
    said = capsys.readouterr()
    assert said.out == "" and "\r" not in said.err
    lines = said.err.splitlines()
    assert any("using 1 of 4 devices" in line for line in lines)
    (start,) = [line for line in lines if "parameters" in line]
    expected = r"mem_vae_digits: [\d,]+ parameters, 24 training images, 4 steps an epoch"
    assert re.match(expected, start)
    progress = r"step 4 of 4, [\d.]+ steps/s, bound -[\d.]+ nats, 00:00 left"
    assert re.fullmatch(progress, lines[-1])


def test_the_program_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "train", "vae_digit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "vae_digits" in done.stderr


# What fills the buffer of the output and what does not; what returns and what exits, as for help.
SAYING = {
    "little": "print('a word')",
    "much": "print('a word ' * 10**5)",
    "lines": "sys.stdout.writelines(['a word\\n'] * 10**5)",
    "help": "print('a word'); sys.exit(0)",
    "passed over": "with contextlib.suppress(Exception): print('a word', flush=True)",
}


def saying(what: str) -> list[str]:
    program = f"""
import contextlib, sys
from memjax.errors import exit_code_of

def program():
    {what}
    return 0

sys.exit(exit_code_of(program))
"""
    return ["-c", program]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("what", SAYING.values(), ids=SAYING)
def test_a_reader_that_ends_early_is_no_error(what: str, unbuffered: str) -> None:
    assert unread(saying(what), unbuffered) == (141, "")


@pytest.mark.parametrize("command", ["train --list", "eval report --help"])
def test_programs_end_with_their_readers(command: str) -> None:
    assert unread(["-m", *command.split()]) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("what", SAYING.values(), ids=SAYING)
def test_output_that_cannot_be_written_is_said_in_a_line(what: str, unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        code, said = of_output(saying(what), full, unbuffered)
    assert code == 1
    assert said == "error: standard output: cannot be written (No space left on device)\n"


def test_a_program_needs_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> int:
        print("unread", sys.stdout.isatty())
        return 7

    monkeypatch.setattr(sys, "stdout", None)
    assert errors.exit_code_of(program) == 7
    assert sys.stdout is None


class Refusing(io.StringIO):
    """Output that is no file, which a notebook may have."""

    def write(self, text: str) -> int:
        raise io.UnsupportedOperation("not now")


class Less:
    """Output with less than a file has."""

    write = Refusing.write


@pytest.mark.parametrize("kind", [Refusing, Less])
def test_output_that_is_no_file_is_said_as_well(
    capsys: pytest.CaptureFixture[str], kind: type[Any]
) -> None:
    with contextlib.redirect_stdout(kind()) as output:
        assert errors.exit_code_of(lambda: print("a word") or 0) == 1
        assert sys.stdout is output
    assert capsys.readouterr().err == "error: standard output: cannot be written (not now)\n"


@pytest.mark.parametrize("output", [sys.__stdout__, io.StringIO()], ids=["file", "no file"])
def test_other_broken_pipes_are_errors(output: TextIO) -> None:
    def worker() -> int:
        raise BrokenPipeError("a worker")

    with contextlib.redirect_stdout(output), pytest.raises(BrokenPipeError, match="a worker"):
        errors.exit_code_of(worker)


def unread(command: list[str], unbuffered: str = "") -> tuple[int, str]:
    """`of_output` where nobody reads it."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as closed:
        return of_output(command, closed, unbuffered)


def of_output(command: list[str], output: IO[bytes], unbuffered: str) -> tuple[int, str]:
    """The exit code of a program, and what it says on stderr."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    program = [sys.executable, *command]
    done = subprocess.run(
        program, stdout=output, stderr=subprocess.PIPE, cwd=ROOT, env=environment, text=True
    )
    return done.returncode, done.stderr
