"""Memory: reading and composing, against sums written out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.memory import (
    Attention,
    ElementwiseMLP,
    SoftMemory,
    compose_elementwise,
    draw_address,
    soft_attention,
    soft_read,
    usage,
)

UNITS, SLOTS, EXAMPLES = 4, 3, 5


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_soft_read_by_hand() -> None:
    preferences = np.array([[1.0, 0.0], [0.25, 0.5]], np.float32)
    slots = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 40.0]], np.float32)
    found = soft_read(preferences, slots, "float32")
    np.testing.assert_array_equal(found, [[1.0, 2.0, 3.0], [5.25, 10.5, 20.75]])


@pytest.mark.parametrize("attention", ["sigmoid", "softmax"])
def test_soft_attention_by_hand(attention: Attention) -> None:
    query, slot_keys, bias = drawn(EXAMPLES, UNITS), drawn(UNITS, SLOTS), drawn(SLOTS, seed=1)
    found = soft_attention(query, slot_keys, bias, attention, "float32")
    for b in range(EXAMPLES):
        scores = [
            sum(float(query[b, d]) * float(slot_keys[d, m]) for d in range(UNITS)) + bias[m]
            for m in range(SLOTS)
        ]
        exponentials = np.exp(np.asarray(scores, np.float64))
        total = exponentials.sum() if attention == "softmax" else 1 + exponentials
        np.testing.assert_allclose(found[b], exponentials / total, rtol=1e-5)


def test_softmax_preferences_sum_to_one() -> None:
    query, slot_keys, bias = 30 * drawn(EXAMPLES, UNITS), drawn(UNITS, SLOTS), drawn(SLOTS)
    found = soft_attention(query, slot_keys, bias, "softmax", "float32")
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-6)
    assert np.isfinite(found).all()


def test_soft_memory_reads_its_own_slots() -> None:
    h_g = drawn(EXAMPLES, UNITS)
    memory = SoftMemory(SLOTS, slot_scale=0.01)
    params = memory.init(jax.random.key(0), h_g)["params"]
    shapes = {name: value.shape for name, value in params.items()}
    assert shapes == {
        "slot_keys": (UNITS, SLOTS),
        "slot_bias": (SLOTS,),
        "slots": (SLOTS, UNITS),
    }
    params = {**params, "slot_bias": drawn(SLOTS, seed=2)}
    preferences, h_m = memory.apply({"params": params}, h_g)
    expected = soft_attention(h_g, params["slot_keys"], params["slot_bias"], "sigmoid", "float32")
    np.testing.assert_array_equal(preferences, expected)
    np.testing.assert_array_equal(h_m, soft_read(expected, params["slots"], "float32"))


def test_slots_start_at_their_scale() -> None:
    memory = SoftMemory(500, slot_scale=0.01)
    slots = memory.init(jax.random.key(0), jnp.zeros((1, 400)))["params"]["slots"]
    # 200,000 draws: the deviation of a sample deviation is 0.16 percent of it.
    np.testing.assert_allclose(jnp.std(slots), 0.01, rtol=0.01)


def test_composition_starts_as_the_identity() -> None:
    h_g, h_m = drawn(EXAMPLES, UNITS), 100 * drawn(EXAMPLES, UNITS, seed=1)
    module = ElementwiseMLP()
    variables = module.init(jax.random.key(0), h_g, h_m)
    np.testing.assert_array_equal(module.apply(variables, h_g, h_m), h_g)
    # Nine vectors, of which a_3 and c_3 are one and the rest zero.
    params = variables["params"]
    assert {name: value.shape for name, value in params.items()} == {
        "a": (4, UNITS),
        "b": (UNITS,),
        "c": (4, UNITS),
    }
    for name in ("a", "c"):
        np.testing.assert_array_equal(params[name], np.outer([0, 0, 1, 0], np.ones(UNITS)))
    assert not params["b"].any()


def halved(probabilities: np.ndarray, uniform: np.ndarray) -> int:
    """The entry that uniform numbers lead to, by sums of slices in float64."""
    first, size = 0, 2 ** len(uniform)
    padded = np.pad(probabilities, (0, size - len(probabilities)))
    for number in uniform:
        size //= 2
        left, right = padded[first : first + size], padded[first + size : first + 2 * size]
        first += size * int(number * (left.sum() + right.sum()) >= left.sum())
    return first


@pytest.mark.parametrize("size", [1, 2, 37, 64])
@pytest.mark.parametrize("shared", [False, True])
def test_addresses_by_hand(size: int, shared: bool) -> None:
    logs = jnp.asarray(drawn(1 if shared else 200, size) * 3)
    keys = jax.random.split(jax.random.key(0), 200)
    found = draw_address(logs, keys)
    count = (size - 1).bit_length()
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys) + 2**-24
    rows = np.broadcast_to(np.exp(np.asarray(logs, np.float64)), (200, size))
    expected = [halved(row, numbers) for row, numbers in zip(rows, uniform, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_addresses_come_as_often_as_they_should() -> None:
    probabilities = np.array([0.5, 0.0, 0.2, 0.3, 0.0])
    with np.errstate(divide="ignore"):
        logs = jnp.asarray(np.log(probabilities), jnp.float32)[None]
    count = 20_000
    found = draw_address(logs, jax.random.split(jax.random.key(1), count))
    frequencies = np.bincount(found, minlength=5) / count
    np.testing.assert_array_equal(frequencies[[1, 4]], 0)
    deviations = np.sqrt(probabilities * (1 - probabilities) / count)
    assert (np.abs(frequencies - probabilities) <= 5 * deviations).all()


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-23])
@pytest.mark.parametrize("impossible", [-np.inf, -80.0])
def test_no_impossible_entry_is_drawn(
    impossible: float, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the uniform numbers: the smallest, the largest, one where sums may round.
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, number))
    size, rows = 2048, 50
    logs = drawn(rows, size) * 2
    out = np.random.default_rng(1).random((rows, size)) < 0.5
    found = draw_address(
        jnp.asarray(np.where(out, impossible, logs)), jax.random.split(jax.random.key(0), rows)
    )
    assert not out[np.arange(rows), np.asarray(found)].any()


def test_usage_by_hand() -> None:
    even = usage(np.full(8, 1 / 8, np.float32))
    assert even["dead_entries"] == 0
    np.testing.assert_allclose(even["entropy_posterior"], np.log(8), rtol=1e-6)
    # Three of six get less than a hundredth of 1 / 6, two a little more.
    uneven = np.array([1 - 6.6e-3, 1.7e-3, 1.7e-3, 1.6e-3, 1.6e-3, 0.0])
    found = usage(uneven)
    assert found["dead_entries"] == 3 / 6
    expected = -sum(p * np.log(p) for p in uneven if p)
    np.testing.assert_allclose(found["entropy_posterior"], expected, rtol=1e-6)


def test_composition_in_closed_form() -> None:
    h_g, h_m = drawn(EXAMPLES, UNITS), drawn(EXAMPLES, UNITS, seed=1)
    a, b, c = drawn(4, UNITS, seed=2), drawn(UNITS, seed=3), drawn(4, UNITS, seed=4)
    found = compose_elementwise(h_g, h_m, a, b, c)
    g, m = h_g.astype(np.float64), h_m.astype(np.float64)
    linear = a[0] + a[1] * m + a[2] * g + a[3] * g * m
    gate = 1 / (1 + np.exp(-(c[0] + c[1] * m + c[2] * g + c[3] * g * m)))
    np.testing.assert_allclose(found, linear + b * gate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [None, 1, 3])
def test_gradient_of_the_composition_is_that_of_the_formula(samples: int | None) -> None:
    shape = (EXAMPLES, UNITS) if samples is None else (samples, EXAMPLES, UNITS)
    h_g, h_m, g = (drawn(*shape, seed=seed) for seed in range(3))
    vectors = drawn(4, UNITS, seed=3), drawn(UNITS, seed=4), drawn(4, UNITS, seed=5)

    def formula(
        h_g: jax.Array, h_m: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array
    ) -> jax.Array:
        linear = a[0] + a[1] * h_m + a[2] * h_g + a[3] * h_g * h_m
        return linear + b * jax.nn.sigmoid(c[0] + c[1] * h_m + c[2] * h_g + c[3] * h_g * h_m)

    def gradients(function: Any) -> Any:
        if samples is not None:  # which share the vectors
            function = jax.vmap(function, in_axes=(0, 0, None, None, None))
        return jax.vjp(function, h_g, h_m, *vectors)[1](g)

    for found, expected in zip(gradients(compose_elementwise), gradients(formula), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_composition_keeps_units_apart() -> None:
    a, b, c = drawn(4, UNITS, seed=2), drawn(UNITS, seed=3), drawn(4, UNITS, seed=4)

    def composed(h_g: jax.Array) -> jax.Array:
        return compose_elementwise(h_g[None], jnp.ones((1, UNITS)), a, b, c)[0]

    jacobian = np.asarray(jax.jacobian(composed)(jnp.asarray(drawn(UNITS))))
    assert np.diag(jacobian).all() and not (jacobian - np.diag(np.diag(jacobian))).any()
