"""Residual sections: from an image down to a vector, and back up to an image.

A section halves or doubles the sides of its images, by a strided convolution and blocks
x <- f(x + conv(x)) behind it; a shortcut, pooled or resized, is added to what comes out. There is
no padding and no bias: a blank image gives zeros.

Source: the code of Generative Matching Networks (Bartunov and Vetrov 2016).
"""

import math

import flax.linen as nn
import jax

from memjax.convolution import Size, convolve, upsampled_convolution
from memjax.errors import InputError
from memjax.nn import PReLU, Weights
from memjax.products import Precision, matmul
from memjax.types import Array

STRIDE = 2


def section_sizes(kernels: tuple[int, ...], image_shape: tuple[int, int, int]) -> tuple[Size, ...]:
    """(H, W) of the image and of the output of each section.

    Raises:
        InputError: a section that leaves nothing.
    """
    height, width, _ = image_shape
    sizes = [(height, width)]
    for kernel in kernels:
        height, width = ((side - kernel) // STRIDE + 1 for side in (height, width))
        sizes.append((height, width))
    if not kernels or min(kernels) < 1 or min(min(size) for size in sizes) < 1:
        raise InputError(
            f"model.kernels: found {kernels}, expected sections that leave a pixel or more of "
            f"images {image_shape}"
        )
    return tuple(sizes)


class Block(nn.Module):
    """f(x + conv(x)), where f is a `PReLU`.

    Attributes:
        kernel: taps along each axis.
        precision: of the products.
    """

    kernel: int
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> `[B, H, W, C]`."""
        shape = (self.kernel, self.kernel, x.shape[-1], x.shape[-1])
        weights = Weights(shape, normed=True)()
        return PReLU()(x + convolve(x, weights, precision=self.precision))


class Section(nn.Module):
    """One section of a pyramid or of its mirror.

    Attributes:
        maps: E, of its output.
        kernel: taps of the strided convolution, and of the pool, along each axis.
        block_kernel: taps of the blocks.
        blocks: how many there are.
        size: (H, W) of the output of a section that goes up; None goes down.
        precision: of the products.

    The convolution of the shortcut is 1x1. It is linear, as pool and resizing are, and so comes
    where the image is small. Resizing is bilinear between the centres of pixels; the authors'
    version of it is half a pixel off.
    """

    maps: int
    kernel: int
    block_kernel: int
    blocks: int = 2
    size: Size | None = None
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> `[B, *, *, E]`."""
        channels, window = x.shape[-1], (self.kernel, self.kernel)
        weights = Weights((*window, channels, self.maps), gain=2.0)()
        if self.size is None:
            h = convolve(x, weights, STRIDE, self.precision, "VALID")
        else:
            h = upsampled_convolution(x, weights, self.size, self.precision, "VALID")
        h = PReLU()(h)
        for _ in range(self.blocks):
            h = Block(self.block_kernel, self.precision)(h)
        shortcut = Weights((channels, self.maps), normed=True)()
        if self.size is None:
            x = nn.avg_pool(x, window, (STRIDE, STRIDE))
        x = matmul(x, shortcut, self.precision)
        if self.size is not None:
            x = jax.image.resize(x, (len(x), *self.size, self.maps), "bilinear", antialias=False)
        return x + h


class ResidualPyramid(nn.Module):
    """From images to vectors: 28 -> 13 -> 6 -> 3.

    Attributes:
        maps: of each section, from the image up.
        kernels: taps of their strided convolutions.
        block_kernels: taps of their blocks.
        blocks: of a section.
        precision: of the products.
    """

    maps: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    blocks: int = 2
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """`[B, H, W, C]` -> `[B, D]`."""
        h = images
        for maps, kernel, taps in zip(self.maps, self.kernels, self.block_kernels, strict=True):
            h = Section(maps, kernel, taps, self.blocks, precision=self.precision)(h)
        return h.reshape(len(h), -1)


class ResidualMirror(nn.Module):
    """A `ResidualPyramid` upside down, from vectors to logits: 3 -> 6 -> 13 -> 28.

    Attributes:
        image_shape: (H, W, C).
        features: maps of the coarsest image, which the vector is.
        maps: of each section, from the image up.
        kernels: of the pyramid.
        block_kernels: of the pyramid.
        blocks: of a section.
        precision: of the products.
    """

    image_shape: tuple[int, int, int]
    features: int
    maps: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    blocks: int = 2
    precision: Precision = "float32"

    @property
    def units(self) -> int:
        """D, of the vectors that it takes."""
        return self.features * math.prod(section_sizes(self.kernels, self.image_shape)[-1])

    @nn.compact
    def __call__(self, vectors: Array) -> Array:
        """`[B, D]` -> `[B, H, W, C]`."""
        *sizes, coarsest = section_sizes(self.kernels, self.image_shape)
        h = vectors.reshape(len(vectors), *coarsest, self.features)
        for i in reversed(range(len(sizes))):
            h = Section(
                self.maps[i],
                self.kernels[i],
                self.block_kernels[i],
                self.blocks,
                sizes[i],
                self.precision,
            )(h)
        return matmul(h, Weights((h.shape[-1], self.image_shape[-1]))(), self.precision)
