"""An experiment as a frozen tree of dataclasses."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn
import typeguard
import tyro
from typeguard import CollectionCheckStrategy

from memjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Reference:
    """The published figure that an experiment reproduces.

    Attributes:
        paper: authors and year.
        table: where in the paper.
        metric: a name of the results' vocabulary, `log_likelihood` in nats.
        value: the published figure, None if there is none.
        epochs: for how long the paper trained.
        num_samples: with how many importance samples it evaluated.
        num_parameters: as published, rounded to thousands.
    """

    paper: str
    table: str
    metric: str = "log_likelihood"
    value: float | None = None
    epochs: int | None = None
    num_samples: int = 5000
    num_parameters: int | None = None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How a data set is split and binarised.

    Attributes:
        merge_validation: train on the training and the validation split together.
        split_order: contiguous takes the splits in file order, random permutes the examples first.
        split_seed: of that permutation.
        binarisation: none feeds grey levels in [0, 1], fixed draws each training pixel once,
            every_epoch draws it anew each epoch.
    """

    merge_validation: bool = False
    split_order: Literal["contiguous", "random"] = "contiguous"
    split_seed: int = 0
    binarisation: Literal["none", "fixed", "every_epoch"] = "every_epoch"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam, its limits and its schedule; defaults are the first paper's code.

    Attributes:
        learning_rate: of the first `constant_epochs` epochs.
        later_rates: learning rates of the next `constant_epochs` epochs, of those after them, and
            so on, before it begins to fall.
        b1: decay of the first moment.
        b2: decay of the second moment.
        epsilon: added to the root of the second moment.
        constant_epochs: epochs of each constant learning rate.
        decay: factor on the last of them at every epoch after it.
        clip_global_norm: largest norm of the whole gradient, 0 for no limit.
        clip_element: largest magnitude of each element of the gradient, 0 for no limit.
        weight_decay: L2, times half the squared norm of the parameters.
        undecayed: names of parameters that are left out of the weight decay, such as `memory`.
    """

    learning_rate: float = 1e-3
    later_rates: tuple[float, ...] = ()
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-4
    constant_epochs: int = 1000
    decay: float = 0.998
    clip_global_norm: float = 5.0
    clip_element: float = 1.0
    weight_decay: float = 0.0
    undecayed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and how to train.

    Attributes:
        num_epochs: passes over the training split.
        batch_size: examples per step, over all devices.
        precision: of matrix products, on every backend: float32, tensorfloat32, or bfloat16
            operands with float32 sums.
        save_every: epochs between checkpoints, images in TensorBoard and, where there is a
            validation split, validation bounds.
        log_every: epochs between lines of metrics.jsonl.
        validation_samples: importance samples of the validation bound.
        call_seconds: the longest that one call to the devices may take, so that signals are
            answered soon.
        on_nonfinite: what to do at an objective, gradient or batch statistics that are not finite:
            stop the run, or skip the step, which leaves the model as it is and is counted in
            metrics.jsonl; 100 such steps in a row stop it too, as does a last epoch of them alone.
        num_seeds: R, independent replicas with the seeds `seed` to `seed` + R - 1, trained together
            step by step; each has a folder of its own in the workdir.
    """

    num_epochs: int = 3000
    batch_size: int = 100
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    save_every: int = 10
    log_every: int = 1
    validation_samples: int = 5
    call_seconds: float = 2.0
    on_nonfinite: Literal["stop", "skip"] = "stop"
    num_seeds: int = 1


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model, an objective, a data set and a schedule: what one run is.

    Attributes:
        name: of the experiment.
        reference: the published figure it reproduces.
        dataset: a data set's name, or the path of an .npz of your own (arrays `images`, uint8
            [N, H, W] or [N, H, W, C], and optionally `labels`).
        seed: from which initialisation, noise, shuffling and binarisation follow.
        model: the generative model.
        objective: what is maximised.
        sampler: which images a step sees.
        data: splits and binarisation.
        optimizer: Adam and its schedule.
        train: epochs, batch, precision, checkpoints.
    """

    name: Annotated[str, tyro.conf.Suppress]
    reference: Annotated[Reference, tyro.conf.Suppress]
    # A linen module, an Objective and a Sampler: Any, so that the command line reads the fields of
    # the value.
    model: Any
    objective: Any
    sampler: Any
    dataset: str = "mnist"
    seed: int = 0
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()


# What may differ between a run and its continuation.
MAY_CHANGE = frozenset(
    f"train.{name}" for name in ("num_epochs", "save_every", "log_every", "call_seconds")
)
# Of a model: linen's own fields, and those that the training step sets.
_NOT_THE_MODELS = frozenset({"parent", "name", "batch_axes", "precision"})


def fields_of(node: Any) -> dict[str, Any]:
    """A dataclass as nested dictionaries of JSON values, without linen's own fields."""
    hidden = _NOT_THE_MODELS if isinstance(node, nn.Module) else {"reference"}
    fields = {}
    for field in dataclasses.fields(node):
        if field.name not in hidden:
            value = getattr(node, field.name)
            fields[field.name] = fields_of(value) if dataclasses.is_dataclass(value) else value
    return fields


def defaults_of(node: Any) -> dict[str, Any]:
    """The defaults of a dataclass and of the dataclasses in it; fields without one are left out."""
    defaults = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if field.name not in fields_of(node):
            continue
        if dataclasses.is_dataclass(value):
            defaults[field.name] = defaults_of(value)
        elif field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
    return defaults


