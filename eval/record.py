"""Copy what runs have found into results/, seeds of one experiment as one record."""

import dataclasses
import json

import numpy as np
import tyro
from etils import epath

from memjax import config
from memjax.errors import InputError

from . import records
from .records import Record
from .workdir import trained

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
        InputError: no workdirs, or one without results.
    """
    if not workdirs:
        raise InputError("record: found no workdirs, expected at least one")
    by_name: dict[str, list[Record]] = {}
    for workdir in map(epath.Path, workdirs):
        name = str(config.load_fields(str(workdir))["name"])
        found = records.load(workdir / records.FILE)
        if not found:
            raise InputError(
                f"{workdir / records.FILE}: not found or empty, expected results of "
                f"`python -m eval likelihood --workdir {workdir}`"
            )
        by_name.setdefault(name, []).extend([*found, *training_curves(workdir, found[0])])
    written = []
    for name, found in by_name.items():
        path = epath.Path(results) / f"{name}.json"
        together = over_seeds(found)
        records.add(path, together)
        print(f"{path}: {len(together)} records")
        written += together
    return written


def training_curves(workdir: epath.Path, like: Record) -> list[Record]:
    """The bound over epochs, on the training and the validation split, from metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    curves = []
    for split, name in (("train", "bound"), ("valid", "validation_bound")):
        points = [(line["epoch"], line[name]) for line in lines if name in line]
        kept = points[:: max(1, len(points) // CURVE_POINTS)]
        if kept:
            curves.append(_curve(workdir, like, split, kept))
    return curves


def _curve(
    workdir: epath.Path, like: Record, split: str, points: list[tuple[int, float]]
) -> Record:
    return Record(
        experiment=like.experiment,
        task="training",
        dataset=like.dataset,
        split=split,
        metric="iwae_bound",
        seeds=like.seeds,
        epochs=like.epochs,
        steps=like.steps,
        trained=trained(workdir),
        protocol={name: value for name, value in like.protocol.items() if name in OF_TRAINING},
        paper_epochs=like.paper_epochs,
        x=[float(epoch) for epoch, _ in points],
        values=[round(value, 4) for _, value in points],
    )


def over_seeds(found: list[Record]) -> list[Record]:
    """Records that differ by their seed alone, as one."""
    groups: dict[str, list[Record]] = {}
    for one in found:
        groups.setdefault(dataclasses.replace(one, seeds=[]).identity, []).append(one)
    return [_mean(list({one.identity: one for one in group}.values())) for group in groups.values()]


def _mean(group: list[Record]) -> Record:
    first = group[0]
    if len(group) == 1:
        return first
    seeds = sorted(seed for one in group for seed in one.seeds)
    if first.values is not None:
        curves = np.array([one.values for one in group], dtype=np.float64)
        return dataclasses.replace(first, seeds=seeds, values=curves.mean(axis=0).tolist())
    values = np.array([one.value for one in group], dtype=np.float64)
    errors = [one.stderr for one in group if one.stderr is not None]
    return dataclasses.replace(
        first,
        seeds=seeds,
        value=float(values.mean()),
        stderr=float(np.mean(errors)) if errors else None,
        stderr_seeds=float(values.std(ddof=1) / np.sqrt(len(values))),
        seconds=sum(one.seconds or 0.0 for one in group),
    )
