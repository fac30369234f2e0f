"""The command line of evaluation: exit codes and what is printed."""

import dataclasses
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eval.__main__ import OF_SEVERAL, TASKS, main
from memjax import hosts
from tests import eval_runs
from tests.runs import contents
from tests.test_disk import FULL, fill, mounted

ROOT = Path(__file__).parent.parent

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command line in this process: arguments -> exit code, stdout, stderr."""
    logger = logging.getLogger("memjax")
    before = logger.handlers, logger.propagate, logger.level

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield run
    logger.handlers, logger.propagate, logger.level = before


@pytest.fixture
def workdir(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Path]:
    run = eval_runs.trained(tmp_path_factory.getbasetemp())
    with eval_runs.one_device():
        yield eval_runs.copy(run, tmp_path / "run")


def test_likelihood_says_what_it_found(command: Command, workdir: Path) -> None:
    arguments = ("--num-samples", "6", "--max-images", "3", "--batch-norm", "moving_average")
    code, out, err = command("likelihood", "--workdir", str(workdir), *arguments)
    assert code == 0
    assert "mem_vae_digits: log p(x) = -" in err
    assert " nats, 3 test images, 6 samples, " in err
    assert "K=1: -" in err
    assert "K=6: -" in err
    assert out == ""
    assert (workdir / "results.json").exists()


@pytest.mark.parametrize("task", TASKS)
def test_help_of_every_task(command: Command, task: str) -> None:
    code, out, _ = command(task, "--help")
    assert code == 0
    assert TASKS[task].__doc__.splitlines()[0].rstrip(".") in " ".join(out.split())
    options = set(TASKS[task].__annotations__)
    if "processes" in options:  # a group, whose options have no prefix
        options |= {field.name for field in dataclasses.fields(hosts.Processes)}
    for option in options:
        if option not in ("return", "workdirs", "experiment", "processes"):
            assert f"--{option.replace('_', '-')}" in out


@pytest.mark.parametrize("task", OF_SEVERAL)
def test_several_workdirs_may_be_named_as_one_is(command: Command, task: str) -> None:
    code, _, err = command(task, "nowhere", "neither")
    assert (code, len(err.splitlines())) == (2, 1) and err.startswith("error: nowhere")
    for arguments in (("--workdir", "nowhere", "neither"), ("--workdir=nowhere", "neither")):
        assert command(task, *arguments) == (2, "", err)


def test_help_lists_the_tasks(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    assert all(task in out for task in TASKS)


def test_a_task_may_have_an_underscore(command: Command) -> None:
    code, _, err = command("few_shot", "--workdir", "nowhere")
    assert (code, err.splitlines()[-1][:29]) == (2, "error: nowhere/config.json: n")


def test_no_task_names_the_tasks(command: Command) -> None:
    code, out, err = command()
    assert code == 2
    assert all(task in out + err for task in TASKS)
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("likelyhood", "task 'likelyhood': unknown, expected one of likelihood"),
        ("fewshot", "task 'fewshot': unknown, expected one of few-shot, slots, report"),
        ("zzz", f"task 'zzz': unknown, expected one of {', '.join(TASKS)}"),
    ],
)
def test_an_unknown_task_is_one_line(command: Command, task: str, expected: str) -> None:
    assert command(task, "--workdir", "x") == (2, "", f"error: {expected}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("likelihood", "--workdir", "x", "--num-sample", "7"), "--num-samples"),
        (("likelihood", "--workdir", "x", "--num-samples", "many"), "many"),
        (("likelihood", "--workdir", "x", "--split", "tests"), "('train', 'valid', 'test')"),
        (("likelihood",), "--workdir"),
        (("samples",), "--workdir"),
        (("tables", "--colour", "red"), "--colour"),
    ],
)
def test_bad_flags_are_explained(
    command: Command, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = command(*arguments)
    assert code == 2
    # The frame is as wide as the terminal, so that lines break anywhere.
    assert message in " ".join((out + err).replace("│", " ").split())
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("likelihood", "--num-samples", "0"), "--num-samples: found 0, expected at least 1"),
        (("likelihood", "--chunk-size", "0"), "--chunk-size: found 0, expected at least 1"),
        (("likelihood", "--max-images", "0"), "--max-images: found 0, expected at least 1"),
        (
            ("likelihood", "--num-samples", str(2**31)),
            "found 2147483648, expected at most 21474836",
        ),
        (("slots", "--num-samples", str(2**31)), "found 2147483648, expected at most 2147483647"),
        (("imputation", "--num-passes", str(10**12)), "--num-passes: found 1000000000000, expect"),
        (("likelihood", "--seed", "-1"), "--seed: found -1, expected 0 to 4294967295"),
        (("likelihood", "--step", "4"), "no checkpoint of step 4, expected one of"),
        (("samples", "--num-images", "0"), "--num-images: found 0, expected 1 to 1,000"),
    ],
)
def test_bad_values_are_one_line(
    command: Command, workdir: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = contents(workdir)
    code, out, err = command(*arguments, "--workdir", str(workdir))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert contents(workdir) == before


def test_missing_split_is_one_line(command: Command, workdir: Path) -> None:
    eval_runs.edit_config(workdir, data={"merge_validation": True})
    code, out, err = command("likelihood", "--workdir", str(workdir), "--split", "valid")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "error: --split: digits has no valid split in this run, expected one of train, test"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("likelihood", "--workdir"), "config.json: not found, expected the workdir of a training"),
        (("samples", "--workdir"), "config.json: not found, expected the workdir of a training"),
        (("parameters", "--workdir"), "config.json: not found, expected the workdir of a training"),
        (("record",), "config.json: not found, expected the workdir of a training run"),
        (("compare",), "config.json: not found, expected the workdir of a training run"),
        (("tables", "--results"), "no such folder, expected the folder of `eval record`"),
    ],
)
def test_folder_that_is_missing_is_one_line(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = command(*arguments, str(tmp_path / "missing"))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 'missing'}")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["record", "compare"])
def test_no_workdirs_are_one_line(command: Command, task: str) -> None:
    code, out, err = command(task)
    assert (code, out) == (2, "")
    assert err == f"error: {task}: found no workdirs, expected at least one\n"


def test_a_disk_that_is_full_or_read_only_is_one_line(
    command: Command, workdir: Path, tmp_path: Path
) -> None:
    """A full one after the work, with what failed; one that cannot be written before it."""
    for disk in mounted(tmp_path / "disk", "size=8m"):
        shutil.copytree(workdir, disk / "run")
        arguments = ("likelihood", "--workdir", str(disk / "run"), "--num-samples", "2")
        few = (*arguments, "--max-images", "3", "--batch-norm", "moving_average")
        filler = fill(disk)
        code, out, err = command(*few)
        assert (code, out) == (1, "")
        said = rf"error: {disk}/run/likelihood_\w+\.npz(\.partial)?: cannot be written \({FULL}\)"
        assert re.fullmatch(said, err.splitlines()[-1]) and "Traceback" not in err
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for task, name in ((few, "results.json"), (("samples", *arguments[1:3]), "samples.png")):
            code, out, err = command(*task)
            assert (code, out) == (2, "")
            assert err == (
                f"error: {disk}/run/{name}: cannot be written (Read-only file system), "
                "expected a file in a writable folder\n"
            )


def test_a_process_of_its_own_exits_with_2_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eval", "likelihood", "--workdir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path}/config.json: not found, expected the workdir of a training run\n"
    )
    assert done.stdout == ""
