"""Training: `python -m train EXPERIMENT --workdir DIR`, or `train.run(experiment, workdir)`."""

from .runner import Stopped, run

__all__ = ["Stopped", "run"]
