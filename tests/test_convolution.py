"""Convolutions: precision, two forms of one function, a pyramid and its mirror."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import convolution
from memjax.convolution import (
    Convolution,
    Mirror,
    Padding,
    Pyramid,
    UpConvolution,
    add_bias,
    convolve,
    layer_shapes,
    subpixel_convolution,
    transposed_convolution,
    upsampled_convolution,
)
from memjax.errors import InputError
from memjax.products import Precision

from .jaxprs import equations

CONVOLUTION = "conv_general_dilated"
PRECISIONS: tuple[Precision, ...] = ("float32", "tensorfloat32", "bfloat16")
# Small and large sizes of every upscaling layer, and the smallest there are.
SIZES = [
    ((4, 4), (7, 7)),
    ((7, 7), (13, 13)),
    ((7, 7), (14, 14)),
    ((13, 13), (26, 26)),
    ((14, 14), (28, 28)),
    ((3, 4), (5, 8)),
    ((1, 1), (1, 2)),
]
MAPS = (6, 5, 4, 4, 3, 2)


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def rounded(x: jax.Array) -> jax.Array:
    """The nearest bfloat16 numbers, in float32."""
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def assert_near(found: Any, expected: Any, tolerance: float = 3e-6) -> None:
    """Equal up to float32, relative to the largest entry."""
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=tolerance * max(1.0, np.abs(e).max()))


def by_loops(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """SAME: as many zeros on both sides, or one more behind."""
    outputs = [-(-n // stride) for n in x.shape[1:3]]
    taps = kernel.shape[:2]
    zeros = [
        max((m - 1) * stride + k - n, 0)
        for m, k, n in zip(outputs, taps, x.shape[1:3], strict=True)
    ]
    return valid_by_loops(
        np.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in zeros), (0, 0))), kernel, stride
    )


def valid_by_loops(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    taps = kernel.shape[:2]
    outputs = [(n - k) // stride + 1 for n, k in zip(x.shape[1:3], taps, strict=True)]
    y = np.zeros((len(x), *outputs, kernel.shape[-1]))
    for i, j, s, t in product(*map(range, (*outputs, *taps))):
        y[:, i, j] += x[:, i * stride + s, j * stride + t] @ kernel[s, t]
    return y


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 4), (3, 1)])
@pytest.mark.parametrize("taps", [(3, 3), (2, 2), (4, 1)])
def test_convolution_by_loops(stride: int, size: tuple[int, int], taps: tuple[int, int]) -> None:
    x, kernel = drawn(2, *size, 3), drawn(*taps, 3, 2, seed=1)
    expected = by_loops(np.asarray(x, np.float64), np.asarray(kernel, np.float64), stride)
    assert_near(convolve(x, kernel, stride), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [(3, 3), (2, 4)])
def test_convolution_without_zeros_by_loops(stride: int, taps: tuple[int, int]) -> None:
    x, kernel = drawn(2, 6, 7, 3), drawn(*taps, 3, 2, seed=1)
    expected = valid_by_loops(np.asarray(x, np.float64), np.asarray(kernel, np.float64), stride)
    assert_near(convolve(x, kernel, stride, padding="VALID"), expected)


def transposed_by_loops(x: jax.Array, kernel: jax.Array) -> np.ndarray:
    """Every pixel lays out its taps, two pixels on from the one before it."""
    taps = kernel.shape[:2]
    large = [2 * n - 2 + k for n, k in zip(x.shape[1:3], taps, strict=True)]
    y = np.zeros((len(x), *large, kernel.shape[-1]))
    for i, j, s, t in product(*map(range, (*x.shape[1:3], *taps))):
        y[:, 2 * i + s, 2 * j + t] += np.asarray(x[:, i, j]) @ np.asarray(kernel[s, t])
    return y


def test_transposed_convolution_by_loops() -> None:
    x, kernel = drawn(2, 3, 4, 3), drawn(3, 3, 3, 2, seed=1)
    # 2 * 3 - 1 rows from the second, 2 * 4 columns from the first.
    found = upsampled_convolution(x, kernel, (5, 8))
    assert_near(found, transposed_by_loops(x, kernel)[:, 1:6, :8])


@pytest.mark.parametrize("taps", [(2, 2), (3, 3), (4, 4), (1, 5)])
@pytest.mark.parametrize("form", [transposed_convolution, subpixel_convolution])
@pytest.mark.parametrize("more", [(0, 0), (1, 0), (1, 1)])
def test_transposed_convolution_without_zeros_by_loops(
    taps: tuple[int, int], form: Any, more: tuple[int, int]
) -> None:
    x, kernel = drawn(2, 3, 4, 3), drawn(*taps, 3, 2, seed=1)
    expected = transposed_by_loops(x, kernel)
    # What no tap reaches is zero.
    expected = np.pad(expected, ((0, 0), *((0, n) for n in more), (0, 0)))
    assert_near(form(x, kernel, expected.shape[1:3], "float32", "VALID"), expected)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("taps", [(2, 2), (4, 4), (4, 3)])
def test_upsampling_is_the_transpose_of_downsampling_by_any_kernel(
    taps: tuple[int, int], padding: Padding
) -> None:
    kernel, large = drawn(*taps, 3, 4, seed=1), jnp.zeros((2, 7, 8, 4))
    small, backward = jax.vjp(
        lambda y: convolve(y, kernel.swapaxes(2, 3), 2, padding=padding), large
    )
    x = drawn(*small.shape)
    assert_near(upsampled_convolution(x, kernel, large.shape[1:3], padding=padding), backward(x)[0])


@pytest.mark.parametrize(("low", "high"), SIZES)
def test_both_forms_are_one_function(low: tuple[int, int], high: tuple[int, int]) -> None:
    x, kernel, g = drawn(2, *low, 3), drawn(3, 3, 3, 4, seed=1), drawn(2, *high, 4, seed=2)
    found = []
    for form in (transposed_convolution, subpixel_convolution):

        @jax.jit
        def both_ways(x: jax.Array, kernel: jax.Array, form: Any = form) -> Any:
            y, backward = jax.vjp(lambda x, w: form(x, w, high, "float32"), x, kernel)
            return y, backward(g)

        found.append(both_ways(x, kernel))
    assert found[0][0].shape == (2, *high, 4)
    assert_near(*found)


@pytest.mark.parametrize(("low", "high"), SIZES)
def test_upsampling_is_the_transpose_of_downsampling(
    low: tuple[int, int], high: tuple[int, int]
) -> None:
    x, kernel = drawn(2, *low, 3), drawn(3, 3, 3, 4, seed=1)
    large = jnp.zeros((2, *high, 4))
    _, backward = jax.vjp(lambda y: convolve(y, kernel.swapaxes(2, 3), 2), large)
    assert_near(upsampled_convolution(x, kernel, high), backward(x)[0])


@pytest.mark.parametrize(
    ("backend", "form"),
    [
        ("cpu", "subpixel_convolution"),
        ("gpu", "transposed_convolution"),
        ("tpu", "transposed_convolution"),
    ],
)
def test_backend_chooses_the_form(monkeypatch: pytest.MonkeyPatch, backend: str, form: str) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(convolution, form, lambda *arguments: form)
    assert upsampled_convolution(drawn(1, 2, 2, 1), drawn(3, 3, 1, 1), (4, 4)) == form


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (8, 6)])
def test_no_other_size_can_be_reached(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"^size: found . ., expected 7 or 8$"):
        upsampled_convolution(drawn(1, 4, 4, 1), drawn(3, 3, 1, 1), size)
    with pytest.raises(InputError, match=r"^size: found . ., expected 9 or 10$"):
        upsampled_convolution(drawn(1, 4, 4, 1), drawn(3, 3, 1, 1), size, padding="VALID")


def layers(precision: Precision) -> dict[str, Any]:
    """Every kind of convolution there is: name -> function of image and kernel."""
    return {
        "plain": lambda x, kernel: convolve(x, kernel, 1, precision),
        "strided": lambda x, kernel: convolve(x, kernel, 2, precision),
        "transposed": lambda x, kernel: transposed_convolution(x, kernel, (9, 14), precision),
        "subpixel": lambda x, kernel: subpixel_convolution(x, kernel, (9, 14), precision),
        "valid": lambda x, kernel: convolve(x, kernel, 2, precision, "VALID"),
        "valid subpixel": lambda x, kernel: subpixel_convolution(
            x, kernel, (11, 16), precision, "VALID"
        ),
    }


LAYERS = list(layers("float32"))
X, W = drawn(2, 5, 7, 3), drawn(3, 3, 3, 4, seed=1)


def cotangent(layer: Any) -> jax.Array:
    return drawn(*jax.eval_shape(layer, X, W).shape, seed=2)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_nobody_else_chooses_the_precision(name: str, precision: Precision) -> None:
    layer = layers(precision)[name]

    def both_ways(x: jax.Array, kernel: jax.Array) -> Any:
        return jax.vjp(layer, x, kernel)[1](cotangent(layer))

    with jax.default_matmul_precision("bfloat16"):
        found = list(equations(jax.make_jaxpr(both_ways)(X, W).jaxpr, CONVOLUTION))
    assert len(found) == 3
    names = {"float32": "HIGHEST", "tensorfloat32": "HIGH", "bfloat16": "DEFAULT"}
    for equation in found:
        assert equation.outvars[0].aval.dtype == jnp.float32
        operands = {operand.aval.dtype.name for operand in equation.invars}
        assert operands == {"bfloat16" if precision == "bfloat16" else "float32"}
        assert set(equation.params["precision"]) == {jax.lax.Precision[names[precision]]}


@pytest.mark.parametrize("name", LAYERS)
def test_every_product_has_the_order_that_is_fast_in_loops(name: str) -> None:
    layer = layers("float32")[name]
    samples = jnp.stack([X, X])

    def both_ways(x: jax.Array, kernel: jax.Array) -> Any:
        y, backward = jax.vjp(jax.vmap(layer, (0, None)), x, kernel)
        return backward(y)

    found = list(equations(jax.make_jaxpr(both_ways)(samples, W).jaxpr, CONVOLUTION))
    assert len(found) == 4  # forward, by the image, by the kernel once for each sample
    for equation in found:
        order = equation.params["dimension_numbers"]
        # Batch, channels, H, W; outputs, inputs, H, W; as places in [B, H, W, C] and HWIO.
        assert tuple(order) == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        assert equation.params["feature_group_count"] == 1


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_rounds_the_operands_alone(name: str) -> None:
    exact, found = layers("float32")[name], layers("bfloat16")[name]
    g = cotangent(exact)
    assert_near(found(X, W), exact(rounded(X), rounded(W)))
    # The test can tell: without rounding the result is another.
    assert np.abs(found(X, W) - exact(X, W)).max() > 1e-3
    expected = jax.vjp(exact, rounded(X), rounded(W))[1](rounded(g))
    assert_near(jax.vjp(found, X, W)[1](g), expected)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_under_vmap(name: str, precision: Precision) -> None:
    # Samples share the kernel, so its gradients add up over the samples.
    layer = layers(precision)[name]
    x = drawn(3, *X.shape)
    g = jnp.stack([cotangent(layer)] * 3)
    mapped = jax.vmap(layer, in_axes=(0, None))
    y, backward = jax.vjp(mapped, x, W)
    one_by_one = [jax.vjp(layer, x[k], W) for k in range(3)]
    assert_near(y, jnp.stack([y for y, _ in one_by_one]))
    gradients = [backward(g[k]) for k, (_, backward) in enumerate(one_by_one)]
    expected = jnp.stack([of_x for of_x, _ in gradients]), sum(of_w for _, of_w in gradients)
    assert_near(backward(g), expected)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_bias_is_added_to_every_pixel(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    generator = np.random.default_rng(0)
    y, g = (jnp.asarray(generator.standard_normal((4, 3, 5, 2, 6))) for _ in range(2))
    bias = jnp.asarray(generator.standard_normal(6))
    found, back = jax.vjp(jax.vmap(add_bias, (0, None)), y, bias)
    np.testing.assert_array_equal(found, y + bias)
    of_y, of_bias = back(g)
    np.testing.assert_array_equal(of_y, g)
    np.testing.assert_allclose(of_bias, g.sum((0, 1, 2, 3)), rtol=1e-5)


def test_convolution_is_affine() -> None:
    layer = Convolution(4, stride=2)
    params = layer.init(jax.random.key(0), X)["params"]
    assert params["kernel"].shape == (3, 3, 3, 4) and not params["bias"].any()
    limit = np.sqrt(6 / (9 * 3 + 9 * 4))  # of Glorot's uniform distribution
    assert 0.8 * limit < np.abs(params["kernel"]).max() <= limit
    params = {**params, "bias": drawn(4, seed=4)}
    expected = convolve(X, params["kernel"], 2) + params["bias"]
    np.testing.assert_array_equal(layer.apply({"params": params}, X), expected)
    assert set(Convolution(4, use_bias=False).init(jax.random.key(0), X)["params"]) == {"kernel"}


def test_up_convolution_is_affine() -> None:
    layer = UpConvolution(4, (9, 14))
    params = layer.init(jax.random.key(0), X)["params"]
    limit = 2 * np.sqrt(6 / (9 * 3 + 9 * 4))
    assert 0.8 * limit < np.abs(params["kernel"]).max() <= limit
    params = {**params, "bias": drawn(4, seed=4)}
    expected = upsampled_convolution(X, params["kernel"], (9, 14)) + params["bias"]
    np.testing.assert_array_equal(layer.apply({"params": params}, X), expected)


@pytest.mark.parametrize(
    ("image_shape", "sizes"),
    [
        ((26, 26, 1), [(26, 26), (13, 13), (7, 7), (4, 4)]),
        ((28, 28, 1), [(28, 28), (14, 14), (7, 7), (4, 4)]),
        ((8, 8, 1), [(8, 8), (4, 4), (2, 2), (1, 1)]),
        ((5, 7, 3), [(5, 7), (3, 4), (2, 2), (1, 1)]),
    ],
)
def test_pyramid_gives_the_last_maps_of_each_size(
    image_shape: tuple[int, int, int], sizes: list[tuple[int, int]]
) -> None:
    images = jnp.zeros((2, *image_shape))
    features, _ = jax.eval_shape(Pyramid(MAPS).init_with_output, jax.random.key(0), images)
    expected = [(2, *size, maps) for size, maps in zip(sizes, (6, 4, 3, 2), strict=True)]
    assert [f.shape for f in features] == expected
    assert layer_shapes(MAPS, image_shape)[-1] == features[-1].shape[1:]


def test_pyramid_by_hand() -> None:
    images = drawn(2, 5, 7, 1)
    init = jax.jit(Pyramid((4, 3, 2)).init_with_output)
    features, variables = init(jax.random.key(0), images)
    h = images
    for i, stride in enumerate((1, 2, 1)):
        h = jax.nn.relu(convolve(h, variables["params"][f"layers_{i}"]["kernel"], stride))
        if i == 0:
            assert_near(features[0], h)
    assert_near(features[1], h)
    assert len(features) == 2


ADDRESS = jnp.array([2, 0, 2, 1])
VECTOR = drawn(4, 10, seed=1)


def remember(mirror: Mirror, vector: jax.Array, features: Any, address: jax.Array) -> jax.Array:
    return mirror(vector, tuple(skip[address] for skip in mirror.project(features)))


def features_of(maps: tuple[int, ...], image_shape: tuple[int, int, int]) -> tuple[Any, ...]:
    """Of three images: what a pyramid might give."""
    images = drawn(3, *image_shape)
    shapes = jax.eval_shape(Pyramid(maps).init_with_output, jax.random.key(0), images)[0]
    return tuple(jax.nn.relu(drawn(*shape.shape, seed=i)) for i, shape in enumerate(shapes))


def initialised(mirror: Mirror, features: Any) -> Any:
    def init(key: jax.Array) -> Any:
        return mirror.init(key, VECTOR, features, ADDRESS, method=remember)

    return jax.jit(init)(jax.random.key(1))


@pytest.mark.parametrize("image_shape", [(26, 26, 1), (28, 28, 1), (8, 8, 1), (5, 7, 3)])
@pytest.mark.parametrize("maps", [MAPS, MAPS[:5], MAPS[:1]])
def test_mirror_gives_images(image_shape: tuple[int, int, int], maps: tuple[int, ...]) -> None:
    mirror, key = Mirror(maps, image_shape), jax.random.key(0)
    features = features_of(maps, image_shape)
    logits, variables = jax.eval_shape(
        lambda: mirror.init_with_output(key, VECTOR, features, ADDRESS, method=remember)
    )
    assert logits.shape == (4, *image_shape)
    skips = jax.eval_shape(lambda v: mirror.apply(v, features, method="project"), variables)
    assert [s.shape for s in skips] == [f.shape for f in features[:-1]]
    # Without skips the images are as large, and the parameters those that are needed.
    logits, alone = jax.eval_shape(lambda: mirror.init_with_output(key, VECTOR))
    assert logits.shape == (4, *image_shape)
    skipped = {f"skips_{i}" for i in range(len(maps) // 2)}
    assert set(variables["params"]) - set(alone["params"]) == skipped


def test_zero_skips_are_no_skips() -> None:
    features = features_of(MAPS[:3], (5, 7, 1))
    mirror = Mirror(MAPS[:3], (5, 7, 1))
    variables = initialised(mirror, features)
    zeros = jax.tree.map(jnp.zeros_like, features)

    @jax.jit
    def both(variables: Any) -> Any:
        found = mirror.apply(variables, VECTOR, zeros, ADDRESS, method=remember)
        return found, mirror.apply(variables, VECTOR)

    assert_near(*both(variables))


@pytest.mark.parametrize("image_shape", [(26, 26, 1), (5, 7, 3)])
def test_projected_skips_are_concatenated_skips(image_shape: tuple[int, int, int]) -> None:
    features, mirror = features_of(MAPS, image_shape), Mirror(MAPS, image_shape)
    variables = initialised(mirror, features)

    def concatenated(params: Any) -> jax.Array:
        h = VECTOR @ params["dense"]["kernel"]
        h = jax.nn.relu(h).reshape(4, *layer_shapes(MAPS, image_shape)[-1])
        for i in reversed(range(len(MAPS))):
            kernel = params[f"layers_{i}"]["kernel"]
            if i % 2:
                skip = features[i // 2][ADDRESS]
                height, width = skip.shape[1:3]
                # h, zeros between its pixels, beside the skip; one kernel over both.
                sparse = jnp.zeros((4, height, width, h.shape[-1]))
                sparse = sparse.at[:, 1 - height % 2 :: 2, 1 - width % 2 :: 2].set(h)
                of_skip = params[f"skips_{i // 2}"]["kernel"]
                kernel = jnp.concatenate([kernel[::-1, ::-1], of_skip], axis=2)
                h = jnp.concatenate([sparse, skip], axis=-1)
            h = convolve(h, kernel)
            h = jax.nn.relu(h) if i else h
        return h

    projected = jax.jit(lambda v: mirror.apply(v, VECTOR, features, ADDRESS, method=remember))
    found = projected(variables)
    assert (found < 0).any()
    assert_near(found, jax.jit(concatenated)(variables["params"]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_mirror_under_vmap_over_samples(precision: Precision) -> None:
    features = features_of(MAPS[:3], (5, 7, 1))
    mirror = Mirror(MAPS[:3], (5, 7, 1), precision)
    variables = initialised(mirror, features)
    keys = jax.random.split(jax.random.key(2), 3)

    def energy(variables: Any, features: Any, key: jax.Array) -> jax.Array:
        key_z, key_a = jax.random.split(key)
        vector, address = jax.random.normal(key_z, (4, 10)), jax.random.randint(key_a, (4,), 0, 3)
        logits = mirror.apply(variables, vector, features, address, method=remember)
        return jnp.square(logits).sum()

    def of_samples(variables: Any, features: Any) -> jax.Array:
        return jax.vmap(energy, (None, None, 0))(variables, features, keys).sum()

    found = jax.jit(jax.grad(of_samples, (0, 1)))(variables, features)
    of_one = jax.jit(jax.grad(energy, (0, 1)))
    one_by_one = [of_one(variables, features, key) for key in keys]
    # A float32 rounded otherwise may become another bfloat16, its neighbour.
    tolerance = {"float32": 3e-6, "bfloat16": 2.0**-7}[precision]
    assert_near(found, jax.tree.map(lambda *each: sum(each), *one_by_one), tolerance)


def test_activations_keep_their_scale() -> None:
    maps = (16,) * 6
    images = (drawn(4, 26, 26, 1) > 1).astype(jnp.float32)

    @jax.jit
    def activations(key: jax.Array) -> Any:
        features, _ = Pyramid(maps).init_with_output(key, images)
        mirror = Mirror(maps, (26, 26, 1))
        vector = jax.random.normal(key, (4, 64))
        address = jnp.arange(4)
        logits, variables = mirror.init_with_output(key, vector, features, address, method=remember)
        return *features, logits, mirror.apply(variables, vector)

    # Every ReLU halves the power.
    for h in activations(jax.random.key(0)):
        assert 0.005 < h.std() < 2, h.std()
