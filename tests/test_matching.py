"""Reading a set: one hop by hand, attention that sums to one, and no order among the entries."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.matching import GRU, Query, SetReader, masked_attention
from tests import tiny

G, M, R, D, E, S, X = 2, 3, 4, 5, 3, 2, 6


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


VALUES, KNOWN = drawn(G, M, D), drawn(G * R, X, seed=1)
VISIBLE = jnp.tri(R, M, k=-1, dtype=bool)


class Reads(SetReader):
    """A reader together with its query."""

    hops: int = 1

    def setup(self) -> None:
        super().setup()
        self.ask = Query(self.matching)

    def of(self, values: jax.Array, visible: jax.Array, known: jax.Array) -> jax.Array:
        return self(self.embed(values, visible), self.ask, known, self.hops)


def reader(**fields: Any) -> Reads:
    return Reads(**{"features": D, "state": S, "matching": E, "pseudo_inputs": 2, **fields})


def variables(model: Reads) -> Any:
    def init() -> Any:
        return model.init(jax.random.key(0), VALUES, VISIBLE, KNOWN, method="of")

    generator = np.random.default_rng(2)
    shapes = jax.eval_shape(init)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 1, leaf.shape), jnp.float32), shapes
    )


def read(model: Reads, of: Any, values: Any, visible: Any, known: Any) -> jax.Array:
    def apply(*given: Any) -> jax.Array:
        return model.apply(*given, method="of")

    return tiny.quick_jit(apply)(of, values, visible, known)


def affine(x: np.ndarray, of: Any) -> np.ndarray:
    weights = np.asarray(of["Weights_0"]["weights"], np.float64)
    if "norm" in of["Weights_0"]:
        weights = of["Weights_0"]["norm"] * weights / np.linalg.norm(weights)
    y = x @ weights + of["bias"]
    return np.where(y > 0, y, of["PReLU_0"]["slope"] * y) if "PReLU_0" in of else y


def gru_by_hand(x: np.ndarray, state: np.ndarray, of: Any) -> np.ndarray:
    gates = 1 / (1 + np.exp(-affine(np.concatenate([x, state], axis=-1), of["gates"])))
    reset, update = gates[:, :S], gates[:, S:]
    candidate = affine(np.concatenate([x, reset * state], axis=-1), of["Affine_0"])
    return update * state + (1 - update) * candidate


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_hops_by_hand(hops: int) -> None:
    model = reader(hops=hops)
    start = variables(model)
    of = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), start["params"])
    expected = []
    for row in range(G * R):
        entries = np.asarray(VALUES[row // R], np.float64)[np.asarray(VISIBLE[row % R])]
        keys = np.concatenate([affine(entries, of["match"]), of["pseudo_keys"]])
        entries = np.concatenate([entries, of["pseudo_values"]])
        state, known = of["initial_state"][None], np.asarray(KNOWN[row : row + 1])
        for _ in range(max(hops, 1)):
            weights = np.ones(len(entries))
            if hops:
                query = affine(np.concatenate([state, known], axis=-1), of["ask"]["query"])[0]
                strength = np.clip(affine(state, of["ask"]["strength"])[0, 0], 1e-10, 10)
                weights = np.exp(strength * (keys @ query))
            mixture = (weights / weights.sum()) @ entries
            state = gru_by_hand(np.concatenate([mixture[None], state], axis=-1), state, of["cell"])
        expected.append(np.concatenate([mixture, state[0]]))
    found = read(model, start, VALUES, VISIBLE, KNOWN)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["inner", "cosine"])
def test_attention_sums_to_one_over_what_is_visible(kind: Any) -> None:
    visible = jnp.concatenate([VISIBLE, jnp.ones((R, 1), bool)], axis=-1)  # the pseudo-input
    query, keys, strength = drawn(R, E), drawn(M + 1, E, seed=1), jnp.array([1e-10, 1, 3, 10])

    def attention(query: jax.Array, keys: jax.Array, strength: jax.Array) -> jax.Array:
        return masked_attention(query, keys, strength, visible, kind, "float32")

    weights = attention(query, keys, strength)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(weights > 0, visible)
    assert weights[0, -1] == 1  # there is nothing else to see
    for leaf in jax.grad(lambda *a: attention(*a)[:, -1].sum(), (0, 1, 2))(query, keys, strength):
        assert jnp.isfinite(leaf).all()


def test_the_order_of_a_set_does_not_matter() -> None:
    model = reader(hops=2)
    start, order, all_of_them = variables(model), np.array([2, 0, 1]), jnp.ones((R, M), bool)
    found = read(model, start, VALUES[:, order], all_of_them, KNOWN)
    np.testing.assert_allclose(
        found, read(model, start, VALUES, all_of_them, KNOWN), rtol=1e-5, atol=1e-6
    )
    # But which of them are visible does.
    less = read(model, start, VALUES, VISIBLE, KNOWN)
    assert jnp.abs(found - less).max() > 1e-2


def test_what_is_invisible_is_as_if_it_were_not_there() -> None:
    model = reader()
    start = variables(model)
    whole = read(model, start, VALUES, VISIBLE, KNOWN).reshape(G, R, -1)
    for t in range(M):
        alone = read(model, start, VALUES[:, :t], jnp.ones((1, t), bool), KNOWN[t::R])
        np.testing.assert_allclose(alone, whole[:, t], rtol=1e-5, atol=1e-6)


def test_sharpness_starts_at_one_and_is_limited() -> None:
    query = Query(E)
    params = query.init(jax.random.key(0), jnp.zeros((1, S)), jnp.zeros((1, 0)))
    np.testing.assert_array_equal(query.apply(params, jnp.zeros((1, S)), jnp.zeros((1, 0)))[1], 1)
    strength = query.apply(params, 1e6 * jnp.stack([jnp.eye(S)[0], -jnp.eye(S)[0]]), KNOWN[:2, :0])
    np.testing.assert_allclose(np.sort(strength[1]), [1e-10, 10])


def test_reading_at_bfloat16_is_nearly_the_same() -> None:
    start = variables(reader())
    exact = read(reader(), start, VALUES, VISIBLE, KNOWN)
    found = read(reader(precision="bfloat16"), start, VALUES, VISIBLE, KNOWN)
    assert 1e-6 < jnp.abs(found - exact).max() < 0.3


def test_gru_keeps_a_state_that_its_gate_keeps() -> None:
    cell, x, state = GRU(S), drawn(4, D), drawn(4, S, seed=1)
    params = cell.init(jax.random.key(0), x, state)["params"]
    params["gates"]["bias"] = jnp.array([0.0] * S + [50.0] * S)
    np.testing.assert_allclose(cell.apply({"params": params}, x, state), state, rtol=1e-6)
