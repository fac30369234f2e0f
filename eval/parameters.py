"""Numbers of parameters beside the published ones."""

import dataclasses

import jax
from etils import epath

import memjax
from memjax import config, configs, sampling, workdirs
from memjax.config import Experiment
from memjax.errors import InputError

from . import records
from .records import Record
from .text import columns

TASK = "parameters"
# Of the data sets whose models have a published count; the model is built without the data.
IMAGE_SHAPES = {"mnist": (28, 28, 1), "ocr_letters": (16, 8, 1)}


def count(experiment: Experiment) -> int:
    """The number of trainable parameters; the model must have its image shape."""

    def initialise() -> object:
        blank = sampling.blank_batch(experiment.model.image_shape)
        return sampling.initialise(experiment.model, jax.random.key(0), blank)["params"]

    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(initialise)))


def parameters(workdir: str | None = None, results: str | None = None) -> list[Record]:
    """Count parameters: of a run, or of every model whose number its paper gives.

    Args:
        workdir: of a training run; its count goes to results.json there. Without it the published
            models are counted.
        results: folder in which the published models' counts go to parameters.json; without it
            they are printed only.

    Raises:
        InputError: not a workdir, a folder that cannot be written, or both given.
    """
    if workdir is None:
        found = [_record(_with_shape(experiment)) for experiment in _published()]
        if results is not None:
            path = epath.Path(results) / "parameters.json"
            records.check_file(path)
            records.add(path, found)
    else:
        if results is not None:
            raise InputError("--results: found with --workdir, expected one of the two")
        restored = memjax.restore(workdir)
        model = restored.model
        found = [_record(dataclasses.replace(restored.experiment, model=model))]
        path = epath.Path(workdir) / workdirs.RESULTS
        records.check_file(path)
        records.add(path, found)
    print(_table(found))
    return found


def _published() -> list[Experiment]:
    return [e for e in configs.EXPERIMENTS.values() if e.reference.num_parameters is not None]


def _with_shape(experiment: Experiment) -> Experiment:
    model = experiment.model.clone(image_shape=IMAGE_SHAPES[experiment.dataset])
    return dataclasses.replace(experiment, model=model)


def _record(experiment: Experiment) -> Record:
    changed = config.changed_fields(experiment, configs.get(experiment.name))
    published = None if changed else experiment.reference.num_parameters
    return Record(
        experiment=experiment.name,
        task=TASK,
        dataset=experiment.dataset,
        split="none",
        metric="num_parameters",
        value=count(experiment),
        paper=published,
        protocol={"changed": changed} if changed else {},
        **records.here(),
    )


def _table(found: list[Record]) -> str:
    rows = [("model", "parameters", "paper")]
    for record in found:
        paper = "-" if record.paper is None else f"{record.paper / 1000:,.0f}K"
        rows.append((record.experiment, f"{record.value:,.0f}", paper))
    return columns(rows)
