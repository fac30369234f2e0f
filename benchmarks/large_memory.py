"""The addresses of a large memory alone, without the model around them, which can be timed."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import limit
from benchmarks.limit import Limit
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.large_memory import Slots
from memjax.models.vma import VMA
from memjax.types import Array
from train.runner import fit_to_data

SLOTS, BLOCK_SIZE, QUERIES = 1_000_000, 1000, 1000


def large(model: VMA) -> VMA:
    """A model with a million slots that have keys of their own."""
    fields: dict[str, Any] = {
        "memory_size": SLOTS,
        "block_size": BLOCK_SIZE,
        "embeddings": "learned",
    }
    return model.clone(memory="learned", **fields)


class Addressing:
    """A draw from q(a | x) and its log-probability for each of 1,000 queries, compiled and warm.

    Attributes:
        experiment: whose model has the memory.
        keys: `[N, S, E]`, of the slots.
        queries: `[B, E]`.
    """

    def __init__(self, base: Experiment, dataset: Dataset, model: VMA | None = None):
        """Compile, address once; `model` in place of a `large` one."""
        base = dataclasses.replace(base, model=large(base.model) if model is None else model)
        self.experiment = fit_to_data(base, dataset)
        of = self.experiment.model
        of_keys, of_queries, noise = jax.random.split(jax.random.key(0), 3)
        blocks = of.memory_size // of.block_size
        self.keys = jax.random.normal(of_keys, (blocks, of.block_size, of.matching))
        self.queries = jax.random.normal(of_queries, (QUERIES, of.matching))
        self._noise = jax.random.split(noise, QUERIES)
        self._draw = jax.jit(self._addresses).lower(self.keys, self.queries, self._noise).compile()
        self.seconds(1)

    @property
    def protocol(self) -> dict[str, Any]:
        """How many queries, and what they take beside the slots, in MiB."""
        return {"num_queries": QUERIES, "extra_mib": round(self.extra_bytes / 2**20, 1)}

    @property
    def extra_bytes(self) -> int:
        """What it takes beside the keys and the queries, as the compiler knows it."""
        analysis = self._draw.memory_analysis()
        assert analysis is not None, "XLA knows it on every backend"
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    def seconds(self, count: int) -> float:
        """Address `count` times; returns how long it took."""
        started = time.monotonic()
        for _ in range(count):
            jax.block_until_ready(self._draw(self.keys, self.queries, self._noise))
        return time.monotonic() - started

    def limit(self) -> Limit:
        """The product of all queries and all keys alone, block by block."""
        return Limit(limit.products(self._log_sums, self.keys, self.queries))

    def in_torch(self, module: Any, how: Any) -> Any:
        """One softmax over all slots, and a draw from it, in PyTorch."""
        return module.TorchAddresses(self.keys.reshape(-1, self.keys.shape[-1]), self.queries, how)

    def _addresses(self, keys: Array, queries: Array, noise: Array) -> tuple[Array, Array]:
        posterior, _ = self._slots(keys).match(queries, self._flat())
        address = posterior.draw(noise)
        return address, posterior.log_probability(address)

    def _log_sums(self, keys: Array, queries: Array) -> Array:
        return self._slots(keys).match(queries, self._flat())[0].sums.log

    def _slots(self, keys: Array) -> Slots:
        model = self.experiment.model
        return Slots(keys, model.similarity, model.precision)

    def _flat(self) -> Array:
        return jnp.zeros((1, self.experiment.model.matching))
