"""What every task needs of a run: the model, its data, its history."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from etils import epath

import memjax
from memjax import backend, config, configs, data, workdirs
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.errors import InputError
from memjax.types import Variables

from .records import Record

Step = int | Literal["latest", "best"]
# From Python only: an experiment that is not among memjax's own.
Own = Annotated[Experiment | None, tyro.conf.Suppress]


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with the data set it was trained on.

    Attributes:
        workdir: its folder.
        experiment: as it was trained.
        model: a linen module.
        variables: `params` and `batch_stats`.
        step: the checkpoint's.
        dataset: all splits.
    """

    workdir: epath.Path
    experiment: Experiment
    model: Any
    variables: Variables
    step: int
    dataset: Dataset

    @property
    def epochs(self) -> float:
        """Epochs trained, a whole number unless the checkpoint is from the middle of one."""
        experiment = self.experiment
        size = len(self.dataset.splits["train"])
        epochs = self.step / experiment.sampler.steps_per_epoch(size, experiment.train.batch_size)
        return int(epochs) if epochs == int(epochs) else round(epochs, 3)

    @property
    def said(self) -> str:
        """The experiment with what was changed of it, and the steps of training."""
        changed = "".join(f", {name} {value}" for name, value in self._changed.items())
        return f"{self.experiment.name}{changed}, {self.step:,} steps"

    @property
    def _changed(self) -> dict[str, Any]:
        base = configs.EXPERIMENTS.get(self.experiment.name, self.experiment)
        return config.changed_fields(self.experiment, base)

    @property
    def is_binary(self) -> bool:
        """Whether images are used as they are: 0/1 data, or grey levels are wanted."""
        return self.dataset.maximum == 1 or self.experiment.data.binarisation == "none"

    @property
    def binarisation(self) -> data.Binarisation:
        """Of the images that are evaluated: once, by a seed, if at all."""
        return "none" if self.is_binary else "fixed"

    @property
    def likelihood(self) -> str:
        """Of a pixel."""
        return str(getattr(self.model, "likelihood", "bernoulli"))

    @property
    def reads_context(self) -> bool:
        """Whether the model's memory are the images of `Batch.context`."""
        return getattr(self.model, "reads_context", False)

    def check_addresses(self) -> None:
        """Raises InputError where the model does not draw addresses."""
        if getattr(self.model, "addressing", None) != "hard":
            raise InputError(
                f"{self.workdir}: {self.experiment.name} has no addresses, expected a model "
                "that draws some"
            )

    def check_reads_context(self) -> None:
        """Raises InputError where the model does not read images from `Batch.context`."""
        if not self.reads_context:
            raise InputError(
                f"{self.workdir}: {self.experiment.name} has no images in memory, expected a model "
                "that reads them"
            )

    def check_sees_no_classes(self) -> None:
        """Raises InputError where the model is given the classes of its images."""
        if getattr(self.model, "num_classes", 0):
            raise InputError(
                f"{self.workdir}: {self.experiment.name} sees the classes of its images, expected "
                "a model that does not: those of an episode are numbers within it"
            )

    def check_learns_no_memory(self) -> None:
        """Raises InputError where the model's memory are parameters."""
        if getattr(self.model, "learns_memory", False):
            raise InputError(
                f"{self.workdir}: {self.experiment.name} has learned its memory, expected a model "
                "that is given one with each batch, or has none"
            )

    def check_reads_no_context(self) -> None:
        """Raises InputError where the model reads images from `Batch.context`."""
        if self.reads_context:
            raise InputError(
                f"{self.workdir}: {self.experiment.name} is given its memory with each batch, "
                "expected a model that is not"
            )

    def record(self, task: str, split: str, metric: str, /, **fields: Any) -> Record:
        """A record of this run; `fields` as in Record."""
        reference = self.experiment.reference
        changed = self._changed
        # Likelihoods are published of test splits.
        is_published = metric == reference.metric and (split == "test" or task != "likelihood")
        published = fields.pop("paper", reference.value if is_published else None)
        protocol = fields.pop("protocol", {}) | ({"changed": changed} if changed else {})
        return Record(
            experiment=self.experiment.name,
            task=task,
            dataset=self.experiment.dataset,
            split=split,
            metric=metric,
            seeds=[self.experiment.seed],
            epochs=self.epochs,
            steps=self.step,
            trained=trained(self.workdir),
            paper=None if changed else published,
            paper_epochs=None if changed else reference.epochs,
            protocol=protocol,
            **fields,
        )


def open_run(
    workdir: str,
    data_dir: str | None,
    step: Step = "latest",
    experiment: Experiment | None = None,
) -> Run:
    """Load a run and its data; `experiment` as in `memjax.restore`.

    Raises:
        InputError: not a workdir, no such checkpoint, or bad data.
    """
    backend.configure()
    backend.check_devices()
    restored = memjax.restore(workdir, step, experiment)
    experiment = restored.experiment
    dataset = data.load(
        experiment.dataset,
        data_dir,
        merge_validation=experiment.data.merge_validation,
        split_order=experiment.data.split_order,
        split_seed=experiment.data.split_seed,
    )
    if dataset.image_shape != tuple(restored.model.image_shape):
        raise InputError(
            f"{experiment.dataset}: images are {dataset.image_shape}, expected "
            f"{tuple(restored.model.image_shape)} as in the training of {workdir}"
        )
    workdirs.check_same_data(dataset.name, dataset.digest(), workdir)
    return Run(
        epath.Path(workdir), experiment, restored.model, restored.variables, restored.step, dataset
    )


def check_same_images(runs: list[Run]) -> None:
    """Raises InputError for runs on different images, or on the same in other splits."""
    first = runs[0]
    for run in runs[1:]:
        if run.dataset.digest() != first.dataset.digest():
            raise InputError(
                f"{run.workdir}: is of other images than {first.workdir}, expected runs on the "
                "same data, divided alike"
            )


def evenly_spaced(size: int, most: int | None) -> np.ndarray:
    """Places `[N]` int32 of at most so many of a split's images.

    They are spread over all of it, since the images of some data sets are in order of their
    classes.
    """
    count = size if most is None else min(size, most)
    return (np.arange(count) * size // count).astype(np.int32)


def said_of_images(size: int, count: int) -> dict[str, str]:
    """What a protocol says of `count` images of a split of `size`: nothing if they are all."""
    return {} if count == size else {"images": "evenly spaced"}


def joined(names: Iterable[str | None]) -> str | None:
    """Each name once, those that are joined already too; None if one is not known."""
    known = list(names)
    if None in known:
        return None
    return "; ".join(dict.fromkeys(one for name in known for one in str(name).split("; ")))


def trained(workdir: epath.Path) -> dict[str, Any] | None:
    """Which code and hardware trained a run, every one that took part, and in how many seconds."""
    sessions = workdirs.load_sessions(workdir)
    if not sessions:
        return None
    dirty = [session["dirty"] for session in sessions]
    return {
        "commit": joined(session["commit"] for session in sessions),
        "dirty": None if None in dirty else any(dirty),
        "hardware": joined(session["hardware"] for session in sessions),
        "seconds": round(sum(session["seconds"] for session in sessions), 1),
    }
