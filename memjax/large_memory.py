"""Addresses into a memory that is too large for one product of matrices, or for one device.

Slots come in blocks. A first pass over the blocks takes, for each query, the log of the sum that
each of them has in the softmax, and keeps nothing else. An address is then drawn in two levels,
the block and the slot inside it, which is exact and reads one block for each draw. The slots may
lie on several devices, each with its share of the blocks: what crosses between devices are the
queries, the sums of the blocks, and the slots that were drawn.

Inside a mapped axis of devices all functions are called on all of them, each with its own queries
and its own slots; draws are the same numbers as on one device. Gradients are those of the sum over
the devices of what each makes of its own queries.
"""

import functools
from collections.abc import Callable, Hashable
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from memjax.errors import InputError
from memjax.memory import Similarity, draw_address, hard_read, similarity
from memjax.products import Precision
from memjax.types import Array

Axis = Hashable | None
Tree = TypeVar("Tree")
# Queries whose blocks are held at a time when the slot inside is drawn.
DRAWN_TOGETHER = 16


@flax.struct.dataclass
class Slots:
    """Keys of a memory in blocks, on one device or a share on each of several.

    Attributes:
        keys: `[N, S, E]`, this device's N blocks of S slots.
        kind: see `memory.similarity`.
        precision: of the matrix products.
        axis: the mapped axis of the devices; None if all slots are here.
    """

    keys: Array
    kind: Similarity = flax.struct.field(pytree_node=False, default="memory_normalised")
    precision: Precision = flax.struct.field(pytree_node=False, default="float32")
    axis: Axis = flax.struct.field(pytree_node=False, default=None)

    def match(self, query: Array, prior_query: Array) -> tuple["BlockAddresses", "BlockAddresses"]:
        """q(a | x) of queries and p(a), from one pass over the blocks.

        Args:
            query: `[B, E]`, this device's.
            prior_query: `[1, E]`, the same on all devices.
        """
        everyone = jnp.concatenate([_gathered(query, self.axis), prior_query])

        @jax.checkpoint
        def one(_: None, block: Array) -> tuple[None, Sums]:
            return None, _sums(similarity(everyone, block, self.kind, self.precision))

        _, sums = lax.scan(one, None, self.keys)  # [N, B]
        # From each device its blocks of my queries, and of the prior's.
        mine = jax.tree.map(lambda of: _transposed(of[:, :-1], self.axis), sums)
        priors = jax.tree.map(lambda of: _gathered(of[:, -1:], self.axis).T, sums)
        return BlockAddresses(self, query, mine), BlockAddresses(self, prior_query, priors)

    def at(self, slot: Array) -> Array:
        """The keys `[B, E]` of slots `[B]`."""
        return read(self.keys.reshape(-1, self.keys.shape[-1]), slot, self.axis)


@flax.struct.dataclass
class Sums:
    """Of the softmax over each block, for each query.

    Attributes:
        log: `[B, N]`, the log of the sum of exp(similarity).
        own: `[B, N]`, the mean similarity, by this softmax; without gradient.
        prior: `[B, N]`, the mean similarity to the prior's query, likewise.
    """

    log: Array
    own: Array
    prior: Array


@flax.struct.dataclass
class BlockAddresses:
    """The softmax over the slots of a memory in blocks, for each query; a `memory.Distribution`.

    Attributes:
        slots: of this device.
        query: `[B, E]`, or `[1, E]` for any number of examples.
        sums: over the blocks of all devices.
    """

    slots: Slots
    query: Array
    sums: Sums

    @property
    def log_probabilities(self) -> Array:
        """Of every slot, `[B, M]`: for memories that one device holds, and one product can match.

        Raises:
            InputError: the slots lie on several devices.
        """
        if self.slots.axis is not None:
            raise InputError("model.block_size: found blocks on several devices, expected one")
        keys = self.slots.keys.reshape(-1, self.slots.keys.shape[-1])
        scores = similarity(self.query, keys, self.slots.kind, self.slots.precision)
        return jax.nn.log_softmax(scores)

    def draw(self, keys: Array) -> Array:
        """As `Distribution`, and exact."""
        query, log_sums, slots = lax.stop_gradient((self.query, self.sums.log, self.slots))
        query = jnp.broadcast_to(query, (len(keys), query.shape[-1]))
        block = draw_address(log_sums, _folded(keys, 0))
        inside = _drawn_inside(
            slots,
            _gathered(query, slots.axis),
            _gathered(block, slots.axis),
            _gathered_keys(_folded(keys, 1), slots.axis),
        )
        return block * slots.keys.shape[1] + inside

    def log_probability(self, address: Array) -> Array:
        """As `Distribution`."""
        slots = self.slots
        query = jnp.broadcast_to(self.query, (len(address), self.query.shape[-1]))
        score = jax.vmap(lambda q, k: similarity(q[None], k[None], slots.kind, slots.precision))
        return score(query, slots.at(address))[:, 0, 0] - self._log_normaliser()

    def kl(self, prior: "BlockAddresses") -> Array:
        """As `Distribution`, without gradient."""
        means = jnp.sum(self._blocks() * (self.sums.own - self.sums.prior), axis=-1)
        return lax.stop_gradient(means - self._log_normaliser() + prior._log_normaliser())

    def entropy(self) -> Array:
        """As `Distribution`, without gradient."""
        means = jnp.sum(self._blocks() * self.sums.own, axis=-1)
        return lax.stop_gradient(self._log_normaliser() - means)

    def _blocks(self) -> Array:
        """The probability of each block."""
        return jax.nn.softmax(self.sums.log)

    def _log_normaliser(self) -> Array:
        return jax.nn.logsumexp(self.sums.log, axis=-1)


