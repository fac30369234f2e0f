"""Evaluation: the likelihood by importance sampling, and batch statistics to do it with."""

from memjax.evaluation.addresses import log_joint_of_addresses, sum_over_addresses
from memjax.evaluation.batch_statistics import pass_statistics
from memjax.evaluation.likelihood import (
    Likelihood,
    log_weights,
    log_weights_and_diagnostics,
    log_weights_of_encoding,
    summarise,
)

__all__ = [
    "Likelihood",
    "log_joint_of_addresses",
    "log_weights",
    "log_weights_and_diagnostics",
    "log_weights_of_encoding",
    "pass_statistics",
    "sum_over_addresses",
    "summarise",
]
