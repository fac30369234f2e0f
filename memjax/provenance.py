"""Where a number comes from: code, libraries, machine."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

CODE = (
    *("memjax", "train", "eval", "benchmarks", "reliability"),
    *("setup.py", "requirements.lock"),
)
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "distrax", "numpy")


def describe() -> dict[str, Any]:
    """Hardware, versions, commit and whether the working tree differed from it."""
    return {
        "hardware": hardware(),
        "versions": versions(),
        **source(),
    }


def hardware() -> str:
    """The devices that jax computes on, `2 cores of Intel Xeon` or `8 x NVIDIA H100`.

    Of several processes those of this one, with their number in front: `4 processes, each 8 x ...`.
    """
    processes = jax.process_count()
    return f"{processes} processes, each {_own()}" if processes > 1 else _own()


def _own() -> str:
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    count = _usable_cores()
    return f"{count} core{'s' if count > 1 else ''} of {_processor()}"


def versions() -> dict[str, str]:
    """Python and the libraries that decide the numbers."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **found}


def source() -> dict[str, Any]:
    """`commit` and `dirty` of the clone this code runs from; None where that is not known."""
    root = Path(__file__).parent.parent
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    changes = _git(root, "status", "--porcelain", "--", *CODE) if commit else None
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def digest_of_sources(*packages: Path) -> str:
    """SHA-256 of the sources below some folders: of a tree that differs from its commit, too."""
    found = hashlib.sha256()
    for number, package in enumerate(packages):
        for path in sorted(package.rglob("*.py")):
            name = f"{number}/{path.relative_to(package).as_posix()}"
            found.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _usable_cores() -> int:
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
