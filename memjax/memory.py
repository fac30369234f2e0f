"""Memory: reading slots softly and composing what was read with what was generated.

Array functions first; the modules below them only hold the parameters.
"""

from typing import Any, Literal, Protocol, TypeVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memjax.products import Precision, matmul
from memjax.types import Array

Attention = Literal["sigmoid", "softmax"]
Similarity = Literal["memory_normalised", "inner", "cosine"]
Tree = TypeVar("Tree")
# An entry is dead if q(a | x) gives it less than this part of an even share.
DEAD = 0.01


def soft_attention(
    query: Array, slot_keys: Array, bias: Array, attention: Attention, precision: Precision
) -> Array:
    """How much each slot is preferred: h_a = sigmoid(A h_g + b), or the softmax of it.

    Args:
        query: `[B, D]`, the generative information h_g.
        slot_keys: `[D, M]`, the controlling matrix A, one column per slot.
        bias: `[M]`.
        attention: `sigmoid` gives independent preferences, `softmax` preferences that sum to one.
        precision: of the matrix product.

    Returns:
        `[B, M]` in (0, 1).

    Source: Li, Zhu and Zhang 2016, section 3.3.
    """
    scores = matmul(query, slot_keys, precision) + bias
    return nn.sigmoid(scores) if attention == "sigmoid" else nn.softmax(scores)


def soft_read(preferences: Array, slots: Array, precision: Precision) -> Array:
    """The preferred mixture of slots, h_m = M h_a: `[B, M]`, `[M, D]` -> `[B, D]`.

    Source: Li, Zhu and Zhang 2016, section 3.3.
    """
    return matmul(preferences, slots, precision)


def similarity(query: Array, keys: Array, kind: Similarity, precision: Precision) -> Array:
    """How well each memory entry matches each query.

    Args:
        query: `[B, E]` embeddings of what is looked for.
        keys: `[M, E]` embeddings of the memory entries.
        kind: `memory_normalised` is <e_a, e_q> / |e_a|, `inner` the plain inner product, `cosine`
            that of both normalised.
        precision: of the one matrix product.

    Returns:
        `[B, M]`, the unnormalised log-probabilities of the addresses.

    Source: Bornschein et al. 2017, equation 5 and the text below it.
    """
    if kind != "inner":
        keys = _unit(keys)
    if kind == "cosine":
        query = _unit(query)
    return matmul(query, keys.T, precision)


def _unit(x: Array) -> Array:
    # The floor keeps the gradient finite where an embedding is zero.
    return x * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))


def draw_address(log_probabilities: Array, keys: Array) -> Array:
    """An entry for each key, found by halving the memory until one entry is left.

    Sums over halves, quarters and so on are computed once for all draws, and a draw takes a uniform
    number for each halving, where Gumbel noise would take one for each entry. An entry of
    probability zero is never drawn, as it could be by a cumulative sum and its rounding.

    Args:
        log_probabilities: `[B, M]`, or `[1, M]` for all keys; they need not be normalised.
        keys: `[B]`.

    Returns:
        `[B]` int32.
    """
    rows, size = log_probabilities.shape
    halvings = (size - 1).bit_length()
    largest = jnp.max(log_probabilities, axis=-1, keepdims=True)
    sums = jnp.exp(log_probabilities - largest)
    sums = jnp.pad(sums, ((0, 0), (0, 2**halvings - size)))
    pairs = []
    for _ in range(halvings):
        pairs.append(sums.reshape(rows, -1, 2))
        sums = pairs[-1].sum(axis=-1)
    # In the middle of the steps of 2^-23 between 0 and 1: neither end, which even the least part
    # would have a share of.
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (halvings,)))(keys) + 2**-24
    row = jnp.arange(len(keys)) if rows > 1 else 0
    address = jnp.zeros(len(keys), jnp.int32)
    for i, pair in enumerate(reversed(pairs)):
        left, right = pair[row, address].T
        # Less than one times the sum is less than the left part where the right part is nothing.
        address = 2 * address + (uniform[:, i] * (left + right) >= left)
    return address


class Distribution(Protocol):
    """q(a | x) of B targets, or p(a), which is one row for any number of them."""

    @property
    def log_probabilities(self) -> Array:
        """Of every entry, `[B, M]` or `[1, M]`."""

    def draw(self, keys: Array) -> Array:
        """An address for each key, `[B]` int32, without gradient."""

    def log_probability(self, address: Array) -> Array:
        """That of an address `[B]`, in nats."""

    def kl(self, prior: Any) -> Array:
        """KL(q(a | x) || p(a)) `[B]`, in nats."""

    def entropy(self) -> Array:
        """`[B]` or `[1]`, in nats."""


@flax.struct.dataclass
class Addresses:
    """One softmax over the entries of a memory, for each query; a `Distribution`.

    Attributes:
        log_probabilities: `[B, M]`, or `[1, M]`.
    """

    log_probabilities: Array

    def draw(self, keys: Array) -> Array:
        """As `Distribution`."""
        return draw_address(self.log_probabilities, keys)

    def log_probability(self, address: Array) -> Array:
        """As `Distribution`."""
        rows = len(self.log_probabilities)
        return self.log_probabilities[jnp.arange(rows) if rows > 1 else 0, address]

    def kl(self, prior: "Addresses") -> Array:
        """As `Distribution`."""
        log_q, log_p = self.log_probabilities, prior.log_probabilities
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)

    def entropy(self) -> Array:
        """As `Distribution`."""
        return -jnp.sum(jnp.exp(self.log_probabilities) * self.log_probabilities, axis=-1)


