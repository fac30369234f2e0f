"""A trained model back from its workdir."""

from typing import Any, Literal, NamedTuple

import jax
from etils import epath

from memjax import config, configs, sampling, workdirs
from memjax.checkpoint import FOLDER, Checkpoints, newest_whole
from memjax.config import Experiment
from memjax.errors import InputError
from memjax.types import Variables


class Restored(NamedTuple):
    """What `restore` gives back: `experiment, model, variables, step`."""

    experiment: Experiment
    model: Any
    variables: Variables
    step: int


def restore(
    workdir: str,
    step: int | Literal["latest", "best"] = "latest",
    experiment: Experiment | None = None,
) -> Restored:
    """Load a trained model.

    Args:
        workdir: of a training run.
        step: the newest checkpoint, the best by validation bound, or a step that is saved.
        experiment: needed only for an experiment that is not among memjax's own: the one the run
            was started with, before the command line's changes.

    Returns:
        The experiment as it was trained, its model, `params` and `batch_stats`, and the step.

    Raises:
        InputError: not a workdir, an unknown experiment, or no such checkpoint that is whole.
    """
    path = epath.Path(workdir) / workdirs.CONFIG
    fields = workdirs.load_fields(workdir)
    try:
        base = configs.get(fields["name"]) if experiment is None else experiment
        found = config.with_fields(base, config.filled(config.defaults_of(base), fields))
        config.check_kinds(found)
        config.check_ranges(found)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if (count := found.train.num_seeds) > 1:
        last = found.seed + count - 1
        raise InputError(
            f"{workdir}: holds {count} runs, expected one of its folders, seed_{found.seed} to "
            f"seed_{last}"
        )
    if (shape := found.model.image_shape) is None or not 1 <= min(shape) <= max(shape) < 2**16:
        raise InputError(f"{path}: found model.image_shape {shape}, expected that of the images")
    model = found.model.clone(precision=found.train.precision)
    try:
        like = {"train": _abstract_variables(model)}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not (epath.Path(workdir) / FOLDER).exists():
        raise InputError(f"{workdir}: has no checkpoint yet, expected a run that has saved one")
    checkpoints = Checkpoints(
        workdir,
        create=False,
        fields=config.flatten(fields),
        may_differ=workdirs.OF_NO_CHECKPOINT,
    )
    try:
        chosen, state = _restored(checkpoints, like, step, workdir)
    finally:
        checkpoints.close()
    return Restored(found, model, state["train"], chosen)


def _abstract_variables(model: Any) -> Variables:
    def variables() -> Variables:
        blank = sampling.blank_batch(model.image_shape)
        created = sampling.initialise(model, jax.random.key(0), blank)
        return {"params": created["params"], "batch_stats": created.get("batch_stats", {})}

    return jax.eval_shape(variables)


def _restored(
    checkpoints: Checkpoints, like: Any, step: int | str, workdir: str
) -> tuple[int, Any]:
    """A step and its state; of the latest and the best the first that is whole."""
    steps = checkpoints.steps()
    if not steps:
        raise InputError(f"{workdir}: has no checkpoint yet, expected a run that has saved one")
    if step in ("latest", "best"):
        candidates = steps[::-1] if step == "latest" else checkpoints.best_steps()
        if not candidates:
            raise InputError(
                f"{workdir}: no checkpoint that is whole has a validation bound, expected 'latest'"
            )
        chosen = newest_whole([checkpoints], candidates)
        return chosen, checkpoints.restore(like, chosen)
    if step not in steps:
        raise InputError(
            f"{workdir}: no checkpoint of step {step}, expected one of {', '.join(map(str, steps))}"
        )
    return int(step), checkpoints.restore(like, int(step))
