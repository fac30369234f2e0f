"""Training: `python -m train EXPERIMENT --workdir DIR`, or `train.run(experiment, workdir)`."""

from .loop import NonFiniteError
from .runner import run
from .signals import Stopped

__all__ = ["NonFiniteError", "Stopped", "run"]
