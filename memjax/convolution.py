"""Convolutions: at a stated precision, up to an exact size, a 3x3 pyramid and its mirror."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from memjax.errors import InputError
from memjax.nn import Dense
from memjax.products import Precision
from memjax.types import Array

Size = tuple[int, int]
Padding = Literal["SAME", "VALID"]

KERNEL = 3  # taps of the layers' kernels along each axis


def convolve(
    x: Array,
    kernel: Array,
    stride: int = 1,
    precision: Precision = "float32",
    padding: Padding = "SAME",
) -> Array:
    """A convolution at a precision that no backend chooses.

    Args:
        x: `[B, H, W, C]` float32.
        kernel: `[K, L, C, E]` float32.
        stride: s.
        precision: of the product and of both its gradients, see `products.matmul`. XLA computes
            bfloat16 convolutions in float32 on CPUs, which is then no faster.
        padding: `SAME` puts zeros around the image, as many on both sides or one more behind;
            `VALID` none.

    Returns:
        `[B, ceil(H / s), ceil(W / s), E]` float32, without zeros around the image
        `[B, floor((H - K) / s) + 1, floor((W - L) / s) + 1, E]`.
    """
    zeros = _zeros(x.shape[1:3], kernel, stride, padding)
    return _convolution(x, kernel, _Window(zeros, stride=stride), precision)


def upsampled_convolution(
    x: Array,
    kernel: Array,
    size: Size,
    precision: Precision = "float32",
    padding: Padding = "SAME",
) -> Array:
    """A transposed convolution of stride 2, in the form that the backend runs fastest.

    It is the transpose of `convolve` with stride 2 from images of this very size, with the two
    channel axes of the kernel exchanged: y[2i + t - p] sums x[i] kernel[t], where p counts the
    zeros in front of the image. With 3x3 taps it is 0 to an even size and 1 to an odd one, with
    padding `VALID` always 0. A pixel so falls where the pyramid had taken it from.

    Args:
        x: `[B, H, W, C]` float32.
        kernel: `[K, L, C, E]` float32.
        size: of the output, 2H or 2H - 1 by 2W or 2W - 1; with padding `VALID` 2H + K - 2 or
            2H + K - 1 by 2W + L - 2 or 2W + L - 1, of which a last row or column that no tap
            reaches is zero.
        precision: see `products.matmul`.
        padding: of the convolution that it is the transpose of.

    Returns:
        `[B, *size, E]` float32.
    """
    for axis, low, high, taps in zip("HW", x.shape[1:3], size, kernel.shape[:2], strict=True):
        least = 2 * low - 1 if padding == "SAME" else 2 * low + taps - 2
        if high not in (least, least + 1):
            raise InputError(f"size: found {axis} {high}, expected {least} or {least + 1}")
    form = subpixel_convolution if jax.default_backend() == "cpu" else transposed_convolution
    return form(x, kernel, size, precision, padding)


def transposed_convolution(
    x: Array, kernel: Array, size: Size, precision: Precision, padding: Padding = "SAME"
) -> Array:
    """`upsampled_convolution` as a convolution of the image with zeros between its pixels."""
    around = []
    for axis, (in_front, _) in enumerate(_zeros(size, kernel, 2, padding)):
        taps, low = kernel.shape[axis], x.shape[1 + axis]
        before = taps - 1 - in_front
        around.append((before, size[axis] - 2 * low + taps - before))
    window = _Window(_pairs(around), dilation=2)
    return _convolution(x, kernel[::-1, ::-1], window, precision)


def subpixel_convolution(
    x: Array, kernel: Array, size: Size, precision: Precision, padding: Padding = "SAME"
) -> Array:
    """`upsampled_convolution` as a convolution of half as many taps to four times the channels.

    The four groups of channels are the pixels of a 2x2 block of the output. Of an odd number of
    taps some are zeros, 7 of 16 for 3x3. What lies before the first pixel or behind the last one
    is cut off.
    """
    (batch, *low, channels), features = x.shape, kernel.shape[-1]
    # Pairs of taps along each axis: those of a pixel itself, of the pixel before it, and so on.
    pairs = [-(-taps // 2) for taps in kernel.shape[:2]]
    odd = [2 * m - taps for m, taps in zip(pairs, kernel.shape[:2], strict=True)]
    taps = jnp.pad(kernel, ((0, odd[0]), (0, odd[1]), (0, 0), (0, 0)))
    taps = taps.reshape(pairs[0], 2, pairs[1], 2, channels, features)[::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(*pairs, channels, 4 * features)
    cut = [before for before, _ in _zeros(size, kernel, 2, padding)]
    blocks = [-(-(high + before) // 2) for high, before in zip(size, cut, strict=True)]
    # Zeros behind the image are laid down and not left to the product: with some on both sides XLA
    # on CPUs takes fifty times as long over the gradient of a kernel of two taps.
    behind = [(0, n - h) for n, h in zip(blocks, low, strict=True)]
    x = jnp.pad(x, ((0, 0), *behind, (0, 0)))
    around = [(m - 1, 0) for m in pairs]
    y = _convolution(x, taps, _Window(_pairs(around)), precision)
    y = y.reshape(batch, *blocks, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, 2 * blocks[0], 2 * blocks[1], features)
    return y[:, cut[0] : cut[0] + size[0], cut[1] : cut[1] + size[1]]


def _zeros(
    size: tuple[int, ...], kernel: Array, stride: int, padding: Padding
) -> tuple[Size, Size]:
    """Zeros before and behind an image of this size along each axis."""
    return _pairs(lax.padtype_to_pads(size, kernel.shape[:2], (stride, stride), padding))


class _Window(NamedTuple):
    """Of both axes: zeros around the image, step of the output, distances of pixels and taps."""

    padding: tuple[Size, Size]
    stride: int = 1
    dilation: int = 1
    kernel_dilation: int = 1


def _pairs(padding: list[Size]) -> tuple[Size, Size]:
    first, second = padding
    return first, second


def _product(x: Array, kernel: Array, window: _Window, precision: Precision) -> Array:
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    return lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        window_strides=(window.stride,) * 2,
        padding=window.padding,
        lhs_dilation=(window.dilation,) * 2,
        rhs_dilation=(window.kernel_dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=_LAX_PRECISION[precision],
        preferred_element_type=jnp.float32,
    )


_LAX_PRECISION = {
    "float32": lax.Precision.HIGHEST,
    "tensorfloat32": lax.Precision.HIGH,
    "bfloat16": lax.Precision.DEFAULT,
}


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: Array, kernel: Array, window: _Window, precision: Precision) -> Array:
    return _product(x, kernel, window, precision)


def _forward(
    x: Array, kernel: Array, window: _Window, precision: Precision
) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel, window, precision), (x, kernel)


def _backward(
    window: _Window, precision: Precision, residuals: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    # Two things are wrong with the gradients that jax derives. In bfloat16 they round their
    # results and not their operands. And XLA on CPUs has fast code for [B, H, W, C] alone: other
    # orders it transposes, but not inside a loop, where training runs and where the gradient of
    # a kernel would take fifty times as long.
    x, kernel = residuals
    of_x, of_kernel = [], []
    for axis, (before, _) in enumerate(window.padding):
        pixels = (x.shape[1 + axis] - 1) * window.dilation + 1
        reached = (g.shape[1 + axis] - 1) * window.stride + 1
        taps = kernel.shape[axis]
        of_x.append((taps - 1 - before, pixels - reached + before))
        of_kernel.append((before, taps - 1 + reached - pixels - before))
    gradient_of_x = _product(
        g,
        kernel[::-1, ::-1].swapaxes(2, 3),
        _Window(_pairs(of_x), stride=window.dilation, dilation=window.stride),
        precision,
    )
    window = _Window(_pairs(of_kernel), dilation=window.dilation, kernel_dilation=window.stride)
    return gradient_of_x, _sample_by_sample(partial(_kernel_gradient, window, precision))(x, g)


def _kernel_gradient(window: _Window, precision: Precision, x: Array, g: Array) -> Array:
    """The channels of x take the place of the batch, and the batch that of the channels."""
    y = _product(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), window, precision)
    return y.transpose(1, 2, 0, 3)


def _sample_by_sample(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """Under vmap, one call for each sample, where jax would make one grouped convolution."""
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def unroll(num_samples: int, batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
        each = (
            [a[k] if of_sample else a for a, of_sample in zip(arrays, batched, strict=True)]
            for k in range(num_samples)
        )
        return jnp.stack([mapped(*one) for one in each]), True

    return mapped


_convolution.defvjp(_forward, _backward)


@jax.custom_vjp
def add_bias(y: Array, bias: Array) -> Array:
    """y `[B, H, W, E]` + bias `[E]`, whose gradient CPUs sum in the order that suits them.

    XLA there sums over all axes but the last at once, and computes whatever led to the summands
    anew on the way: ten times as long as rows of whole images' lines first.
    """
    return y + bias


def _add_bias_forward(y: Array, bias: Array) -> tuple[Array, None]:
    return y + bias, None


def _add_bias_backward(_: None, g: Array) -> tuple[Array, Array]:
    if jax.default_backend() != "cpu":
        return g, g.sum(axis=(0, 1, 2))
    lines = lax.optimization_barrier(g).reshape(-1, g.shape[-2] * g.shape[-1])
    line = lax.optimization_barrier(lines.sum(axis=0))
    return g, line.reshape(g.shape[-2:]).sum(axis=0)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


class Convolution(nn.Module):
    """A 3x3 convolution with bias: Glorot-uniform kernel, zero bias.

    Attributes:
        features: E, the number of maps.
        stride: see `convolve`.
        precision: of the products, see `products.matmul`.
        use_bias: whether there is a bias.
    """

    features: int
    stride: int = 1
    precision: Precision = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (KERNEL, KERNEL, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        y = convolve(x, kernel, self.stride, self.precision)
        if not self.use_bias:
            return y
        return add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))


class UpConvolution(nn.Module):
    """A 3x3 transposed convolution of stride 2 with bias, to an exact size.

    The kernel is Glorot-uniform with four times the variance, since a pixel of the output meets
    a quarter of the taps; the bias is zero.

    Attributes:
        features: E, the number of maps.
        size: (H, W) of the output, see `upsampled_convolution`.
        precision: of the products, see `products.matmul`.
    """

    features: int
    size: Size
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (KERNEL, KERNEL, x.shape[-1], self.features)
        initialiser = nn.initializers.variance_scaling(4.0, "fan_avg", "uniform")
        kernel = self.param("kernel", initialiser, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return add_bias(upsampled_convolution(x, kernel, self.size, self.precision), bias)


def layer_shapes(
    maps: tuple[int, ...], image_shape: tuple[int, int, int]
) -> tuple[tuple[int, int, int], ...]:
    """(H, W, C) of the output of each layer of a `Pyramid`."""
    height, width, _ = image_shape
    shapes = []
    for i, features in enumerate(maps):
        height, width = -(-height // _stride(i)), -(-width // _stride(i))
        shapes.append((height, width, features))
    return tuple(shapes)


def _stride(i: int) -> int:
    return 1 + i % 2


class Pyramid(nn.Module):
    """3x3 convolutions with ReLU, stride 2 on every second: 26 -> 13 -> 7 -> 4.

    Attributes:
        maps: of each layer, from the image up.
        precision: of the products, see `products.matmul`.

    Source: Bornschein et al. 2017, section 4.2.
    """

    maps: tuple[int, ...]
    precision: Precision = "float32"

    def setup(self) -> None:
        self.layers = [
            Convolution(features, _stride(i), self.precision)
            for i, features in enumerate(self.maps)
        ]

    def __call__(self, images: Array) -> tuple[Array, ...]:
        """The last maps of each size, which are what the downscaling layers take.

        Args:
            images: `[B, H, W, C]`.

        Returns:
            `[B, H_i, W_i, C_i]` from the finest to the coarsest: with six layers the outputs of
            layers 1, 3, 5 and 6. The last is for dense layers, once it is flattened.
        """
        features = []
        h = images
        for i, layer in enumerate(self.layers):
            if _stride(i) > 1:
                features.append(h)
            h = nn.relu(layer(h))
        return (*features, h)


class Mirror(nn.Module):
    """A `Pyramid` upside down, from a vector to an image, with skips from a pyramid of another.

    Every layer of the pyramid has its counterpart, which takes the shape that the layer gives
    and gives the shape that it takes. A skip enters the upscaling layer, before its ReLU: the
    transposed convolution of h and a convolution of the skip add up, as they would if h, zeros
    between its pixels, and the skip were concatenated. The skip's share is linear and depends on
    the memory image alone: `project` computes it once for each of M images, and each of the
    K * B decoded images adds the one that its address picks.

    Attributes:
        maps: of the pyramid, from the image up.
        image_shape: (H, W, C).
        precision: of the products, see `products.matmul`.

    Source: Bornschein et al. 2017, section 4.2, which leaves open where the skips enter.
    """

    maps: tuple[int, ...]
    image_shape: tuple[int, int, int]
    precision: Precision = "float32"

    def setup(self) -> None:
        *shapes, coarsest = (self.image_shape, *layer_shapes(self.maps, self.image_shape))
        self.coarsest = coarsest
        self.dense = Dense(math.prod(coarsest), self.precision)
        self.layers = [
            UpConvolution(features, (height, width), self.precision)
            if _stride(i) > 1
            else Convolution(features, precision=self.precision)
            for i, (height, width, features) in enumerate(shapes)
        ]
        self.skips = [
            Convolution(features, precision=self.precision, use_bias=False)
            for i, (_, _, features) in enumerate(shapes)
            if _stride(i) > 1
        ]

    def project(self, features: tuple[Array, ...]) -> tuple[Array, ...]:
        """The skips' share of the upscaling layers.

        Args:
            features: `[M, H_i, W_i, C_i]` of a `Pyramid` of the same maps; the coarsest is not
                used, as it reaches the decoder through the vector.

        Returns:
            `[M, H_i, W_i, C_i]` from the finest to the second coarsest.
        """
        return tuple(skip(f) for skip, f in zip(self.skips, features[:-1], strict=True))

    def __call__(self, vector: Array, skips: tuple[Array, ...] | None = None) -> Array:
        """Logits `[B, H, W, C]`.

        Args:
            vector: `[B, D]`.
            skips: `[B, H_i, W_i, C_i]`, what `project` gives, picked by address; none for a
                decoder without memory, which then has no parameters for them.
        """
        h = nn.relu(self.dense(vector)).reshape(-1, *self.coarsest)
        for i in reversed(range(len(self.layers))):
            h = self.layers[i](h)
            if skips is not None and _stride(i) > 1:
                h = h + skips[i // 2]
            if i:
                h = nn.relu(h)
        return h
