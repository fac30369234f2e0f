"""What a record must be, before tables are made of it: files of results pass through many hands."""

from typing import TYPE_CHECKING, Any

from memjax import config
from memjax.errors import InputError

if TYPE_CHECKING:
    from .records import Record

_SPLITS = ("train", "valid", "test", "none")
_OF_RUNS = ("num_images", "epochs", "steps")
_OF_SAMPLES = (*_OF_RUNS, "num_samples")
# Fields that the records of a task have.
_FIELDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("likelihood", "recall", "few_shot"), _OF_SAMPLES),
    **dict.fromkeys(("classification", "memory", "imputation", "features", "slots"), _OF_RUNS),
}
_EPISODES = ("ways", "shots", "shots_counted", "replacement", "image_size")
# What their protocol says.
_PROTOCOL: dict[str, tuple[str, ...]] = {
    "recall": ("memory_size",),
    "memory": ("memory", "memory_size"),
    "few_shot": _EPISODES,
    "classification": ("ways", "shots", "episodes"),
    "imputation": ("mask", "passes", "batch_norm"),
    "features": ("batch_norm", "binarisation_seed", "regularisation"),
    "slots": ("batch_norm",),
}
# The same of single metrics.
_OF_METRICS: dict[str, tuple[str, ...]] = {
    "slot_entropy": ("layer",),
    "dead_slots": ("layer",),
    "nll_cost": ("disabled",),
    "step_seconds_by_memory": ("curve",),
    "gradient_gib_by_steps": ("changed",),
    "ratio": ("job", "rival", "device", "ours_seconds", "rival_seconds", "precision"),
}
_COUNTS = ("ways", "shots", "episodes", "num_targets", "memory_size", "passes", "batch_size")
_KINDS: dict[str, Any] = {
    **dict.fromkeys((*_COUNTS, "layer"), int),
    **dict.fromkeys(("memory", "mask", "shots_counted", "curve", "baseline"), str),
    **dict.fromkeys(("job", "rival", "device"), str),
    **dict.fromkeys(("ours_seconds", "rival_seconds", "extra_mib"), float),
    **dict.fromkeys(("batch_norm", "precision", "split_order"), str | None),
    **dict.fromkeys(("replacement", "given_labels"), bool),
    **dict.fromkeys(("image_size", "disabled"), list[int]),
    "binarisation_seed": int | None,
    "regularisation": float,
    "changed": dict[str, Any],
}
_TRAINED: dict[str, Any] = {
    **{"commit": str | None, "dirty": bool | None},
    **{"hardware": str | None, "seconds": float},
}


def check(record: "Record") -> None:
    """Refuse a record whose fields are of other kinds, or too few to be put in a table.

    Raises:
        InputError: names the field.
    """
    config.check_kinds(record)
    if record.split not in _SPLITS:
        raise InputError(f"split: found {record.split[:99]!r}, expected one of {_SPLITS}")
    for name in _FIELDS.get(record.task, ()):
        if getattr(record, name) is None:
            raise InputError(f"{name}: found none, expected that of `eval {record.task}`")
    for name in ("num_images", "num_samples", "epochs", "steps"):
        if (getattr(record, name) or 0) < 0:
            raise InputError(f"{name}: found {getattr(record, name)}, expected at least 0")
    needed = _PROTOCOL.get(record.task, ()) + _OF_METRICS.get(record.metric, ())
    config.check_entry(
        record.protocol, {name: _KINDS[name] for name in _KINDS if name in record.protocol}
    )
    config.check_entry(record.protocol, {name: _KINDS[name] for name in needed})
    for name in _COUNTS:
        if record.protocol.get(name, 1) < 1:
            raise InputError(f"{name}: found {record.protocol[name]}, expected at least 1")
    # It names a picture.
    mask = record.protocol.get("mask", "")
    if len(mask) > 99 or {"/", "\\", "\0"} & set(mask):
        raise InputError(f"mask: found {mask[:99]!r}, expected a name")
    trained = record.trained or {}
    config.check_entry(trained, {name: _TRAINED[name] for name in _TRAINED if name in trained})
    _check_numbers(record)


def _check_numbers(record: "Record") -> None:
    """A value, or a curve with as many places."""
    x, values = record.x, record.values
    if (x is None) != (values is None) or (x is None and record.value is None):
        raise InputError("value, x, values: found none, expected a number or a curve")
    if x is not None and values is not None and not len(x) == len(values) > 0:
        raise InputError(f"values: found {len(values)} at {len(x)} places, expected as many")
    if record.task == "benchmark" and min(values or (1,)) <= 0:
        raise InputError("values: found 0 or less, expected seconds or GiB")
