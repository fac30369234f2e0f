"""Evaluation: `python -m eval TASK ...`, or these functions from Python."""

from .canvas import canvas
from .classification import classification
from .compare import compare
from .features import features
from .few_shot import few_shot
from .imputation import imputation
from .likelihood import likelihood
from .memory import memory
from .parameters import parameters
from .recall import recall
from .record import record
from .report import report
from .samples import samples
from .slots import slots
from .tables import tables

__all__ = [
    "canvas",
    "classification",
    "compare",
    "features",
    "few_shot",
    "imputation",
    "likelihood",
    "memory",
    "parameters",
    "recall",
    "record",
    "report",
    "samples",
    "slots",
    "tables",
]
