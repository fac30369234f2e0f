"""Layers: dense layers, weights, batch normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from memjax.products import Precision, matmul
from memjax.types import Array

Axes = tuple[str, ...]

MOMENTUM = 0.99  # of the moving averages of batch statistics


def over_rows(vector: Array, like: Array) -> Array:
    """A vector `[D]` as it is used with the rows of an array `[..., D]`: one for each on CPUs.

    Its gradient is a sum over rows, and under a vmap over samples too. XLA on CPUs takes five
    times as long for both at once as for one after the other.
    """
    if jax.default_backend() != "cpu":
        return vector
    return lax.optimization_barrier(jnp.broadcast_to(vector, like.shape))


class Dense(nn.Module):
    """A linear layer: Glorot-uniform kernel, zero bias.

    Attributes:
        features: E, the number of outputs.
        precision: of the matrix product, see `matmul`.
        use_bias: whether there is a bias.
    """

    features: int
    precision: Precision = "float32"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        y = matmul(x, kernel, self.precision)
        if not self.use_bias:
            return y
        return y + over_rows(self.param("bias", nn.initializers.zeros, (self.features,)), y)


class Weights(nn.Module):
    """He-normal weights, as a layer of their own that others take them from.

    Attributes:
        shape: inputs and outputs last, `[..., D, E]`.
        gain: variance of an output over the mean square of the inputs: 2 in front of a rectifier.
        normed: the weights are g W / |W|, where |W| is the norm of all of them together and the
            number g is trained too, from 1 on.

    Source: the code of Generative Matching Networks (Bartunov and Vetrov 2016). With one norm for
    each output instead of one for all it would be Salimans and Kingma 2016, equation 2.
    """

    shape: tuple[int, ...]
    gain: float = 1.0
    normed: bool = False

    @nn.compact
    def __call__(self) -> Array:
        """`[*shape]`."""
        initialiser = nn.initializers.variance_scaling(self.gain, "fan_in", "truncated_normal")
        weights = self.param("weights", initialiser, self.shape)
        if not self.normed:
            return weights
        norm = self.param("norm", nn.initializers.ones, ())
        return weights * (norm * lax.rsqrt(jnp.sum(jnp.square(weights))))


def between(limit: float) -> nn.initializers.Initializer:
    """Draws from -limit to limit, all equally likely."""

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

    return draw


class PReLU(nn.Module):
    """max(x, 0) + slope min(x, 0), with a slope for each unit that is nearly zero at first.

    Attributes:
        largest: slope at the start, of either sign.

    Source: He, Zhang, Ren and Sun 2015, equation 1.
    """

    largest: float = 0.01

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., D]` -> `[..., D]`."""
        slope = self.param("slope", between(self.largest), x.shape[-1:])
        return jnp.where(x > 0, x, slope * x)


def batch_moments(x: Array, axes: Axes = ()) -> tuple[Array, Array]:
    """Mean and variance of each unit over the batch and over the named mapped axes.

    Args:
        x: `[B, D]`.
        axes: names of enclosing vmap or pmap axes that belong to the batch.

    Returns:
        mean `[D]`, variance `[D]`. Two passes: E[x^2] - E[x]^2 loses the variance of units whose
        mean is large.
    """
    mean = _mean(x, axes)
    return mean, _mean(jnp.square(x - mean), axes)


def _mean(x: Array, axes: Axes) -> Array:
    local = jnp.mean(x, axis=0)
    # Apart from each other these are two short sums, see `over_rows`.
    return lax.pmean(lax.optimization_barrier(local), axes) if axes else local


def normalise(x: Array, moments: tuple[Array, Array], epsilon: float) -> Array:
    """(x - mean) / sqrt(variance + epsilon)."""
    mean, variance = moments
    return (x - over_rows(mean, x)) * over_rows(lax.rsqrt(variance + epsilon), x)


class BatchNorm(nn.Module):
    """Batch normalisation without scale and shift, over samples and devices if they are named.

    In training it normalises by the statistics of the batch and keeps their moving average in
    `batch_stats`; otherwise it normalises by what `batch_stats` holds.

    Attributes:
        axes: names of mapped axes that belong to the batch.
        epsilon: added to the variance.
        momentum: of the moving average; 0 keeps the statistics of the last batch alone.

    Source: Ioffe and Szegedy, Batch normalization, 2015, algorithm 1.
    """

    axes: Axes = ()
    epsilon: float = 1e-10
    momentum: float = MOMENTUM

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        features = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        variance = self.variable("batch_stats", "variance", jnp.ones, features)
        if not train:
            return normalise(x, (mean.value, variance.value), self.epsilon)
        moments = batch_moments(x, self.axes)
        if not self.is_initializing():
            keep = self.momentum
            mean.value = keep * mean.value + (1 - keep) * moments[0]
            variance.value = keep * variance.value + (1 - keep) * moments[1]
        return normalise(x, moments, self.epsilon)


class Hidden(nn.Module):
    """Dense -> batch norm -> scale and shift -> ReLU, or Dense -> ReLU without norm.

    Attributes:
        features: D, the number of units.
        batch_norm: whether to normalise.
        axes: names of mapped axes that belong to the batch.
        epsilon: of batch norm.
        momentum: of the moving averages.
        precision: of the matrix product.
    """

    features: int
    batch_norm: bool = True
    axes: Axes = ()
    epsilon: float = 1e-10
    momentum: float = MOMENTUM
    precision: Precision = "float32"

    def setup(self) -> None:
        self.dense = Dense(self.features, self.precision)
        if self.batch_norm:
            self.norm = BatchNorm(self.axes, self.epsilon, self.momentum)
            self.scale = self.param("scale", nn.initializers.ones, (self.features,))
            self.shift = self.param("shift", nn.initializers.zeros, (self.features,))

    def __call__(self, x: Array, train: bool, record: bool = True) -> tuple[Array, Array]:
        """The layer's output and its normalised pre-activation.

        Args:
            x: `[B, D_in]`.
            train: normalise by the batch (True) or by the kept statistics (False).
            record: False normalises a training batch without moving the kept statistics, for
                a second pass over the same layer.

        Returns:
            output `[B, D]`, and `[B, D]` before scale, shift and activation.
        """
        h = self.dense(x)
        if not self.batch_norm:
            return nn.relu(h), h
        if train and not record:
            normalised = normalise(h, batch_moments(h, self.axes), self.epsilon)
        else:
            normalised = self.norm(h, train)
        return nn.relu(normalised * over_rows(self.scale, h) + over_rows(self.shift, h)), normalised
