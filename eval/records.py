"""What a result is: one number or one curve, with everything that it depends on."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from memjax import locks, provenance, workdirs
from memjax.errors import InputError

from .checks import check


@dataclasses.dataclass(frozen=True)
class Record:
    """One result.

    Attributes:
        experiment: its name.
        task: of `python -m eval`, or `training` for the curves of a run.
        dataset: name, or path of the user's own file.
        split: train, valid or test.
        metric: `log_likelihood`, `elbo`, `iwae_bound` in nats, higher is better; `kl_latent`,
            `nll` in nats; `effective_sample_size`; `num_parameters`; ...
        value: the number, None for a curve.
        stderr: standard error of `value` over images.
        stderr_seeds: standard error over the seeds of training, None for one seed.
        seeds: of the training runs.
        num_samples: importance samples for each image.
        num_images: images averaged over.
        epochs: of training.
        steps: of training.
        protocol: what else the number depends on: batch_norm, binarisation_seed, split_order,
            split_seed, precision, image_size, ...
        hardware: that evaluated.
        versions: of Python and the libraries that evaluated.
        commit: of the code that evaluated.
        dirty: whether that code differed from the commit.
        seconds: that the evaluation took.
        trained: `commit`, `dirty`, `hardware` and `seconds` of training.
        paper: the published value, None if there is none.
        paper_epochs: for how long the paper trained.
        x: of a curve.
        values: of a curve.
    """

    experiment: str
    task: str
    dataset: str
    split: str
    metric: str
    value: float | None = None
    stderr: float | None = None
    stderr_seeds: float | None = None
    seeds: list[int] = dataclasses.field(default_factory=list)
    num_samples: int | None = None
    num_images: int | None = None
    epochs: float | None = None
    steps: int | None = None
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
    hardware: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None
    seconds: float | None = None
    trained: dict[str, Any] | None = None
    paper: float | None = None
    paper_epochs: int | None = None
    x: list[float] | None = None
    values: list[float] | None = None

    @property
    def identity(self) -> str:
        """Equal for two records of the same quantity: the newer replaces the older."""
        protocol = dict(self.protocol)
        if self.metric != "nll_gain":  # what is measured beside a baseline does not depend on it
            protocol.pop("baseline", None)
        if self.metric == "ratio":  # what was measured beside it is no part of what it is
            for name in ("ours_seconds", "rival_seconds"):
                protocol.pop(name, None)
        if self.task == "benchmark":  # nor is how often, or with which pages of memory
            for name in ("rounds", "huge_pages"):
                protocol.pop(name, None)
        what = [self.experiment, self.task, self.dataset, self.split, self.metric]
        how = [self.seeds, self.num_samples, self.num_images, self.epochs, protocol]
        return json.dumps([*what, *how], sort_keys=True)


def here() -> dict[str, Any]:
    """`hardware`, `versions`, `commit` and `dirty` of this process."""
    return provenance.describe()


def load(path: epath.Path) -> list[Record]:
    """The records of a file, none if it does not exist.

    Raises:
        InputError: not a list of records.
    """
    if not workdirs.is_there(path):
        return []
    try:
        entries = workdirs.parse(workdirs.read(path))
        if not isinstance(entries, list):
            raise TypeError(f"found {type(entries).__name__}")
        found = [Record(**entry) for entry in entries]
        for record in found:
            check(record)
        return found
    except (ValueError, TypeError, OSError) as error:
        raise InputError(f"{path}: expected a JSON list of memjax records ({error})") from error


def check_file(path: epath.Path) -> None:
    """Refuse a file that `add` would refuse, before the work rather than after it.

    Raises:
        InputError: not a list of records, or it cannot be written.
    """
    load(path)
    workdirs.check_writable(path)


def add(path: epath.Path, new: Iterable[Record]) -> None:
    """Put records at the end of a file, and take out those of the same identity.

    Raises:
        InputError: the file holds something else.
        WriteError: it cannot be written.
    """
    checked = [_checked(record) for record in new]

    def together() -> list[dict[str, Any]]:
        records: dict[str, Record] = {}
        for record in (*load(path), *checked):
            records.pop(record.identity, None)  # so that the newest comes last
            records[record.identity] = record
        return [_compact(record) for record in records.values()]

    locks.update(path, together)


def _checked(record: Record) -> Record:
    """A record that `load` will take again, for one that it refuses would lose the whole file."""
    for name in ("value", "stderr", "values"):
        if not np.isfinite(np.asarray(getattr(record, name) or 0.0, np.float64)).all():
            raise InputError(f"{record.experiment}: {record.metric} is not finite, nothing written")
    check(Record(**json.loads(json.dumps(_compact(record)))))
    return record


def _compact(record: Record) -> dict[str, Any]:
    fields = dataclasses.asdict(record)
    if record.x is None:
        del fields["x"], fields["values"]
    return fields
