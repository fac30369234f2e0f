"""Evaluation: `python -m eval TASK ...`, or these functions from Python."""

from .compare import compare
from .likelihood import likelihood
from .parameters import parameters
from .record import record
from .samples import samples
from .tables import tables

__all__ = ["compare", "likelihood", "parameters", "record", "samples", "tables"]
