"""The limit is the matrix products of a function: all of them, and nothing else."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from benchmarks.limit import Limit, Product, products, total_flops
from memjax import training
from memjax.objectives import Pathwise
from memjax.products import matmul
from memjax.types import Batch
from tests import tiny

B, D, H, E = 3, 4, 5, 6
X, V, W = jnp.ones((B, D)), jnp.ones((D, H)), jnp.ones((H, E))
SQUARE = jnp.ones((D, D))


def shapes(found: list[Product]) -> list[tuple[int, ...]]:
    return sorted(one.equation.outvars[0].aval.shape for one in found)


def test_a_gradient_has_its_products_and_their_flops() -> None:
    def loss(v: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(X @ v) @ w)

    found = products(jax.jit(jax.value_and_grad(loss, (0, 1))), V, W)
    # The hidden layer and the output, and the gradients of the hidden layer and of both weights.
    sizes = sorted(np.prod(one) for one in shapes(found))
    assert sizes == sorted([B * H, B * E, B * H, D * H, H * E])
    assert total_flops(found) == 2 * (2 * B * D * H + 3 * B * H * E)


def test_a_training_step_of_a_known_model() -> None:
    hidden, latent, num_samples, batch_size = (8, 6), 3, 2, 7
    model, optimizer = tiny.vae(), optax.sgd(0.1)
    step = training.make_train_step(model, Pathwise(num_samples), optimizer, None)
    batch = Batch(jnp.zeros((batch_size, *tiny.IMAGE_SHAPE)), jnp.arange(batch_size))
    state = jax.eval_shape(lambda: training.create_state(model, optimizer, batch, 0))
    first = 12 * hidden[0]
    encoder = first + hidden[0] * hidden[1] + 2 * hidden[1] * latent
    decoder = latent * hidden[1] + hidden[1] * hidden[0] + hidden[0] * 12
    # Forward, and back to the weights and to the inputs, but for the images.
    expected = batch_size * (3 * encoder - first + num_samples * 3 * decoder)
    found = products(step, state, batch)
    assert len(found) == 3 * (4 + 3) - 1
    assert total_flops(found) == 2 * expected


def repeated(length: int) -> Callable[[jax.Array], jax.Array]:
    return lambda x: lax.scan(lambda h, _: (h @ SQUARE, None), x, length=length)[0]


def test_a_scan_multiplies() -> None:
    (one,) = products(repeated(7), X)
    assert (one.times, one.flops) == (7, 7 * 2 * B * D * D)

    def nested(x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, _: (repeated(7)(h), None), x, length=3)[0]

    (one,) = products(jax.jit(nested), X)
    assert one.times == 21


def test_what_is_kept_and_what_is_computed_again() -> None:
    def loss(function: Callable) -> Callable:
        return lambda v: jnp.sum(function(v))

    def hidden(v: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.tanh(X @ v) @ jnp.ones((H, H)))

    kept = products(jax.value_and_grad(loss(hidden)), V)
    again = products(jax.value_and_grad(loss(jax.checkpoint(hidden))), V)
    assert (len(kept), len(again)) == (4, 6)


def test_precision_and_types_are_those_of_the_function() -> None:
    def loss(v: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(matmul(X, v, "bfloat16")))

    found = products(jax.grad(loss), V)
    assert {operand.aval.dtype for one in found for operand in one.equation.invars} == {
        jnp.dtype(jnp.bfloat16)
    }
    (one,) = products(lambda x: matmul(x, V, "float32"), X)
    assert one.equation.params["precision"] == (lax.Precision.HIGHEST,) * 2


def test_branches_loops_and_what_nobody_reads() -> None:
    def branches(x: jax.Array) -> jax.Array:
        return lax.cond(x[0, 0] > 0, lambda: x @ SQUARE @ SQUARE, lambda: x @ SQUARE)

    assert len(products(branches, X)) == 2

    def dropped(x: jax.Array) -> jax.Array:
        x @ SQUARE
        return x

    assert products(dropped, X) == []

    def forever(x: jax.Array) -> jax.Array:
        return lax.while_loop(lambda h: h[0, 0] < 1, lambda h: h @ SQUARE, x)

    with pytest.raises(ValueError, match="in a while loop"):
        products(forever, X)


def convolved(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_a_convolution() -> None:
    (one,) = products(convolved, jnp.ones((B, 8, 8, 3)), jnp.ones((3, 3, 3, 5)))
    assert one.flops == 2 * (B * 4 * 4 * 5) * (3 * 3 * 3)


def mixed(x: jax.Array, images: jax.Array) -> Any:
    return x @ V, repeated(4)(x), convolved(images, jnp.ones((3, 3, 3, 5)))


def test_everything_is_computed_as_often_as_asked() -> None:
    found = products(mixed, X, jnp.ones((B, 8, 8, 3)))
    limit = Limit(found)
    assert limit.flops == total_flops(found)
    once = 0.0
    for (times, group), operands in zip(limit.groups, limit.operands, strict=True):
        for one, of_one in zip(group, operands, strict=True):
            once += times * float(np.ravel(one.compute(of_one))[0])
    np.testing.assert_allclose(limit.compute(5), 5 * once, rtol=1e-4)
    assert limit.seconds(1) > 0


def test_nothing_is_left_out_or_computed_in_part() -> None:
    found = products(mixed, X, jnp.ones((B, 8, 8, 3)))
    entry = Limit(found).compiled.as_text().split("ENTRY")
    # In the loops, whole.
    pattern = r"= f32\[([\d,]+)\]\S* (?:dot|convolution)\("
    inside, outside = (re.findall(pattern, part) for part in entry)
    assert outside == []
    sizes = sorted(np.prod([int(size) for size in one.split(",")]) for one in inside)
    assert sizes == sorted(np.prod(one) for one in shapes(found))
