"""Residual sections: their arithmetic by hand, and that the mirror undoes the sizes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.convolution import convolve, transposed_convolution
from memjax.errors import InputError
from memjax.residual import Block, ResidualMirror, ResidualPyramid, Section, section_sizes
from tests import tiny

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 7, 3)), jnp.float32)


def initialised(module: Any, x: jax.Array) -> Any:
    """Large weights of any norm, and slopes that can be told from zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    generator = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 1, leaf.shape), jnp.float32), shapes
    )


def normed(weights: dict[str, Any]) -> jax.Array:
    return weights["norm"] * weights["weights"] / jnp.linalg.norm(weights["weights"])


def prelu(x: jax.Array, of: dict[str, Any]) -> jax.Array:
    return jnp.maximum(x, 0) + of["slope"] * jnp.minimum(x, 0)


def block_by_hand(x: jax.Array, params: dict[str, Any]) -> jax.Array:
    return prelu(x + convolve(x, normed(params["Weights_0"])), params["PReLU_0"])


def test_block_by_hand() -> None:
    variables = initialised(Block(2), X)
    found = Block(2).apply(variables, X)
    np.testing.assert_allclose(found, block_by_hand(X, variables["params"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [None, (14, 17)])
def test_section_by_hand(size: tuple[int, int] | None) -> None:
    section = Section(maps=4, kernel=4, block_kernel=3, blocks=2, size=size)
    variables = initialised(section, X)
    of = variables["params"]
    weights = of["Weights_0"]["weights"]
    if size is None:
        h = convolve(X, weights, 2, padding="VALID")
    else:
        h = transposed_convolution(X, weights, size, "float32", "VALID")
    h = prelu(h, of["PReLU_0"])
    for i in range(2):
        h = block_by_hand(h, of[f"Block_{i}"])
    shortcut = jnp.einsum("bhwc,ce->bhwe", X, normed(of["Weights_1"]))
    if size is None:
        # The pool is behind the convolution here, as in the authors' code.
        windows = [shortcut[:, i : i + 3 : 2, j : j + 4 : 2] for i in range(4) for j in range(4)]
        shortcut = sum(windows) / 16
    else:
        shortcut = jax.image.resize(shortcut, (2, *size, 4), "bilinear")
    found = tiny.quick_jit(section.apply)(variables, X)
    np.testing.assert_allclose(found, h + shortcut, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("image_shape", "sizes"),
    [
        ((28, 28, 1), ((28, 28), (13, 13), (6, 6), (3, 3))),
        ((26, 27, 1), ((26, 27), (12, 12), (5, 5), (2, 2))),
        ((12, 13, 3), ((12, 13), (5, 5), (2, 2), (1, 1))),
    ],
)
def test_the_mirror_goes_back_the_same_way(image_shape: Any, sizes: Any) -> None:
    kernels, blocks = (4, 3, 2), (3, 3, 2)
    assert section_sizes(kernels, image_shape) == sizes

    def there_and_back(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = jnp.zeros((2, *image_shape))
        vectors, _ = ResidualPyramid((4, 5, 6), kernels, blocks).init_with_output(key, images)
        mirror = ResidualMirror(image_shape, 6, (4, 4, 5), kernels, blocks)
        assert vectors.shape == (2, mirror.units)
        return vectors, mirror.init_with_output(key, vectors)[0]

    vectors, logits = jax.eval_shape(there_and_back, jax.random.key(0))
    assert vectors.shape == (2, 6 * sizes[-1][0] * sizes[-1][1])
    assert logits.shape == (2, *image_shape)


def test_a_blank_image_gives_zeros() -> None:
    pyramid = ResidualPyramid((2,), (4,), (3,))
    blank = jnp.zeros((1, 6, 6, 1))
    assert not jnp.any(pyramid.apply(initialised(pyramid, blank), blank))


@pytest.mark.parametrize("kernels", [(), (0,), (4, 4), (7,)])
def test_sections_that_leave_nothing(kernels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^model.kernels: found .*, expected sections"):
        section_sizes(kernels, (6, 6, 1))
