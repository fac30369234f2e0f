"""Dividing images into train, valid and test."""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from memjax.data.arrays import Split, join
from memjax.data.randomness import Stream, permutation
from memjax.errors import InputError

SplitOrder = Literal["contiguous", "random"]


def divide(
    parts: Mapping[str, Split],
    *,
    valid_size: int,
    test_size: int,
    by_class: bool = False,
    order: SplitOrder = "contiguous",
    seed: int = 0,
    merge_validation: bool = False,
) -> dict[str, Split]:
    """Cuts a pool of images into splits, from its end: test, before it valid, the rest is train.

    The pool is everything in `parts` but "test": an official test set stays what it is, and
    test_size is then 0. With order "random" the pool is permuted first, whole classes together
    where by_class. Raises InputError for an unknown order and where a split would be empty.
    """
    if order not in get_args(SplitOrder):
        raise InputError(f"split_order: found {order!r}, expected 'contiguous' or 'random'")
    pool = join([part for name, part in parts.items() if name != "test"])
    if order == "random":
        pool = pool.take(_shuffled(pool, by_class, seed))
    end = len(pool) - test_size
    start = end - valid_size
    if start < 1:
        raise InputError(
            f"found {len(pool)} images to divide, expected more than {valid_size} for validation "
            f"and {test_size} for test"
        )
    splits = {"train": pool.take(slice(end if merge_validation else start))}
    if valid_size and not merge_validation:
        splits["valid"] = pool.take(slice(start, end))
    splits["test"] = parts["test"] if "test" in parts else pool.take(slice(end, None))
    return splits


def _shuffled(pool: Split, by_class: bool, seed: int) -> np.ndarray:
    if not by_class or pool.labels is None:
        return permutation(Stream.SPLIT, seed, 0, len(pool))
    classes, class_of_image = np.unique(pool.labels, return_inverse=True)
    place_of_class = permutation(Stream.SPLIT, seed, 0, len(classes))
    return np.argsort(place_of_class[class_of_image], kind="stable")
