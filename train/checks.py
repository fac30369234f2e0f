"""What is refused before a run begins."""

import contextlib
import errno
from collections.abc import Iterator

import jax.numpy as jnp
from etils import epath

from memjax import checkpoint, config, configs, workdirs
from memjax.config import Experiment
from memjax.data import Dataset, Epochs
from memjax.errors import InputError, WriteError
from memjax.types import Batch

from . import devices
from .lock import locked


def check_fields(experiment: Experiment) -> None:
    """Refuse values that no run can have.

    Raises:
        InputError: names the field, what was found and what was expected.
    """
    config.check_kinds(experiment)
    config.check_ranges(experiment)


def check_idle(experiment: Experiment, workdir: str) -> None:
    """Refuse changes to fields that have no effect, in a run that is begun.

    An experiment may hold them, since other changes to it can give them one.

    Raises:
        InputError: names the field and what would give it an effect.
    """
    if (epath.Path(workdir) / workdirs.CONFIG).exists():
        return
    base = configs.EXPERIMENTS.get(experiment.name, experiment)
    if type(base.model) is not type(experiment.model):
        base = experiment
    idle = {
        ("model", name): wanted
        for name, wanted in getattr(experiment.model, "idle_fields", {}).items()
    }
    if experiment.data.split_order != "random":
        idle["data", "split_seed"] = "data.split_order random"
    if not experiment.optimizer.weight_decay:
        idle["optimizer", "undecayed"] = "optimizer.weight_decay"
    for (part, name), wanted in idle.items():
        found, left = (getattr(getattr(of, part), name, None) for of in (experiment, base))
        if found != left:
            raise InputError(
                f"{part}.{name}: found {found}, which has no effect without {wanted}; "
                f"expected {left}, as it was"
            )


def check_data(experiment: Experiment, dataset: Dataset) -> None:
    """Refuse a data set that the batch or the likelihood does not fit.

    Raises:
        InputError: fewer images than a batch, labels that the model has no class for, or pixels of
            0 and 1 for a density.
    """
    sampler, size = experiment.sampler, experiment.train.batch_size
    sampler.check(dataset.splits["train"], f"training images of {dataset.name}", size)
    if "valid" in dataset.splits and not isinstance(sampler, Epochs):
        sampler.check(dataset.splits["valid"], f"validation images of {dataset.name}", size)
    _check_classes(experiment, dataset)
    # The density of two values grows without limit as the variance falls.
    if getattr(experiment.model, "likelihood", None) == "gaussian":
        binarisation = experiment.data.binarisation
        if binarisation != "none":
            raise InputError(
                f"data.binarisation: found {binarisation} with a gaussian likelihood, expected none"
            )
        if dataset.maximum == 1:
            raise InputError(
                f"{dataset.name}: found pixels of 0 and 1 with a gaussian likelihood, "
                "expected grey levels"
            )


def _check_classes(experiment: Experiment, dataset: Dataset) -> None:
    """Whether the model's labels are the data set's; training has them, or none has."""
    classes = getattr(experiment.model, "num_classes", 0)
    labels = dataset.splits["train"].labels
    if not classes:
        return
    if not isinstance(experiment.sampler, Epochs):
        raise InputError(
            f"model.num_classes: found {classes} with {type(experiment.sampler).__name__}, whose "
            "labels are numbers within an episode, expected 0 or the sampler Epochs"
        )
    if labels is None:
        raise InputError(
            f"model.num_classes: found {classes} with {dataset.name}, which has no labels, "
            "expected 0, or a data set with labels"
        )
    every = (split.labels for split in dataset.splits.values())
    most = max(int(labels.max()) for labels in every if labels is not None)
    if most >= classes:
        raise InputError(
            f"model.num_classes: found {classes}, expected 0, or at least {most + 1}, since the "
            f"labels of {dataset.name} are 0 to {most}"
        )


def check_model(experiment: Experiment, dataset: Dataset, start: devices.Start) -> None:
    """Refuse a model that cannot be built, or whose objective is not for it.

    The image shape must be filled in; nothing is computed.

    Args:
        experiment: model, objective, sampler.
        dataset: its training split is the one of the run.
        start: from `devices.make_start`.

    Raises:
        InputError: names the field.
    """
    batch = devices.blank_batch(experiment, dataset.splits["train"], dataset.maximum, 1)
    _check_memory(experiment, batch)
    start.eval_shape(jnp.uint32(0))


