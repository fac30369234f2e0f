"""Addresses by one softmax over all slots in PyTorch, a rival of `python -m benchmarks`.

It imports torch.
"""

import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import torch_common
from benchmarks.torch_common import How, tensor

TOGETHER = 100  # queries, whose probabilities of a million slots take 400 MB


class TorchAddresses:
    """A draw from the softmax for each query and its log-probability, warm."""

    def __init__(self, keys: Any, queries: Any, how: How):
        """Compile, address once.

        Args:
            keys: `[M, E]`, of the slots.
            queries: `[B, E]`.
            how: it is computed.
        """
        self._device = torch_common.device()
        self._keys, self._queries = (tensor(of).to(self._device) for of in (keys, queries))
        self._draw = how.function(addresses)
        self.seconds(1)

    def seconds(self, count: int) -> float:
        """Address `count` times; returns how long it took."""
        torch_common.wait(self._device)
        started = time.monotonic()
        with torch.no_grad():
            for _ in range(count):
                units = functional.normalize(self._keys, dim=-1)
                for queries in self._queries.split(TOGETHER):
                    self._draw(units, queries)
        torch_common.wait(self._device)
        return time.monotonic() - started


def addresses(units: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Slots `[B]` and their log-probabilities, with memory-normalised similarities.

    The draw inverts the cumulative sum, which takes half the time of `torch.multinomial`.
    """
    log_probabilities = log_softmax(units, queries)
    sums = log_probabilities.exp().cumsum(-1)
    below = sums[:, -1:] * torch.rand(len(queries), 1, device=sums.device)
    slot = torch.searchsorted(sums, below, right=True).clamp(max=sums.shape[1] - 1)
    return slot[:, 0], log_probabilities.gather(1, slot)[:, 0]


def log_softmax(units: Tensor, queries: Tensor) -> Tensor:
    """Keys of length one `[M, E]`, `[B, E]` -> `[B, M]`."""
    return functional.log_softmax(queries @ units.T, dim=-1)
