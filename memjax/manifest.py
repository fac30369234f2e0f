"""The manifest of a checkpoint: the sums of its files, and the run that it is of.

Orbax restores flipped bits without a word. The manifest is the last file that is written into the
folder of a step before Orbax commits it, so a committed step has its manifest, and both go
together when the step is pruned.
"""

import contextlib
import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from memjax.errors import InputError

NAME = "manifest.json"
FORMAT_VERSION = 1
# Orbax writes these at the commit, after the manifest: a file from which nothing is read, and one
# that is given the time.
_COMMITTED, _DESCRIBED, _TIME = (
    "commit_success.txt",
    "_CHECKPOINT_METADATA",
    "commit_timestamp_nsecs",
)
_APART = (NAME, _COMMITTED, _DESCRIBED)
_BLOCK = 2**20
_LONGEST = 2**26  # bytes of what is read whole
_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class BrokenCheckpoint(InputError):
    """A checkpoint that is not as it was written; the message says which file, and what."""


def write(folder: epath.Path, step: int, fields: Mapping[str, Any]) -> None:
    """Write down what a folder holds.

    Args:
        folder: of a step that is not committed yet.
        step: its number.
        fields: of the run, flat, JSON values.
    """
    body = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "fields": dict(fields),
        "orbax": _of_orbax(folder),
        "files": {name: _described(path) for name, path in _files(folder)},
    }
    document = {"manifest": body, "sha256": _sum_of(body)}
    (folder / NAME).write_bytes(json.dumps(document, sort_keys=True).encode())


def check(
    folder: epath.Path, step: int, fields: Mapping[str, Any], may_differ: frozenset[str]
) -> None:
    """Compare a folder with its manifest; files that the manifest does not know do no harm.

    Args:
        folder: of a step.
        step: its number.
        fields: of the run that asks; those that only one side knows are not compared.
        may_differ: names of fields that are not compared either.

    Raises:
        BrokenCheckpoint: a file is missing, or not what was written.
        InputError: the manifest is of a newer format, the checkpoint of another run, or the disk
            does not let it be read now, which says nothing of what it holds.
    """
    with reading(folder):
        _check(folder, step, fields, may_differ)


def _check(
    folder: epath.Path, step: int, fields: Mapping[str, Any], may_differ: frozenset[str]
) -> None:
    body = _load(folder / NAME)
    written = body["fields"]
    shared = (written.keys() & fields.keys()) - may_differ
    for name in sorted(shared, key=lambda name: (name != "name", name)):
        if written[name] != fields[name]:
            raise InputError(
                f"{folder}: is a checkpoint of a run with {name} {written[name]}, "
                f"expected {fields[name]}"
            )
    if body["step"] != step:
        raise BrokenCheckpoint(f"{folder}: holds step {body['step']}, expected {step}")
    if _of_orbax(folder) != body["orbax"]:
        raise BrokenCheckpoint(f"{folder / _DESCRIBED}: is not as it was written")
    there = dict(_files(folder))
    for name, entry in sorted(body["files"].items()):
        if name not in there:
            raise BrokenCheckpoint(f"{folder / name}: is missing, expected {entry['bytes']} bytes")
        found = _described(there[name])
        for what, unit in (("bytes", "{} bytes"), ("sha256", "SHA-256 {:.12}")):
            if found[what] != entry[what]:
                raise BrokenCheckpoint(
                    f"{folder / name}: found {unit.format(found[what])}, "
                    f"expected {unit.format(entry[what])}"
                )


@contextlib.contextmanager
def reading(folder: epath.Path) -> Iterator[None]:
    """Say what a disk does not let read, and what is gone meanwhile.

    Raises:
        BrokenCheckpoint: a file is not there.
        InputError: one may be.
    """
    try:
        yield
    except _NO_FILE as error:
        raise BrokenCheckpoint(f"{error.filename or folder}: is missing") from error
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}), expected a "
            "disk that can be; nothing was changed"
        ) from error


def _load(path: epath.Path) -> dict[str, Any]:
    try:
        document = json.loads(_read(path))
        body, version = document["manifest"], document["manifest"]["format_version"]
        whole = document["sha256"] == _sum_of(body)
    except (ValueError, KeyError, TypeError, RecursionError, *_NO_FILE) as error:
        raise BrokenCheckpoint(f"{path}: cannot be read, expected a manifest in JSON") from error
    if not whole:
        raise BrokenCheckpoint(f"{path}: is not as it was written, expected its own SHA-256")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: found format version {version}, this memjax reads {FORMAT_VERSION}"
        )
    if not _is_complete(body):
        raise BrokenCheckpoint(f"{path}: expected fields, and bytes and SHA-256 of each file")
    return body


def _is_complete(body: dict[str, Any]) -> bool:
    fields, files = body.get("fields"), body.get("files")
    if not isinstance(fields, dict) or not isinstance(files, dict) or "orbax" not in body:
        return False
    return all(
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
        for entry in files.values()
    )


def _sum_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _files(folder: epath.Path, below: str = "") -> Iterator[tuple[str, epath.Path]]:
    """Every file of a checkpoint, by its path within the folder."""
    for path in folder.iterdir():
        name = f"{below}{path.name}"
        kind = _kind(path)
        if kind == stat.S_IFREG and name not in _APART:
            yield name, path
        elif kind == stat.S_IFDIR and not Path(path).is_symlink():  # could lead round in circles
            yield from _files(path, f"{name}/")


def is_folder(path: epath.Path) -> bool:
    """Whether there is a folder; an OSError where the disk does not say."""
    return _kind(path) == stat.S_IFDIR


def _kind(path: epath.Path) -> int:
    """File or folder, as `stat` has them, or 0 if nothing is there.

    etils takes pipes and devices, which never end, for files, and what cannot be looked at for
    nothing.
    """
    try:
        return stat.S_IFMT(Path(path).stat().st_mode)
    except _NO_FILE:  # or it is in a bucket
        return stat.S_IFREG if path.is_file() else stat.S_IFDIR if path.is_dir() else 0


def _read(path: epath.Path) -> bytes:
    if _kind(path) != stat.S_IFREG:
        raise ValueError("no file")
    if epath.Path(path).stat().length > _LONGEST:
        raise ValueError("too long")
    return path.read_bytes()


def _of_orbax(folder: epath.Path) -> dict[str, Any] | None:
    """What Orbax says of the step, without the time of its commit; None if that is no JSON."""
    try:
        found = json.loads(_read(folder / _DESCRIBED))
        return {name: value for name, value in found.items() if name != _TIME}
    except (ValueError, AttributeError, RecursionError, *_NO_FILE):
        return None


def _described(path: epath.Path) -> dict[str, Any]:
    total, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
            size += len(block)
    return {"bytes": size, "sha256": total.hexdigest()}