def hard_read(memory: Tree, address: Array) -> Tree:
    """The entries at `address` `[B]`, of every array `[M, ...]` of a tree -> `[B, ...]`."""
    return jax.tree.map(lambda entries: entries[address], memory)


def blend(memory: Tree, weights: Array, precision: Precision) -> Tree:
    """Mixtures of the entries, weights `[B, M]`, of every array `[M, ...]` -> `[B, ...]`."""

    def one(entries: Array) -> Array:
        flat = entries.reshape(entries.shape[0], -1)
        return matmul(weights, flat, precision).reshape(-1, *entries.shape[1:])

    return jax.tree.map(one, memory)


def usage(posterior: np.ndarray) -> dict[str, float]:
    """How much of a learned memory is used.

    Args:
        posterior: `[M]`, the mean of q(a | x) over many x.

    Returns:
        `entropy_posterior` of this mean, in nats, and `dead_entries`, the part of the entries
        that it gives less than a hundredth of an even share.
    """
    logs = np.log(np.maximum(posterior, np.finfo(np.float32).tiny))
    return {
        "entropy_posterior": float(-(posterior * logs).sum()),
        "dead_entries": float((posterior < DEAD / len(posterior)).mean()),
    }


@jax.custom_vjp
def compose_elementwise(h_g: Array, h_m: Array, a: Array, b: Array, c: Array) -> Array:
    """One small MLP per unit: a + b * sigmoid(c), a and c linear in h_m, h_g and h_g * h_m.

    Args:
        h_g: `[B, D]`, generative information.
        h_m: `[B, D]`, what was read from memory.
        a: `[4, D]`, the vectors a_1 .. a_4 (bias, memory, generative, product).
        b: `[D]`, the vector b_1.
        c: `[4, D]`, the vectors c_1 .. c_4.

    Returns:
        `[B, D]`, before the final nonlinearity; its derivative is for reverse mode alone.

    Source: Li, Zhu and Zhang 2016, section 3.3; after Rasmus et al. 2015.
    """
    return _of_basis(h_g, h_m, a) + b * nn.sigmoid(_of_basis(h_g, h_m, c))


def _of_basis(h_g: Array, h_m: Array, vectors: Array) -> Array:
    return vectors[0] + vectors[1] * h_m + vectors[2] * h_g + vectors[3] * (h_g * h_m)


# XLA on CPUs gives each array that a derivative needs its own pass over memory. This one keeps the
# operands alone, and computes the gate once more: a fifth of a step of five samples.
def _composed(*operands: Array) -> tuple[Array, tuple[Array, ...]]:
    return compose_elementwise(*operands), operands


def _gradients(operands: tuple[Array, ...], g: Array) -> tuple[Array, ...]:
    h_g, h_m, a, b, c = operands
    gate = nn.sigmoid(_of_basis(h_g, h_m, c))
    inside = g * b * gate * (1 - gate)
    # Computed once, not in each of the sums.
    g, gate, inside = lax.optimization_barrier((g, gate, inside))
    of_h_g = g * (a[2] + a[3] * h_m) + inside * (c[2] + c[3] * h_m)
    of_h_m = g * (a[1] + a[3] * h_g) + inside * (c[1] + c[3] * h_g)
    of_b = jnp.sum(g * gate, axis=0)
    return of_h_g, of_h_m, _of_vectors(g, h_g, h_m), of_b, _of_vectors(inside, h_g, h_m)


def _of_vectors(g: Array, h_g: Array, h_m: Array) -> Array:
    """The gradient `[4, D]` of the vectors of `_of_basis`."""
    return jnp.stack([jnp.sum(g * of, axis=0) for of in (1.0, h_m, h_g, h_g * h_m)])


compose_elementwise.defvjp(_composed, _gradients)


class SoftMemory(nn.Module):
    """M learned slots, read through a soft attention.

    Attributes:
        num_slots: M.
        attention: see `soft_attention`.
        slot_scale: standard deviation of the slots at the start.
        precision: of the matrix products.
    """

    num_slots: int
    attention: Attention = "sigmoid"
    slot_scale: float = 0.01
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, h_g: Array) -> tuple[Array, Array]:
        """`[B, D]` -> preferences h_a `[B, M]` and memory information h_m `[B, D]`."""
        units, num_slots = h_g.shape[-1], self.num_slots
        slot_keys = self.param("slot_keys", nn.initializers.glorot_uniform(), (units, num_slots))
        bias = self.param("slot_bias", nn.initializers.zeros, (num_slots,))
        slots = self.param("slots", nn.initializers.normal(self.slot_scale), (num_slots, units))
        preferences = soft_attention(h_g, slot_keys, bias, self.attention, self.precision)
        return preferences, soft_read(preferences, slots, self.precision)


class ElementwiseMLP(nn.Module):
    """The parameters of `compose_elementwise`, at the start the identity in h_g."""

    @nn.compact
    def __call__(self, h_g: Array, h_m: Array) -> Array:
        """h_g `[B, D]`, h_m `[B, D]` -> `[B, D]`."""
        units = h_g.shape[-1]
        a = self.param("a", _identity_in_h_g, (4, units))
        b = self.param("b", nn.initializers.zeros, (units,))
        c = self.param("c", _identity_in_h_g, (4, units))
        return compose_elementwise(h_g, h_m, a, b, c)


def _identity_in_h_g(key: Array, shape: tuple[int, ...]) -> Array:
    # The paper sets a_3 = c_3 = 1 and the rest to zero.
    del key
    return jnp.zeros(shape).at[2].set(1.0)
