"""The workdir of a run: names of its files, its config.json, and what a run must share with it."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from memjax import config
from memjax.config import Experiment
from memjax.errors import InputError, WriteError

FORMAT_VERSION = 1
# The files of a workdir, beside the checkpoints.
CONFIG, METRICS = "config.json", "metrics.jsonl"
SESSIONS, RESULTS = "sessions.json", "results.json"
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
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
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
        document = json.loads(path.read_text())
        version = document["format_version"]
        if not isinstance(document["fields"]["name"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path}: expected a memjax configuration in JSON") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: found format version {version}, this memjax reads {FORMAT_VERSION}"
        )
    return document


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
    if isinstance(expected, str) and expected != data_digest:
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
