"""Huge pages: asked for once, in a process that is otherwise the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memjax import huge_pages

SETTING = "glibc.malloc.hugetlb=1"
STATE = huge_pages._STATE


class Started(Exception):
    """In place of a process that is started anew."""


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The kernel's file, which says that pages are for those who ask; starts are caught."""

    def start(program: str, arguments: list[str]) -> None:
        raise Started(program, arguments)

    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_STATE", path)
    monkeypatch.setattr(os, "execv", start)
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # so that it is taken out again after the test
    monkeypatch.delenv("GLIBC_TUNABLES")
    return path


def test_the_process_starts_anew_with_its_own_arguments(state: Path) -> None:
    with pytest.raises(Started) as caught:
        huge_pages.ask()
    assert caught.value.args == (sys.executable, sys.orig_argv)
    assert os.environ["GLIBC_TUNABLES"] == SETTING
    assert huge_pages.asked()
    huge_pages.ask()  # not once more


def test_what_the_user_has_set_stays(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    with pytest.raises(Started):
        huge_pages.ask()
    assert os.environ["GLIBC_TUNABLES"] == f"glibc.malloc.check=1:{SETTING}"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    huge_pages.ask()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"
    assert not huge_pages.asked()


@pytest.mark.parametrize("said", ["[always] madvise never", "always madvise [never]", None])
def test_nothing_happens_where_it_would_change_nothing(state: Path, said: str | None) -> None:
    if said is None:
        state.unlink()
    else:
        state.write_text(said)
    huge_pages.ask()
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.skipif(
    not (STATE.exists() and "[madvise]" in STATE.read_text()),
    reason="this kernel does not give huge pages to those who ask",
)
@pytest.mark.parametrize("options", [["-W", "error"], ["-X", "utf8"]])
def test_a_process_keeps_number_options_and_arguments(options: list[str]) -> None:
    program = (
        "import os, sys; print(os.getpid(), flush=True); from memjax import huge_pages; "
        "huge_pages.ask(); print(sys.argv[1:], sys.warnoptions, sys.flags.utf8_mode, "
        "os.environ['GLIBC_TUNABLES'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, *options, "-c", program, "a b", "--c"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, rest = done.stdout.splitlines()
    assert first == second
    wanted = (["error"], 0) if options[0] == "-W" else ([], 1)
    assert rest == f"['a b', '--c'] {wanted[0]} {wanted[1]} {SETTING}"