def filled(defaults: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Nested fields, with the defaults of those that are missing."""
    together = {**defaults, **fields}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(together[name], Mapping):
            together[name] = filled(default, together[name])
    return together


def with_fields(node: Any, fields: Mapping[str, Any], path: str = "") -> Any:
    """A dataclass with some of its fields replaced by JSON values, the inverse of `fields_of`.

    Raises:
        InputError: a field that the dataclass does not have, or of the wrong kind.
    """
    changes: dict[str, Any] = {}
    known = fields_of(node)
    for name, value in fields.items():
        where = f"{path}{name}"
        if name not in known:
            raise InputError(f"{where}: unknown field, expected one of {', '.join(known)}")
        old = getattr(node, name)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: found {value!r}, expected an object")
            changes[name] = with_fields(old, value, f"{where}.")
        else:
            changes[name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(node, **changes)


def check_kinds(node: Any, path: str = "") -> None:
    """Refuse a value that its field's annotation does not allow.

    The command line does so by itself; a configuration file and a caller from Python do not.

    Raises:
        InputError: names the field, its value and what it may be.
    """
    hints = typing.get_type_hints(type(node))
    for name in fields_of(node):
        value = getattr(node, name)
        _check_kind(f"{path}{name}", value, hints[name])
        if dataclasses.is_dataclass(value):
            check_kinds(value, f"{path}{name}.")


def check_ranges(experiment: Experiment) -> None:
    """Refuse values that no run can have; their kinds are checked before.

    Raises:
        InputError: names the field, what was found and what was expected.
    """
    train = experiment.train
    at_least_one = {
        "objective.num_samples": experiment.objective.num_samples,
        "train.num_epochs": train.num_epochs,
        "train.batch_size": train.batch_size,
        "train.save_every": train.save_every,
        "train.log_every": train.log_every,
        "train.validation_samples": train.validation_samples,
        "train.num_seeds": train.num_seeds,
        "optimizer.constant_epochs": experiment.optimizer.constant_epochs,
    }
    positive = {
        "train.call_seconds": train.call_seconds,
        "optimizer.learning_rate": experiment.optimizer.learning_rate,
        "optimizer.epsilon": experiment.optimizer.epsilon,
        "optimizer.decay": experiment.optimizer.decay,
        **{
            f"optimizer.later_rates[{i}]": rate
            for i, rate in enumerate(experiment.optimizer.later_rates)
        },
    }
    not_negative = {
        "optimizer.clip_global_norm": experiment.optimizer.clip_global_norm,
        "optimizer.clip_element": experiment.optimizer.clip_element,
        "optimizer.weight_decay": experiment.optimizer.weight_decay,
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise InputError(f"{name}: found {value}, expected at least 1")
    for name, number in positive.items():
        if not 0 < number < math.inf:
            raise InputError(f"{name}: found {number}, expected more than 0, and finite")
    for name, number in not_negative.items():
        if not 0 <= number < math.inf:
            raise InputError(f"{name}: found {number}, expected at least 0, and finite")
    for name, decay in (("b1", experiment.optimizer.b1), ("b2", experiment.optimizer.b2)):
        if not 0 <= decay < 1:
            raise InputError(f"optimizer.{name}: found {decay}, expected at least 0, less than 1")
    for name, seed in (("seed", experiment.seed), ("data.split_seed", experiment.data.split_seed)):
        if seed not in range(2**32):
            raise InputError(f"{name}: found {seed}, expected 0 to {2**32 - 1}")
    for name, value in flatten(fields_of(experiment.model), "model.").items():
        for size in value if isinstance(value, tuple) else (value,):
            if isinstance(size, int) and abs(size) >= 2**31:
                raise InputError(f"{name}: found {size}, expected less than {2**31}")
    if (last := experiment.seed + train.num_seeds - 1) >= 2**32:
        raise InputError(
            f"train.num_seeds: found {train.num_seeds}, the last of which is seed {last}, expected "
            f"seeds up to {2**32 - 1}"
        )


def check_entry(entry: Any, hints: Mapping[str, Any]) -> None:
    """Refuse a JSON value that is not an object with these members, and perhaps others.

    Raises:
        InputError: names the member, its value and what it may be.
    """
    if not isinstance(entry, dict):
        raise InputError(f"found {_short(entry)}, expected an object")
    for name, hint in hints.items():
        if name not in entry:
            raise InputError(f"found no {name}")
        _check_kind(name, entry[name], hint)


def _check_kind(name: str, value: Any, hint: Any) -> None:
    try:
        typeguard.check_type(
            value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS
        )
    except typeguard.TypeCheckError as error:
        raise InputError(f"{name}: found {_short(value)}, expected {_describe(hint)}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return str(hint) if typing.get_args(hint) else hint.__name__


def flatten(fields: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested dictionaries as `{"model.slots": [70, 30], ...}`."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}{name}.")
        else:
            flat[f"{path}{name}"] = value
    return flat


def changed_fields(experiment: Experiment, base: Experiment) -> dict[str, Any]:
    """Flat fields in which an experiment differs from the one it was made from.

    What does not make it another experiment is left out: the seed, the length of training and how
    it is logged, the image shape, which comes from the data, and how the data are split, which
    every result says for itself.
    """
    free = MAY_CHANGE | {"seed", "model.image_shape", "data.split_order", "data.split_seed"}
    free |= {"train.validation_samples", "train.num_seeds"}
    before, after = flatten(fields_of(base)), flatten(fields_of(experiment))
    return {
        name: after[name] for name in after if name not in free and after[name] != before.get(name)
    }
