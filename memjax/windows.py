"""Windows of attention on an image: a grid of Gaussians that reads a patch, or writes one.

Source: Gregor, Danihelka, Graves, Rezende and Wierstra 2015 (DRAW), section 3.2.
"""

import flax.struct
import jax
import jax.numpy as jnp

from memjax.types import Array

NUM_PARAMETERS = 5
LARGEST = 20.0  # a stride of exp(20) in variances of exp(-20) is still a number


@flax.struct.dataclass
class Window:
    """Where N x N Gaussians look, one window for each example.

    Attributes:
        rows: `[B, N, H]`, the weights of the image's rows; each sums to one.
        columns: `[B, N, W]`, those of its columns.
        intensity: `[B]`, gamma.
    """

    rows: Array
    columns: Array
    intensity: Array


def window(parameters: Array, size: int, height: int, width: int) -> Window:
    """The window that five numbers ask for.

    Args:
        parameters: `[B, 5]`: the centre's x and y, from -1 to 1 on the image; log variance, log
            stride (0 covers the longer side) and log intensity.
        size: N.
        height: of the image.
        width: of the image.

    Source: equations 19 to 26. A softmax normalises the rows of the filterbank, so that a variance
    near zero, or a window beside the image, weighs the nearest pixel instead of nothing.
    """
    # Beyond these bounds a window sees one pixel, or weighs it by more than float32 can tell.
    parameters = jnp.clip(parameters, -LARGEST, LARGEST)
    x, y, log_variance, log_stride, log_intensity = jnp.split(parameters, NUM_PARAMETERS, axis=-1)
    stride = (max(height, width) - 1) / max(size - 1, 1) * jnp.exp(log_stride)
    return Window(
        rows=filterbank((height + 1) / 2 * (y + 1), stride, log_variance, size, height),
        columns=filterbank((width + 1) / 2 * (x + 1), stride, log_variance, size, width),
        intensity=jnp.exp(log_intensity[:, 0]),
    )


def filterbank(centre: Array, stride: Array, log_variance: Array, size: int, length: int) -> Array:
    """N Gaussians over the pixels 1 to A of one axis.

    Args:
        centre: `[B, 1]`, of the whole bank, in pixels.
        stride: `[B, 1]`, between the Gaussians, in pixels.
        log_variance: `[B, 1]`, of each Gaussian, in squared pixels.
        size: N.
        length: A.

    Returns:
        `[B, N, A]`; sums over the last axis are one.
    """
    means = centre + (jnp.arange(1, size + 1) - size / 2 - 0.5) * stride
    distances = jnp.square(jnp.arange(1, length + 1) - means[..., None])
    precisions = jnp.exp(-log_variance)
    return jax.nn.softmax(-0.5 * distances * precisions[..., None])


def read(window: Window, images: Array) -> Array:
    """The patch `[B, N, N, C]` that a window sees of images `[B, H, W, C]`, times its intensity."""
    patch = _between(window.rows, images, window.columns)
    return window.intensity[:, None, None, None] * patch


def write(window: Window, patch: Array) -> Array:
    """A patch `[B, N, N, C]` as an image `[B, H, W, C]`, divided by the window's intensity."""
    rows, columns = (jnp.swapaxes(bank, 1, 2) for bank in (window.rows, window.columns))
    return _between(rows, patch, columns) / window.intensity[:, None, None, None]


def _between(rows: Array, images: Array, columns: Array) -> Array:
    # Small products: full precision costs nothing here.
    return jnp.einsum("bih,bhwc,bjw->bijc", rows, images, columns, precision="float32")
