"""Products at a stated precision: exact roundings, and one matrix of the rows of all samples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.products import Precision, matmul

from .jaxprs import equations

ROWS, INPUTS, OUTPUTS, SAMPLES = 6, 5, 3, 4
PRECISIONS: tuple[Precision, ...] = ("float32", "tensorfloat32", "bfloat16")


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def rounded(x: jax.Array) -> np.ndarray:
    """The nearest bfloat16 numbers, in float64."""
    return np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def gradients(x: jax.Array, w: jax.Array, g: jax.Array, precision: Precision) -> Any:
    return jax.vjp(lambda x, w: matmul(x, w, precision), x, w)[1](g)


X, W, G = drawn(ROWS, INPUTS), drawn(INPUTS, OUTPUTS, seed=1), drawn(ROWS, OUTPUTS, seed=2)


def test_float32_product_and_gradients() -> None:
    x, w, g = (np.asarray(a, np.float64) for a in (X, W, G))
    np.testing.assert_allclose(matmul(X, W), x @ w, rtol=1e-6, atol=1e-6)
    found = gradients(X, W, G, "float32")
    np.testing.assert_allclose(found[0], g @ w.T, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1], x.T @ g, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nobody_else_chooses_the_precision(precision: Precision) -> None:
    def both_ways(x: jax.Array, w: jax.Array) -> Any:
        return gradients(x, w, matmul(x, w, precision), precision)

    with jax.default_matmul_precision("bfloat16"):
        found = list(equations(jax.make_jaxpr(both_ways)(X, W).jaxpr, "dot_general"))
    assert len(found) >= 3
    for product in found:
        assert product.outvars[0].aval.dtype == jnp.float32
        operands = {operand.aval.dtype.name for operand in product.invars}
        assert operands == {precision}
        if precision == "float32":
            assert set(product.params["precision"]) == {jax.lax.Precision.HIGHEST}


def test_tensorfloat32_rounds_no_further_than_ten_bits() -> None:
    expected = np.asarray(X, np.float64) @ np.asarray(W, np.float64)
    scale = np.abs(np.asarray(X)) @ np.abs(np.asarray(W))
    assert (np.abs(matmul(X, W, "tensorfloat32") - expected) <= 2.0**-10 * scale).all()


def test_bfloat16_rounds_the_operands_alone() -> None:
    found = matmul(X, W, "bfloat16")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, rounded(X) @ rounded(W), rtol=1e-6, atol=1e-6)
    # The test can tell: without rounding the result is another.
    assert np.abs(found - matmul(X, W)).max() > 1e-4


def test_bfloat16_gradients_round_their_operands() -> None:
    found = gradients(X, W, G, "bfloat16")
    np.testing.assert_allclose(found[0], rounded(G) @ rounded(W).T, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[1], rounded(X).T @ rounded(G), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_under_vmap(precision: Precision) -> None:
    # Samples share the weights, so their gradients add up over the samples.
    x, g = drawn(4, ROWS, INPUTS), drawn(4, ROWS, OUTPUTS, seed=3)
    mapped = jax.vmap(lambda x, w: matmul(x, w, precision), in_axes=(0, None))
    found, backward = jax.vjp(mapped, x, W)
    np.testing.assert_allclose(found, matmul(x, W, precision), rtol=1e-6, atol=1e-6)
    one_by_one = [gradients(x[k], W, g[k], precision) for k in range(4)]
    expected = jnp.stack([of_x for of_x, _ in one_by_one])
    np.testing.assert_allclose(backward(g)[0], expected, rtol=1e-6, atol=1e-6)
    expected = sum(of_w for _, of_w in one_by_one)
    np.testing.assert_allclose(backward(g)[1], expected, rtol=1e-5, atol=1e-5)


def test_samples_that_share_weights_are_more_rows_in_every_product() -> None:
    x = drawn(SAMPLES, ROWS, INPUTS)

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jax.vmap(matmul, in_axes=(0, None))(x, w)))

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, W).jaxpr
    found = list(equations(jaxpr, "dot_general"))
    rows = SAMPLES * ROWS
    shapes = [tuple(operand.aval.shape for operand in one.invars) for one in found]
    assert sorted(shapes) == sorted(
        [
            ((rows, INPUTS), (INPUTS, OUTPUTS)),
            ((rows, OUTPUTS), (INPUTS, OUTPUTS)),
            ((rows, INPUTS), (rows, OUTPUTS)),
        ]
    )


def of_everybody(x: jax.Array, w: jax.Array) -> jax.Array:
    """A loss of products in every place of three maps, one in the other."""
    shared = jax.vmap(jax.vmap(matmul, in_axes=(0, None)), in_axes=(1, 0))
    of_weights = jax.vmap(shared, in_axes=(None, 0))
    return jnp.sum(jnp.sin(of_weights(x, w)))


def plainly(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(jnp.einsum("srid,wrdo->wrsio", x, w)))


def test_maps_in_maps() -> None:
    """Values, gradients and second derivatives, in float64."""
    numbers = np.random.default_rng(0).standard_normal
    with jax.enable_x64(True):
        x, w = jnp.asarray(numbers((SAMPLES, 2, ROWS, INPUTS))), jnp.asarray(numbers((3, 2, 5, 3)))
        tangents = jnp.asarray(numbers(x.shape)), jnp.asarray(numbers(w.shape))

        def everything(loss: Callable[..., jax.Array]) -> Any:
            gradient = jax.grad(loss, argnums=(0, 1))
            return loss(x, w), gradient(x, w), jax.jvp(gradient, (x, w), tangents)[1]

        found, expected = everything(of_everybody), everything(plainly)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert one.dtype == jnp.float64
            np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_inside_a_map_over_weights(precision: Precision) -> None:
    """As of seeds side by side."""
    x, w, g = drawn(2, ROWS, INPUTS), drawn(2, INPUTS, OUTPUTS), drawn(2, ROWS, OUTPUTS, seed=2)
    found = jax.vmap(lambda x, w, g: gradients(x, w, g, precision))(x, w, g)
    for r in range(2):
        for mapped, alone in zip(found, gradients(x[r], w[r], g[r], precision), strict=True):
            np.testing.assert_allclose(mapped[r], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_vector_and_a_map_over_weights_alone(precision: Precision) -> None:
    w = drawn(2, INPUTS, OUTPUTS)
    found = jax.vmap(lambda w: matmul(X[0], w, precision))(w)
    expected = jnp.stack([matmul(X[:1], one, precision)[0] for one in w])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
