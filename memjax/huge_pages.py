"""Huge pages for the memory that XLA takes and gives back with every call.

It imports nothing that takes long, so that a program can call it before all else.
"""

import contextlib
import os
import sys
from pathlib import Path

_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# The number of the process, between its two starts. The setting itself does not say that there was
# one: glibc takes it from programs with privileges, and somebody's start-up file may.
_STARTED = "MEMJAX_STARTED_ANEW"


def start_anew(*modules: str, command: str | None = None) -> None:
    """Start this program anew, with a malloc that asks Linux for huge pages, if it has not yet.

    XLA on CPUs takes the memory of a call from malloc, which has it from the system and gives it
    back: hundreds of megabytes of 4 KiB pages, each cleared and mapped again in the next call. With
    huge pages a step of 50 samples takes a seventh less. glibc reads the setting at the start of a
    process alone.

    Where it starts anew it does not return, and what the program has done before is done again; the
    number of the process, its arguments and open files stay the same. Processes that it starts
    inherit the setting. It returns at once where the kernel has no huge pages for those who ask,
    where `GLIBC_TUNABLES` says already what is wanted, and where the process was started as
    anything else: a notebook, a script of somebody's own or a debugger would lose what it holds.

    Args:
        modules: of the program, as `python -m MODULE` has them.
        command: its name as an installed one, if it is.
    """
    if os.environ.pop(_STARTED, None) == str(os.getpid()):
        return
    tunables = os.environ.get(_VARIABLE, "")
    if _SETTING in _parsed(tunables) or not _started_as(modules, command):
        return
    if not _on_request() or not _glibc_knows():
        return
    wanted = {
        _VARIABLE: ":".join([*filter(None, [tunables]), f"{_SETTING}=1"]),
        _STARTED: str(os.getpid()),
    }
    with contextlib.suppress(OSError):  # without, it is slower but as right
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})


def in_use() -> bool:
    """Whether Linux gives this process transparent huge pages: to all, or as its malloc asks."""
    asked = _parsed(os.environ.get(_VARIABLE, "")).get(_SETTING) == "1"
    return "[always]" in _state() or (asked and _on_request() and _glibc_knows())


def _started_as(modules: tuple[str, ...], command: str | None) -> bool:
    """Whether Python was told to run one of some modules or a command, and nothing around it."""
    words = iter(sys.orig_argv[1:] if sys.executable else [])
    for word in words:
        if word in ("-W", "-X"):
            next(words, None)
        elif word == "-m":
            return next(words, None) in modules
        elif word in ("-", "-c") or not word.startswith("-"):
            return Path(word).name == command
    return False


def _parsed(tunables: str) -> dict[str, str]:
    """Names and values of `name=value:name=value`."""
    pairs = (one.partition("=") for one in tunables.split(":"))
    return {name: value for name, _, value in pairs}


def _on_request() -> bool:
    """Whether the kernel gives huge pages to memory for which they are asked, and no other."""
    return "[madvise]" in _state()


def _state() -> str:
    try:
        return _STATE.read_text()
    except OSError:  # another system, or one without them
        return ""


def _glibc_knows() -> bool:
    """Whether the C library has the setting: glibc from 2.35 on."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        major, minor = (int(part) for part in version.split(".")[:2])
    except (AttributeError, ValueError):  # another system or C library
        return False
    return name == "glibc" and (major, minor) >= (2, 35)
