"""Batch-norm statistics of a whole training set, as the first paper's code takes them."""

from typing import Any

import jax

from memjax import sampling
from memjax.types import Array, Batch, Module, Variables


def pass_statistics(model: Module, variables: Variables, batch: Batch, key: Array) -> Variables:
    """Replace the moving averages by the statistics of one batch, with one sample of z each.

    The batch is the whole training set at once: a mean over the statistics of smaller batches is
    not the same, since every layer is normalised by its own batch before the next one.

    Args:
        model: a linen module that follows `types.Model` and has a field `batch_norm_momentum`.
        variables: `params` and `batch_stats`; without the latter nothing changes.
        batch: the training set, binarised.
        key: a typed key for the noise.

    Returns:
        `variables` with new `batch_stats`.

    Source: authors' code of Li, Zhu and Zhang 2016.
    """
    if not jax.tree.leaves(variables.get("batch_stats", {})):
        return variables
    forgetful = model.clone(batch_axes=("samples",), batch_norm_momentum=0.0)
    keys = sampling.example_keys(key, batch.index)[None]
    statistics: Any = sampling.sample_terms(forgetful, variables, batch, keys, True)[1]
    return {**variables, "batch_stats": statistics}
