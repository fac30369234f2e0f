"""The workdir of a run: names of its files, its config.json, and what a run must share with it."""

import contextlib
import errno
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from memjax import config
from memjax.config import Experiment
from memjax.errors import InputError, WriteError

FORMAT_VERSION = 1
# The files of a workdir, beside the checkpoints.
CONFIG, METRICS = "config.json", "metrics.jsonl"
SESSIONS, RESULTS = "sessions.json", "results.json"
_LONGEST = 2**28  # bytes of such a file
# Of an experiment: it names files.
_NAME = re.compile(r"\w[\w .+=-]{0,99}")
_OF_A_SESSION = {
    "first_step": int,
    "last_step": int,
    "seconds": float,
    "commit": str | None,
    "dirty": bool | None,
    "hardware": str,
}
LOCK = "lock"
# Fields that a checkpoint does not depend on: those of its continuation, and where images are.
OF_NO_CHECKPOINT = config.MAY_CHANGE | {"dataset"}


def save(experiment: Experiment, workdir: str, data_digest: str) -> None:
    """Write `config.json` in the workdir: the experiment's fields, and which images it is for.

    Args:
        experiment: all of its fields are written.
        workdir: a folder that is there.
        data_digest: `Dataset.digest()` of the data.
    """
    document = {
        "format_version": FORMAT_VERSION,
        "data_sha256": data_digest,
        "fields": config.fields_of(experiment),
    }
    write_whole(epath.Path(workdir) / CONFIG, json.dumps(document, indent=2) + "\n")


def write_whole(path: epath.Path, content: str | bytes) -> None:
    """Write a file so that whoever reads it, at any time, finds the old content or the new."""
    # Containers that share a folder may have the same process number.
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[None]:
    """Say which file cannot be written.

    Raises:
        WriteError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_writable(path: epath.Path) -> None:
    """Refuse a file that cannot be written, before the work whose end it is.

    Raises:
        InputError: it is a folder, or in none, or nothing may be written to that.
    """
    if is_bucket(path):
        return
    folder = Path(path).absolute().parent
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}), expected a file in a writable folder"
        ) from error


def is_bucket(path: epath.Path) -> bool:
    """Whether it is an address in a bucket rather than a file or folder."""
    return str(path).startswith(("gs://", "s3://", "az://"))


def holds_nothing(path: epath.Path) -> bool:
    """Whether a folder holds no files but those of a run that was killed as it began."""
    return all(
        file.name == LOCK or (file.name.startswith(CONFIG) and file.name.endswith(".tmp"))
        for file in path.iterdir()
    )


def load_fields(workdir: str) -> dict[str, Any]:
    """The fields that `save` wrote.

    Raises:
        InputError: no config.json, not JSON, or of another format version.
    """
    return _load(workdir)["fields"]


def _load(workdir: str) -> dict[str, Any]:
    path = epath.Path(workdir) / CONFIG
    try:
        found = path.exists()
    except ImportError as error:  # the library for this kind of bucket
        raise InputError(f"{workdir}: {error}, expected that library or a local folder") from error
    if not found:
        raise InputError(f"{path}: not found, expected the workdir of a training run")
    try:
        document = parse(read(path))
        version, digest = document["format_version"], document.get("data_sha256", "")
        if type(version) is not int or not isinstance(digest, str):
            raise TypeError
        if not _NAME.fullmatch(document["fields"]["name"]):
            raise ValueError
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path}: expected a memjax configuration in JSON") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: found format version {version}, this memjax reads {FORMAT_VERSION}"
        )
    return document


def is_there(path: epath.Path) -> bool:
    """Whether there is something, be it a link that leads nowhere: no such thing is a new file."""
    return path.exists() or Path(path).is_symlink()


def read(path: epath.Path) -> str:
    """The text of a file of a workdir, or of one made from them.

    Raises:
        ValueError: no file but a folder or a pipe, one that is too long, or not UTF-8.
        OSError: it cannot be read.
    """
    local = Path(path)
    if local.exists() and not local.is_file():  # etils takes pipes for files, and they never end
        raise ValueError("no file")
    if epath.Path(path).stat().length > _LONGEST:
        raise ValueError(f"more than {_LONGEST} bytes")
    return path.read_text(encoding="utf-8")


def parse(text: str, allow_nan: bool = False) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON, brackets in brackets beyond all measure, numbers that are none or fit
            nowhere, or text that UTF-8 does not know.
    """
    try:
        value = json.loads(text, parse_int=_int)
        json.dumps(value, allow_nan=allow_nan, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("too many brackets") from None
    return value


def _int(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError(f"found {digits[:19]}..., expected a number of at most 18 digits")
    return int(digits)


def load_metrics(workdir: epath.Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of metrics.jsonl and the numbers in them; none where there is no such file.

    What a kill has cut short, the end of the file without the end of its line, is left out.

    Raises:
        InputError: another line that is not one of numbers with a step and an epoch.
    """
    path = workdir / METRICS
    if not is_there(path):
        return []
    try:
        lines = read(path).split("\n")[:-1]
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: expected lines of JSON ({error})") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            values = parse(line, allow_nan=True)
            if not {type(values["step"]), type(values["epoch"])} <= {int}:
                raise TypeError("step or epoch is no whole number")
            if not {type(value) for value in values.values()} <= {int, float}:
                raise TypeError("not all of it are numbers")
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}: line {number}: expected an object of numbers with step and epoch "
                f"({error})"
            ) from error
        found.append((line, values))
    return found


def load_sessions(workdir: epath.Path) -> list[dict[str, Any]]:
    """The entries of sessions.json; none where there is no such file.

    Raises:
        InputError: anything else than a list of sessions.
    """
    path = workdir / SESSIONS
    if not is_there(path):
        return []
    try:
        found = parse(read(path))
        if not isinstance(found, list):
            raise TypeError(f"found {type(found).__name__}")
        for entry in found:
            config.check_entry(entry, _OF_A_SESSION)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(f"{path}: expected a JSON list of sessions ({error})") from error
    return found


def check_same_data(dataset: str, data_digest: str, workdir: str) -> None:
    """Refuse to go on with, or to evaluate, a run on other images than it was trained on.

    Args:
        dataset: its name, for the message.
        data_digest: `Dataset.digest()` of what was loaded.
        workdir: of the run.

    Raises:
        InputError: the images differ.
    """
    expected = _load(workdir).get("data_sha256")
    if expected is not None and expected != data_digest:
        raise InputError(
            f"{dataset}: holds images with SHA-256 {data_digest[:12]}, expected those that the run "
            f"in {workdir} was trained on, {expected[:12]}"
        )


def check_same_run(experiment: Experiment, workdir: str) -> None:
    """Refuse to continue a run whose fields are not those of the experiment.

    Raises:
        InputError: names the first field that differs, its value there and the one given.
    """
    given = flat_fields(experiment)
    # Fields that the saved run does not know were added since, with its behaviour as default.
    saved = _flat_json(config.defaults_of(experiment)) | config.flatten(load_fields(workdir))
    for name in ("name", *sorted(saved.keys() | given.keys())):
        found, expected = given.get(name), saved.get(name)
        if found != expected and name not in config.MAY_CHANGE:
            raise InputError(
                f"{workdir}: holds a run with {name} {expected}, found {found}; "
                "expected the same value or another workdir"
            )


def flat_fields(experiment: Experiment) -> dict[str, Any]:
    """Every field of an experiment as `{"model.slots": [70, 30], ...}`, JSON values."""
    return _flat_json(config.fields_of(experiment))


def _flat_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    return config.flatten(json.loads(json.dumps(fields)))
