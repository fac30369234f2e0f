"""Random numbers that stay the same on every machine and with every version of numpy.

numpy promises the words of a bit generator for ever, but not what its distributions make of them,
and a split or an epoch that moves with an upgrade could not be resumed or compared. So everything
here is made from the raw words of Philox, whose key and counter take the place of a seed.
"""

import enum

import numpy as np

_WORD = 2**64 - 1


class Stream(enum.IntEnum):
    """Who draws: each has counters of its own, so that equal seeds share no numbers."""

    EPOCH = 1
    SPLIT = 2
    STROKES = 3
    DIGITS = 4


def words(stream: Stream, seed: int, part: int, count: int) -> np.ndarray:
    """Returns `[count]` uint64, a function of (stream, seed, part); more words begin with fewer."""
    key = np.array([int(seed) & _WORD, int(part) & _WORD], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def uniform(stream: Stream, seed: int, part: int, count: int) -> np.ndarray:
    """Returns `[count]` float64 in [0, 1), a function of (stream, seed, part)."""
    return (words(stream, seed, part, count) >> np.uint64(11)) * 2.0**-53


def permutation(stream: Stream, seed: int, part: int, count: int) -> np.ndarray:
    """Returns `[count]` int32, a permutation of 0..count-1, a function of (stream, seed, part)."""
    # Two of 60,000 words agree with a chance of 1e-10, and then keep their order.
    return np.argsort(words(stream, seed, part, count), kind="stable").astype(np.int32)
