"""Evaluation: the likelihood by importance sampling, and batch statistics to do it with."""

from memjax.evaluation.batch_statistics import pass_statistics
from memjax.evaluation.likelihood import (
    Likelihood,
    log_weights,
    log_weights_and_diagnostics,
    sum_over_addresses,
    summarise,
)

__all__ = [
    "Likelihood",
    "log_weights",
    "log_weights_and_diagnostics",
    "pass_statistics",
    "sum_over_addresses",
    "summarise",
]
