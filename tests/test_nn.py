"""Layers: batch norm over every axis that is named."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.nn import BatchNorm, Dense, Hidden, PReLU, Weights, batch_moments, normalise, over_rows
from memjax.products import matmul

ROWS, INPUTS, OUTPUTS = 6, 5, 3


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


X, W = drawn(ROWS, INPUTS), drawn(INPUTS, OUTPUTS, seed=1)


def test_a_vector_over_rows_has_the_gradient_of_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    vector, x, g = drawn(OUTPUTS), drawn(4, ROWS, OUTPUTS, seed=1), drawn(4, ROWS, OUTPUTS, seed=2)

    def product(vector: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: over_rows(vector, x) * x)(x)

    found, back = jax.vjp(product, vector)
    np.testing.assert_array_equal(found, vector * x)
    np.testing.assert_allclose(back(g)[0], (x * g).sum((0, 1)), rtol=1e-5)
    tangent = jax.jvp(product, (vector,), (vector,))[1]
    np.testing.assert_array_equal(tangent, vector * x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert over_rows(vector, x[0]) is vector


def test_dense_is_affine() -> None:
    layer = Dense(OUTPUTS)
    params = layer.init(jax.random.key(0), X)["params"]
    assert params["kernel"].shape == (INPUTS, OUTPUTS) and not params["bias"].any()
    limit = np.sqrt(6 / (INPUTS + OUTPUTS))  # of Glorot's uniform distribution
    assert np.abs(params["kernel"]).max() <= limit
    params = {**params, "bias": drawn(OUTPUTS, seed=4)}
    expected = matmul(X, params["kernel"]) + params["bias"]
    np.testing.assert_array_equal(layer.apply({"params": params}, X), expected)


def test_moments_survive_a_large_mean() -> None:
    x = drawn(1000, 2) * 0.01 + 100.0
    mean, variance = batch_moments(x)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var(axis=0), rtol=1e-3)


def test_constant_units_stay_finite() -> None:
    x = jnp.full((ROWS, 2), 3.0)
    normalised = normalise(x, batch_moments(x), 1e-10)
    np.testing.assert_array_equal(normalised, jnp.zeros_like(x))
    gradient = jax.grad(lambda x: normalise(x, batch_moments(x), 1e-10).sum())(x)
    assert np.isfinite(gradient).all()


def test_batch_norm_over_named_axes_is_that_over_all_rows() -> None:
    x = 3 * drawn(2, 4, ROWS, OUTPUTS) + 1
    named = BatchNorm(axes=("samples", "devices"), momentum=0.5)
    start = BatchNorm().init(jax.random.key(0), x[0, 0], True)

    def apply(rows: jax.Array) -> Any:
        return named.apply(start, rows, True, mutable=["batch_stats"])

    over_samples = jax.vmap(apply, axis_name="samples", out_axes=(0, None))
    both = jax.vmap(over_samples, axis_name="devices", out_axes=(0, None))
    found, statistics = both(x)
    alone = BatchNorm(momentum=0.5)
    rows = x.reshape(-1, OUTPUTS)
    expected, expected_statistics = alone.apply(start, rows, True, mutable=["batch_stats"])
    np.testing.assert_allclose(found.reshape(-1, OUTPUTS), expected, rtol=1e-5, atol=1e-6)
    for name in ("mean", "variance"):
        np.testing.assert_allclose(
            statistics["batch_stats"][name], expected_statistics["batch_stats"][name], rtol=1e-5
        )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_moving_averages(momentum: float) -> None:
    layer = BatchNorm(momentum=momentum, epsilon=1e-10)
    variables = layer.init(jax.random.key(0), X, True)
    first, second = 2 * X + 1, 5 * X - 3
    for x in (first, second):
        normalised, updated = layer.apply(variables, x, True, mutable=["batch_stats"])
        variables = {**variables, **updated}
        np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(normalised.std(axis=0), 1, rtol=1e-5)
    found = variables["batch_stats"]
    for name, start, moment in (("mean", 0, np.mean), ("variance", 1, np.var)):
        expected = np.full(INPUTS, start)
        for x in (first, second):
            expected = momentum * expected + (1 - momentum) * moment(np.asarray(x), axis=0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_evaluation_uses_what_was_kept() -> None:
    kept = {"mean": drawn(INPUTS, seed=5), "variance": jnp.exp(drawn(INPUTS, seed=6))}
    found = BatchNorm(epsilon=1e-3).apply({"batch_stats": kept}, X, False)
    expected = (X - kept["mean"]) / np.sqrt(kept["variance"] + 1e-3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def hidden(**fields: Any) -> tuple[Hidden, Any]:
    layer = Hidden(OUTPUTS, **fields)
    return layer, layer.init(jax.random.key(0), X, True)


def test_hidden_layer_by_hand() -> None:
    layer, variables = hidden(epsilon=1e-10)
    scale, shift = drawn(OUTPUTS, seed=7), drawn(OUTPUTS, seed=8)
    params = {**variables["params"], "scale": scale, "shift": shift}
    variables = {**variables, "params": params}
    (output, normalised), _ = layer.apply(variables, X, True, mutable=["batch_stats"])
    h = np.asarray(X, np.float64) @ np.asarray(params["dense"]["kernel"], np.float64)
    expected = (h - h.mean(axis=0)) / h.std(axis=0)
    np.testing.assert_allclose(normalised, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        output, np.maximum(expected * scale + shift, 0), rtol=1e-4, atol=1e-5
    )


def test_hidden_layer_without_norm() -> None:
    layer, variables = hidden(batch_norm=False)
    assert set(variables) == {"params"} and set(variables["params"]) == {"dense"}
    output, before = layer.apply(variables, X, True)
    np.testing.assert_allclose(before, matmul(X, variables["params"]["dense"]["kernel"]))
    np.testing.assert_array_equal(output, np.maximum(before, 0))


def test_a_second_pass_leaves_the_statistics() -> None:
    layer, variables = hidden(momentum=0.5)

    def apply(record: bool) -> Any:
        return layer.apply(variables, X, True, record, mutable=["batch_stats"])

    (first, _), moved = apply(record=True)
    (second, _), kept = apply(record=False)
    np.testing.assert_array_equal(first, second)
    before = variables["batch_stats"]["norm"]
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(kept["batch_stats"]["norm"][name], before[name])
        assert (moved["batch_stats"]["norm"][name] != before[name]).any()


@pytest.mark.parametrize(("shape", "inputs"), [((40, 30), 40), ((3, 3, 20, 10), 180)])
def test_weights_keep_the_power_of_their_inputs(shape: tuple[int, ...], inputs: int) -> None:
    for gain in (1.0, 2.0):
        variables = Weights(shape, gain).init(jax.random.key(0))
        assert set(variables["params"]) == {"weights"}
        found = Weights(shape, gain).apply(variables)
        np.testing.assert_allclose(found.var(), gain / inputs, rtol=0.1)


def test_normed_weights_have_the_norm_that_is_trained() -> None:
    normed = Weights((4, 3), normed=True)
    params = normed.init(jax.random.key(0))["params"]
    np.testing.assert_allclose(jnp.linalg.norm(normed.apply({"params": params})), 1, rtol=1e-6)
    params = {"weights": params["weights"], "norm": jnp.float32(-2.5)}
    expected = -2.5 * params["weights"] / jnp.linalg.norm(params["weights"])
    np.testing.assert_allclose(normed.apply({"params": params}), expected, rtol=1e-6)
    # Along the weights themselves there is no gradient: only the number says how large they are.
    gradient = jax.grad(lambda p: (normed.apply({"params": p}) * drawn(4, 3)).sum())(params)
    assert abs((gradient["weights"] * params["weights"]).sum()) < 1e-6 < abs(gradient["norm"])


def test_prelu() -> None:
    layer, x = PReLU(0.02), jnp.array([[-2.0, 3.0], [1.0, -1.0], [0.0, 0.0]])
    slope = layer.init(jax.random.key(0), x)["params"]["slope"]
    assert slope.shape == (2,) and 0 < jnp.abs(slope).max() <= 0.02
    found = layer.apply({"params": {"slope": jnp.array([0.5, -0.25])}}, x)
    np.testing.assert_array_equal(found, [[-1, 3], [1, 0.25], [0, 0]])