def _sums(scores: Array) -> Sums:
    """Over a block, of scores `[B, S]` of which the last row is the prior's."""
    # One exponential for all three: beside the product it is most of the work.
    largest = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    exponentials = jnp.exp(scores - largest)
    total = jnp.sum(exponentials, axis=-1)
    parts, of = lax.stop_gradient((exponentials / total[:, None], scores))
    log = largest[:, 0] + jnp.log(total)
    return Sums(log, jnp.sum(parts * of, axis=-1), jnp.sum(parts * of[-1:], axis=-1))


def _drawn_inside(slots: Slots, query: Array, block: Array, noise: Array) -> Array:
    """Of all devices' queries; returns the slots inside the blocks of this device's."""
    keys = slots.keys
    local = block - _first(len(keys), slots.axis)
    here = (local >= 0) & (local < len(keys))

    def one(of: tuple[Array, Array, Array]) -> Array:
        query, local, noise = of
        scores = similarity(query[None], keys[local], slots.kind, slots.precision)
        return draw_address(scores, noise[None])[0]

    clipped = jnp.clip(local, 0, len(keys) - 1)
    found = lax.map(one, (query, clipped, noise), batch_size=DRAWN_TOGETHER)
    return _sent_back(jnp.where(here, found, 0), slots.axis)


def read(entries: Tree, slot: Array, axis: Axis = None) -> Tree:
    """The entries at slots `[B]`, of every array `[M, ...]` of a tree -> `[B, ...]`.

    Args:
        entries: this device's.
        slot: `[B]`, numbered over all devices.
        axis: the mapped axis of the devices; None if all entries are here.
    """
    if axis is None:
        return hard_read(entries, slot)
    everyone = _gathered(slot, axis)

    def one(of: Array) -> Array:
        local = everyone - _first(len(of), axis)
        here = (local >= 0) & (local < len(of))
        found = of[jnp.clip(local, 0, len(of) - 1)]
        here = here.reshape(-1, *[1] * (found.ndim - 1))
        return _sent_back(jnp.where(here, found, 0), axis)

    return jax.tree.map(one, entries)


def initial_blocks(scale: float, axis: Axis = None) -> Callable[[Array, tuple[int, ...]], Array]:
    """An initialiser (key, `[N, S, ...]`) of normal slots, the same on however many devices.

    Args:
        scale: standard deviation.
        axis: the mapped axis of the devices, each of which makes its N blocks.
    """

    def initial(key: Array, shape: tuple[int, ...]) -> Array:
        numbers = _first(shape[0], axis) + jnp.arange(shape[0])
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
        # One after the other: numbers on the way take more room than those that are left.
        return lax.map(lambda one: scale * jax.random.normal(one, shape[1:]), keys)

    return initial


def _first(count: int, axis: Axis) -> Array | int:
    return 0 if axis is None else lax.axis_index(axis) * count


def _transposed(sums: Array, axis: Axis) -> Array:
    """Of this device's blocks and all queries -> of all blocks and this device's queries."""
    if axis is None:
        return sums.T
    return lax.all_to_all(sums, axis, split_axis=1, concat_axis=0, tiled=True).T


def _gathered(x: Array, axis: Axis) -> Array:
    return x if axis is None else lax.all_gather(x, axis, tiled=True)


def _gathered_keys(keys: Array, axis: Axis) -> Array:
    if axis is None:
        return keys
    return jax.random.wrap_key_data(_gathered(jax.random.key_data(keys), axis))


def _sent_back(x: Array, axis: Axis) -> Array:
    """Of all queries, of which one device has something -> of this device's."""
    return x if axis is None else lax.psum_scatter(x, axis, tiled=True)


def _folded(keys: Array, number: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
