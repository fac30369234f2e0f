"""A wheel holds the library and both programs, and works where there is no clone."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent
SETUPTOOLS = Version("77")  # as build-system.requires in pyproject.toml


def _setuptools() -> Version:
    try:
        return Version(importlib.metadata.version("setuptools"))
    except importlib.metadata.PackageNotFoundError:
        return Version("0")


pytestmark = pytest.mark.skipif(
    _setuptools() < SETUPTOOLS, reason=f"needs setuptools {SETUPTOOLS} to build without network"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built from a copy, since setuptools leaves build/ and *.egg-info behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("memjax", "train", "eval"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    built = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "-w", str(built), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = built.iterdir()
    with zipfile.ZipFile(path) as file:
        yield file


@pytest.fixture(scope="module")
def unpacked(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    wheel.extractall(folder)
    return folder


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = {"memjax/py.typed", "memjax_eval/report.html"}
    for package, name in (("memjax", "memjax"), ("train", "memjax_train"), ("eval", "memjax_eval")):
        for path in (ROOT / package).rglob("*.py"):
            expected.add(f"{name}/{path.relative_to(ROOT / package).as_posix()}")
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_both_scripts_are_declared(unpacked: Path) -> None:
    (found,) = importlib.metadata.distributions(path=[str(unpacked)])
    assert found.metadata["Name"] == "memjax"
    scripts = {one.name: one.value for one in found.entry_points if one.group == "console_scripts"}
    assert scripts == {
        "memjax-train": "memjax_train.__main__:main",
        "memjax-eval": "memjax_eval.__main__:main",
    }


def run(unpacked: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in another folder, with the unpacked wheel in its path."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_training_lists_its_experiments_elsewhere(unpacked: Path, tmp_path: Path) -> None:
    done = run(unpacked, tmp_path, "-m", "memjax_train", "--list")
    assert done.returncode == 0, done.stderr
    assert "mem_vae_mnist" in done.stdout


def test_evaluation_begins_elsewhere(unpacked: Path, tmp_path: Path) -> None:
    # A script is `sys.exit(main())`; an unknown task gets as far as the list of tasks.
    begin = "import sys, memjax_eval.__main__ as it; print(it.__file__); sys.exit(it.main(['x']))"
    done = run(unpacked, tmp_path, "-c", begin)
    assert done.returncode == 2
    assert Path(done.stdout.splitlines()[0]).is_relative_to(unpacked)
    assert "likelihood" in done.stderr
    assert "Traceback" not in done.stderr
