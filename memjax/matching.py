"""Matching: what a set of images says, read by attention, whatever their order.

A set is read in hops. Each asks a query of its state, reads a mixture of the entries and of learned
pseudo-inputs, which stand for what the set does not say, and updates the state.
"""

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from memjax.memory import Similarity, similarity, soft_read
from memjax.nn import PReLU, Weights, between
from memjax.products import Precision, matmul
from memjax.types import Array

# Limits on how sharp an attention may be, those of the authors' code.
STRENGTH = (1e-10, 10.0)


@flax.struct.dataclass
class Sets:
    """G sets of M entries, of each of which R readers see some.

    Attributes:
        values: `[G, M, D]`, what is read.
        keys: `[G, M, E]`, what is matched.
        visible: `[R, M]` bool, the entries that a reader sees; the same in each set.
    """

    values: Array
    keys: Array
    visible: Array


def masked_attention(
    query: Array,
    keys: Array,
    strength: Array,
    visible: Array,
    kind: Similarity,
    precision: Precision,
) -> Array:
    """The softmax of strength times similarity, over the entries that are visible.

    Args:
        query: `[R, E]`.
        keys: `[M, E]`.
        strength: `[R]`.
        visible: `[R, M]` bool; a reader must see something.
        kind: see `memory.similarity`.
        precision: of the matrix product.

    Returns:
        `[R, M]`, zero where nothing is visible; rows sum to one.
    """
    scores = strength[:, None] * similarity(query, keys, kind, precision)
    return nn.softmax(jnp.where(visible, scores, -jnp.inf))


class Affine(nn.Module):
    """A linear layer with bias, and a `PReLU` if there is one.

    Attributes:
        features: E, the number of outputs.
        slope: of the PReLU at the start, at the most; None for a layer without.
        normed: see `nn.Weights`.
        bias: at the start.
        precision: of the matrix product.
    """

    features: int
    slope: float | None = None
    normed: bool = False
    bias: float = 0.0
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., D]` -> `[..., E]`."""
        gain = 1.0 if self.slope is None else 2.0
        weights = Weights((x.shape[-1], self.features), gain, self.normed)()
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,))
        y = matmul(x, weights, self.precision) + bias
        return y if self.slope is None else PReLU(self.slope)(y)


class GRU(nn.Module):
    """A gated recurrent unit whose candidate has a `PReLU` in place of tanh.

    Attributes:
        units: S, of the state.
        precision: of the matrix products.

    Source: Cho et al. 2014, equations 5 to 8, with the PReLU of the code of Bartunov and Vetrov.
    """

    units: int
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, state: Array) -> Array:
        """`[B, D]`, `[B, S]` -> `[B, S]`."""
        both = jnp.concatenate([x, state], axis=-1)
        gates = nn.sigmoid(Affine(2 * self.units, precision=self.precision, name="gates")(both))
        reset, update = jnp.split(gates, 2, axis=-1)
        gated = jnp.concatenate([x, reset * state], axis=-1)
        candidate = Affine(self.units, 0.02, normed=True, precision=self.precision)(gated)
        return update * state + (1 - update) * candidate


class Query(nn.Module):
    """What a reader asks: a vector to be matched, and how sharply.

    Attributes:
        matching: E, dimensions of the query.
        precision: of the matrix products.

    The strength is 1 for a state of zero at the start. The authors' code starts there at 0, where
    every second draw of the weights gives a strength below its limit and so no gradient.
    """

    matching: int
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, state: Array, known: Array) -> tuple[Array, Array]:
        """State `[B, S]` and what the reader knows besides `[B, X]` -> `[B, E]`, `[B]`."""
        both = jnp.concatenate([state, known], axis=-1)
        query = Affine(self.matching, normed=True, precision=self.precision, name="query")(both)
        strength = Affine(1, normed=True, bias=1.0, precision=self.precision, name="strength")
        return query, jnp.clip(strength(state)[:, 0], *STRENGTH)


class SetReader(nn.Module):
    """Full-context embedding: a state that has read a set in some hops.

    Attributes:
        features: D, of the entries.
        state: S, units of the state.
        matching: E, dimensions in which entries and queries are matched.
        pseudo_inputs: P, learned entries that every reader sees.
        kind: see `memory.similarity`.
        precision: of the matrix products.

    Source: Bartunov and Vetrov 2016, the class SetRepresentation of their code, whose unit takes
    the state twice, the second time through the reset gate.
    """

    features: int
    state: int = 200
    matching: int = 200
    pseudo_inputs: int = 1
    kind: Similarity = "inner"
    precision: Precision = "float32"

    def setup(self) -> None:
        self.match = Affine(self.matching, 0.01, precision=self.precision)
        self.cell = GRU(self.state, self.precision)
        small = between(1 / self.features)
        self.initial_state = self.param("initial_state", small, (self.state,))
        shape = (self.pseudo_inputs, self.features)
        self.pseudo_values = self.param("pseudo_values", small, shape)
        shape = (self.pseudo_inputs, self.matching)
        self.pseudo_keys = self.param("pseudo_keys", small, shape)

    def embed(self, values: Array, visible: Array) -> Sets:
        """Entries `[G, M, D]`, of which readers see `visible` `[R, M]`, with their keys."""
        return Sets(values, self.match(values), visible)

    def __call__(
        self,
        sets: Sets,
        ask: Callable[[Array, Array], tuple[Array, Array]],
        known: Array,
        hops: int,
    ) -> Array:
        """What readers make of their sets.

        Args:
            sets: G of them.
            ask: a `Query`.
            known: `[G * R, X]`, what each reader knows besides the set.
            hops: of attention; 0 reads the mean of what is visible.

        Returns:
            `[G * R, D + S]`, what was read last and the state after it.
        """
        rows = (len(known), self.state)
        state = jnp.broadcast_to(self.initial_state, rows)
        read = jnp.zeros((rows[0], self.features))
        for _ in range(max(hops, 1)):
            query, strength = ask(state, known) if hops else self._indifferent(rows[0])
            read = self._read(sets, query, strength)
            state = self.cell(jnp.concatenate([read, state], axis=-1), state)
        return jnp.concatenate([read, state], axis=-1)

    def _indifferent(self, count: int) -> tuple[Array, Array]:
        return jnp.zeros((count, self.matching)), jnp.zeros(count)

    def _read(self, sets: Sets, query: Array, strength: Array) -> Array:
        num_sets, readers = len(sets.values), len(sets.visible)
        always = jnp.ones((readers, self.pseudo_inputs), bool)
        visible = jnp.concatenate([sets.visible, always], axis=-1)

        def one(values: Array, keys: Array, query: Array, strength: Array) -> Array:
            values = jnp.concatenate([values, self.pseudo_values])
            keys = jnp.concatenate([keys, self.pseudo_keys])
            weights = masked_attention(query, keys, strength, visible, self.kind, self.precision)
            return soft_read(weights, values, self.precision)

        query = query.reshape(num_sets, readers, self.matching)
        read = jax.vmap(one)(sets.values, sets.keys, query, strength.reshape(num_sets, readers))
        return read.reshape(num_sets * readers, self.features)
