"""Huge pages: asked for once, in a process that is otherwise the same."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import train
from memjax import huge_pages
from train import __main__ as program

ROOT = Path(__file__).parent.parent
SETTING = "glibc.malloc.hugetlb=1"
STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class Started(Exception):
    """In place of a process that is started anew."""


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The kernel's file, which says that pages are for those who ask; starts are caught.

    The process is `python -m train nope`, of a C library that has the setting.
    """

    def start(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise Started(path, arguments, environment)

    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_STATE", path)
    monkeypatch.setattr(os, "execve", start)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "-m", "train", "nope"])
    for name in ("GLIBC_TUNABLES", "MEMJAX_STARTED_ANEW"):
        monkeypatch.setenv(name, "")  # so that it is taken out again after the test
        monkeypatch.delenv(name)
    return path


def started() -> dict[str, str] | None:
    """The environment of a start anew, if there is one."""
    try:
        huge_pages.start_anew("train", "memjax_train", command="memjax-train")
    except Started as caught:
        path, arguments, environment = caught.args
        assert path == sys.executable
        assert arguments == sys.orig_argv
        assert "GLIBC_TUNABLES" not in os.environ or os.environ["GLIBC_TUNABLES"] not in environment
        return dict(environment)
    return None


def test_the_process_starts_anew_with_its_own_arguments(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = started()
    assert environment is not None
    assert environment["GLIBC_TUNABLES"] == SETTING
    assert not huge_pages.in_use()
    assert environment.keys() - os.environ.keys() == {"GLIBC_TUNABLES", "MEMJAX_STARTED_ANEW"}
    monkeypatch.setattr(os, "environ", environment)
    assert huge_pages.in_use()
    assert started() is None  # not once more
    assert "MEMJAX_STARTED_ANEW" not in environment  # nor is anything said to processes of its own


def test_who_takes_the_setting_away_is_asked_once(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = started()
    assert environment is not None
    del environment["GLIBC_TUNABLES"]
    monkeypatch.setattr(os, "environ", environment)
    assert started() is None
    monkeypatch.setenv("MEMJAX_STARTED_ANEW", str(os.getpid() + 1))  # of a process before
    assert started() is not None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("glibc.malloc.check=1", f"glibc.malloc.check=1:{SETTING}"),
        ("other.malloc.hugetlb=0", f"other.malloc.hugetlb=0:{SETTING}"),
        ("glibc.malloc.hugetlb=0", None),
        ("glibc.malloc.check=1:glibc.malloc.hugetlb=2", None),
    ],
)
def test_what_the_user_has_set_stays(
    state: Path, given: str, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", given)
    environment = started()
    assert (environment and environment["GLIBC_TUNABLES"]) == wanted
    assert os.environ["GLIBC_TUNABLES"] == given
    assert not huge_pages.in_use()


@pytest.mark.parametrize(
    ("said", "setting", "in_use"),
    [
        ("[always] madvise never", "", True),
        ("always madvise [never]", SETTING, False),
        ("always [madvise] never", SETTING, True),
        ("always [madvise] never", "glibc.malloc.hugetlb=16", False),
        (None, SETTING, False),
    ],
)
def test_whether_they_are_in_use_is_the_kernels_word_too(
    state: Path, said: str | None, setting: str, in_use: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is None:
        state.unlink()
    else:
        state.write_text(said)
    monkeypatch.setenv("GLIBC_TUNABLES", setting)
    assert huge_pages.in_use() == in_use
    monkeypatch.delenv("GLIBC_TUNABLES")
    assert (started() is None) == (said != "always [madvise] never")


@pytest.mark.parametrize("found", ["glibc 2.34", "glibc 2.x", "", None, ValueError, AttributeError])
def test_only_the_c_library_that_has_the_setting_is_asked(
    state: Path, found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confstr(name: str) -> Any:
        if isinstance(found, type):
            raise found(name)
        return found

    monkeypatch.setattr(os, "confstr", confstr)
    assert started() is None
    monkeypatch.setenv("GLIBC_TUNABLES", SETTING)
    assert not huge_pages.in_use()
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 3.0")
    assert huge_pages.in_use()


@pytest.mark.parametrize(
    ("command", "anew"),
    [
        ("python -m train", True),
        ("python -u -X utf8 -W error -m memjax_train --list", True),
        ("python -O /usr/bin/memjax-train nope", True),
        ("python -m ipykernel_launcher -f kernel.json", False),
        ("python -m pdb -m train nope", False),
        ("python launch.py -m train nope", False),
        ("python -X train -m mine", False),
        ("python -m mine train", False),
        ("python train nope", False),
        ("python -c memjax-train", False),
        ("python - memjax-train", False),
        ("python -m", False),
        ("python", False),
        ("", False),
    ],
)
def test_only_the_programs_themselves_start_anew(
    state: Path, command: str, anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", command.split())
    assert (started() is not None) == anew
    monkeypatch.setattr(sys, "orig_argv", ["python", "nope"])
    huge_pages.start_anew("train")  # which has no command


def test_what_cannot_start_anew_goes_on(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise FileNotFoundError(sys.executable)

    monkeypatch.setattr(os, "execve", fail)
    assert started() is None
    assert "GLIBC_TUNABLES" not in os.environ
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(sys, "executable", "")
    assert started() is None


# Says of each start of a process its number, its setting, and whether it has imported jax by then.
START_UP = """
import json, os, sys
start = os.execve
def spy(path, arguments, environment):
    with open(os.environ["STARTS"], "a") as file:
        heavy = sorted({"jax", "numpy", "tyro"} & set(sys.modules))
        print(json.dumps([os.getpid(), heavy, os.environ.get("GLIBC_TUNABLES")]), file=file)
    start(path, arguments, environment)
os.execve = spy
"""


@pytest.mark.skipif(
    not (STATE.exists() and "[madvise]" in STATE.read_text() and huge_pages._glibc_knows()),
    reason="this system does not give huge pages to those who ask",
)
@pytest.mark.parametrize(
    ("options", "takes_away"), [(["-W", "error::UserWarning"], False), (["-X", "utf8"], True)]
)
def test_training_starts_anew_before_it_imports(
    options: list[str], takes_away: bool, tmp_path: Path
) -> None:
    more = "os.environ.pop('GLIBC_TUNABLES', None)" if takes_away else ""
    of_end = "import atexit; atexit.register(lambda: print(os.getpid(), sys.warnoptions, "
    of_end += "sys.flags.utf8_mode, os.environ.get('GLIBC_TUNABLES')))"
    (tmp_path / "sitecustomize.py").write_text(f"{START_UP}\n{more}\n{of_end}\n")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": paths, "STARTS": str(tmp_path / "starts")}
    done = subprocess.run(
        [sys.executable, *options, "-m", "train", "--list"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    number, heavy, tunables = json.loads((tmp_path / "starts").read_text())  # one line
    assert (heavy, tunables) == ([], None)
    wanted = ("['error::UserWarning']", 0) if options[0] == "-W" else ("[]", 1)
    last = done.stdout.splitlines()[-1]
    assert last == f"{number} {wanted[0]} {wanted[1]} {None if takes_away else SETTING}"
    assert "vae_mnist" in done.stdout
    assert not done.stderr


def test_training_as_a_library_gives_each_name_when_asked() -> None:
    light = "import sys, train; print(sorted({'jax', 'numpy', 'flax'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", light], env=environment, capture_output=True)
    assert done.stdout == b"[]\n"
    assert set(train.__all__) == set(train._ROOMS) <= set(dir(train))
    for name in train.__all__:
        assert getattr(train, name).__name__ == name
    with pytest.raises(AttributeError, match=r"'train' has no attribute 'runs'"):
        _ = train.runs  # type: ignore[attr-defined]


def test_the_program_starts_anew_under_each_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    command = SimpleNamespace(unraisable=print, main=lambda argv: len(argv))
    monkeypatch.setattr(
        huge_pages, "start_anew", lambda *modules, command: names.append((modules, command))
    )
    monkeypatch.setattr(program, "_imported", lambda: command)
    monkeypatch.setattr(sys, "argv", ["train", "a", "b"])
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    assert program.main() == 2
    assert sys.unraisablehook is print
    assert names == [(("train", "memjax_train"), "memjax-train")]


def test_an_interrupt_of_imports_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    set_to = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_to.append(handler))
    try:
        for handler in (signal.default_int_handler, signal.SIG_IGN):
            monkeypatch.setattr(signal, "getsignal", lambda number, handler=handler: handler)
            assert callable(program._imported().main)
    finally:
        monkeypatch.undo()
    assert set_to == [signal.SIG_DFL, signal.default_int_handler]  # what is ignored stays
    assert signal.getsignal(signal.SIGINT) is before