def _check_memory(experiment: Experiment, batch: Batch) -> None:
    """Whether the sampler draws what the model takes for its memory."""
    model, sampler = experiment.model, experiment.sampler
    name = type(sampler).__name__
    if batch.context is not None:
        if getattr(model, "learns_memory", False):
            raise InputError(
                f"model.memory: found learned with {name}, which draws images for the memory; "
                "expected episode, or the sampler Epochs"
            )
    elif (length := getattr(model, "episode_length", None)) is not None:
        # Every image has those before it in memory.
        if length != sampler.together:
            raise InputError(
                f"model.episode_length: found {length}, expected {sampler.together}, the images "
                "that the sampler draws together"
            )
    elif getattr(model, "reads_context", False):
        raise InputError(
            f"model.memory: found episode with {name}, which draws no images for the memory; "
            "expected learned, or an experiment that does"
        )


def check_workdir(experiment: Experiment, workdir: str) -> None:
    """Refuse a folder that holds something else, before data are loaded or anything is written.

    Raises:
        InputError: it holds another experiment, or files that are no run's.
    """
    if not workdir.strip():
        raise InputError(f"workdir: found {workdir!r}, expected a folder")
    path = epath.Path(workdir)
    try:
        path.exists()
    except ImportError as error:  # the library for this kind of bucket
        raise InputError(f"{workdir}: {error}, expected that library or a local folder") from error
    if (path / workdirs.CONFIG).exists():
        name = workdirs.load_fields(workdir)["name"]
        if name != experiment.name:
            raise InputError(
                f"{workdir}: holds a run of {name}, found {experiment.name}; "
                "expected the same experiment or another workdir"
            )
    elif path.exists() and not path.is_dir():
        raise InputError(f"{workdir}: is a file, expected a folder")
    elif path.exists() and not workdirs.holds_nothing(path):
        raise InputError(
            f"{workdir}: holds files but no {workdirs.CONFIG}, "
            "expected a new folder, an empty one or the workdir of a run"
        )


def check_same(experiment: Experiment, dataset: Dataset, workdir: str) -> None:
    """Refuse to go on with another run than the one in a workdir, if there is one.

    Raises:
        InputError: it holds a run with other fields, on other images, of more epochs, or without
            its checkpoints.
    """
    path = epath.Path(workdir)
    if (path / workdirs.CONFIG).exists():
        workdirs.check_same_run(experiment, workdir)
        workdirs.check_same_data(dataset.name, dataset.digest(), workdir)
        _check_progress(experiment, dataset, path)


@contextlib.contextmanager
def prepared(experiment: Experiment, dataset: Dataset, workdir: str) -> Iterator[None]:
    """Make the folder, keep other runs out of it, and write its config.json.

    Raises:
        InputError: another run is or has been in it, or it cannot be written.
        WriteError: there is no room.
    """
    with contextlib.ExitStack() as stack:
        try:
            epath.Path(workdir).mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(workdir))
            check_same(experiment, dataset, workdir)  # another run may just have ended
            workdirs.save(experiment, workdir, dataset.digest())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise WriteError(f"{workdir}: cannot be written ({error.strerror})") from error
            raise InputError(
                f"{workdir}: cannot be written ({error.strerror}), expected a writable folder"
            ) from error
        yield


def _check_progress(experiment: Experiment, dataset: Dataset, path: epath.Path) -> None:
    workdirs.load_metrics(path)  # what is damaged is refused before anything is written
    saved = workdirs.load_sessions(path)
    last = checkpoint.latest_step(str(path))
    if saved and last is None:
        raise InputError(
            f"{path}: holds a run of {saved[-1]['last_step']} steps without its "
            f"{checkpoint.FOLDER}, expected them, or another workdir to begin anew"
        )
    steps_per_epoch = experiment.sampler.steps_per_epoch(
        len(dataset.splits["train"]), experiment.train.batch_size
    )
    last = last or 0
    if last > experiment.train.num_epochs * steps_per_epoch:
        raise InputError(
            f"train.num_epochs: found {experiment.train.num_epochs}, expected at least the "
            f"{-(-last // steps_per_epoch)} epochs that {path} is trained for"
        )
