"""Copy what runs have found into results/, seeds of one experiment as one record."""

import dataclasses
import math
from typing import Any

import numpy as np
import tyro
from etils import epath

from memjax.errors import InputError
from memjax.workdirs import RESULTS, load_fields, load_metrics

from . import records
from .records import Record
from .run import joined, trained

CURVE_POINTS = 200
OF_TRAINING = ("changed", "merge_validation", "split_order", "split_seed")


def record(
    workdirs: tyro.conf.Positional[tuple[str, ...]], results: str = "results"
) -> list[Record]:
    """Copy the results of runs into <results>/<experiment>.json.

    Runs of one experiment that differ by their seed alone become one record: its value is the mean
    and `stderr_seeds` the standard error over them, so give all of its seeds at once.

    Args:
        workdirs: of training runs.
        results: the folder.

    Raises:
        InputError: no workdirs, one without results, or a folder that cannot be written.
    """
    if not workdirs:
        raise InputError("record: found no workdirs, expected at least one")
    by_name: dict[str, list[Record]] = {}
    for workdir in map(epath.Path, workdirs):
        name = str(load_fields(str(workdir))["name"])
        found = records.load(workdir / RESULTS)
        if not found:
            raise InputError(
                f"{workdir / RESULTS}: not found or empty, expected results of "
                f"`python -m eval likelihood --workdir {workdir}`"
            )
        by_name.setdefault(name, []).extend(
            [*found, *training_curves(workdir, _of_training(found))]
        )
    written = []
    for name, found in by_name.items():
        path = epath.Path(results) / f"{name}.json"
        records.check_file(path)
        together = over_seeds(found)
        records.add(path, together)
        print(f"{path}: {len(together)} records")
        written += together
    return written


def _of_training(found: list[Record]) -> Record:
    """The record that says most of how the run was trained; counts of parameters say nothing."""
    return max(found, key=lambda one: sum(name in one.protocol for name in OF_TRAINING))


def training_curves(workdir: epath.Path, like: Record) -> list[Record]:
    """Bound and KL(a) over epochs, of the training and the validation split, from metrics.jsonl.

    Args:
        workdir: of the run.
        like: a record of the run, for what does not depend on how far it was trained.
    """
    lines = [values for _, values in load_metrics(workdir)]
    curves = []
    for metric, split, name in (
        ("iwae_bound", "train", "iwae_bound"),
        ("iwae_bound", "valid", "validation_bound"),
        ("kl_address", "train", "kl_address"),
    ):
        points = [line for line in lines if math.isfinite(line.get(name, math.nan))]
        if points:
            shown = np.linspace(0, len(points) - 1, min(len(points), CURVE_POINTS)).astype(int)
            kept = [points[i] for i in shown]
            values = [round(line[name], 4) for line in kept]
            curves.append(_curve(workdir, like, split, metric, kept, values))
    return curves


def _curve(
    workdir: epath.Path,
    like: Record,
    split: str,
    metric: str,
    lines: list[dict[str, Any]],
    values: list[float],
) -> Record:
    fields = load_fields(str(workdir))
    return Record(
        experiment=like.experiment,
        task="training",
        dataset=like.dataset,
        split=split,
        metric=metric,
        seeds=[fields["seed"]],
        num_samples=_curve_samples(fields, split),
        epochs=lines[-1]["epoch"],
        steps=lines[-1]["step"],
        protocol={name: value for name, value in like.protocol.items() if name in OF_TRAINING},
        trained=trained(workdir),
        paper_epochs=like.paper_epochs,
        x=[float(line["epoch"]) for line in lines],
        values=values,
    )


def _curve_samples(fields: dict[str, Any], split: str) -> int:
    if split == "train":
        return fields["objective"]["num_samples"]
    return fields["train"]["validation_samples"]


def over_seeds(found: list[Record]) -> list[Record]:
    """Records that differ by their seed alone, as one."""
    groups: dict[str, list[Record]] = {}
    for one in found:
        alike = dataclasses.replace(one, seeds=[]).identity
        groups.setdefault(f"{alike} {one.x}", []).append(one)
    return [_mean(list({one.identity: one for one in group}.values())) for group in groups.values()]


def _mean(group: list[Record]) -> Record:
    first = group[0]
    if len(group) == 1:
        return first
    common = dataclasses.replace(
        first,
        seeds=sorted(seed for one in group for seed in one.seeds),
        trained=_trained(group),
        **_origins([vars(one) for one in group]),
    )
    if first.values is not None:
        curves = np.array([one.values for one in group], dtype=np.float64)
        return dataclasses.replace(common, values=curves.mean(axis=0).tolist())
    values = np.array([one.value for one in group], dtype=np.float64)
    errors = [one.stderr for one in group if one.stderr is not None]
    return dataclasses.replace(
        common,
        value=float(values.mean()),
        stderr=float(np.mean(errors)) if errors else None,
        stderr_seeds=float(values.std(ddof=1) / np.sqrt(len(values))),
        seconds=sum(one.seconds or 0.0 for one in group),
    )


def _origins(group: list[dict[str, Any]]) -> dict[str, Any]:
    """Commits and machines of several records, or of their training, as one."""
    dirty = [one.get("dirty") for one in group]
    return {
        "commit": joined(one.get("commit") for one in group),
        "dirty": None if None in dirty else any(dirty),
        "hardware": joined(one.get("hardware") for one in group),
    }


def _trained(group: list[Record]) -> dict[str, Any] | None:
    found = [one.trained for one in group if one.trained is not None]
    if not found:
        return None
    return {**_origins(found), "seconds": sum(one.get("seconds", 0.0) for one in found)}
