"""memjax: generative models with memory."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from memjax.config import Experiment
    from memjax.restoring import Restored

__version__ = "0.1.0"
__all__ = ["__version__", "restore"]


def restore(
    workdir: str,
    step: "int | Literal['latest', 'best']" = "latest",
    experiment: "Experiment | None" = None,
) -> "Restored":
    """Load a trained model: `experiment, model, variables, step`.

    Args:
        workdir: of a training run.
        step: the newest checkpoint, the best by validation bound, or a step that is saved.
        experiment: needed only for an experiment that is not among memjax's own.

    Raises:
        InputError: not a workdir, an unknown experiment, or no such checkpoint.
    """
    # Orbax and distrax take seconds to import, and only this needs them.
    from memjax import restoring

    return restoring.restore(workdir, step, experiment)
