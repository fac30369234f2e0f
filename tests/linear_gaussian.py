"""A model whose posterior and likelihood are known: z ~ N(0, I), x | z ~ N(W z + b, noise^2 I)."""

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

from memjax.types import Array, Batch, Generated, Terms, Variables

LATENT = 4
IMAGE_SHAPE = (2, 3, 1)


@flax.struct.dataclass
class Encoding:
    """q(z | x) = N(mean, (width * factor) (width * factor)^T)."""

    mean: Array  # [B, D]
    factor: Array  # [D, D]


class LinearGaussian(nn.Module):
    """Follows `types.Model`; its q(z | x) is the posterior, `width` times as wide."""

    width: float = 1.5
    noise: float = 0.5
    image_shape: tuple[int, int, int] = IMAGE_SHAPE
    precision: str = "float32"
    batch_axes: tuple[str, ...] = ()

    def setup(self) -> None:
        pixels = math.prod(self.image_shape)
        self.weights = self.param("weights", nn.initializers.normal(1.0), (LATENT, pixels))
        self.bias = self.param("bias", nn.initializers.normal(1.0), (pixels,))

    def encode(self, batch: Batch, train: bool) -> Encoding:
        del train
        x = batch.images.reshape(batch.images.shape[0], -1)
        precision = jnp.eye(LATENT) + self.weights @ self.weights.T / self.noise**2
        covariance = jnp.linalg.inv(precision)
        mean = (x - self.bias) @ self.weights.T @ covariance / self.noise**2
        return Encoding(mean, jnp.linalg.cholesky(covariance))

    def terms(self, batch: Batch, encoding: Encoding, keys: Array, train: bool) -> Terms:
        del train
        factor = self.width * encoding.factor
        noise = self._noise(keys)
        z = encoding.mean + noise @ factor.T
        x = batch.images.reshape(batch.images.shape[0], -1)
        error = (x - self._decode(z)) / self.noise
        log_prior = _standard_normal(z)
        log_posterior = _standard_normal(noise) - jnp.sum(jnp.log(jnp.diag(factor)))
        return Terms(
            log_likelihood=_standard_normal(error) - x.shape[1] * math.log(self.noise),
            log_prior=log_prior,
            log_posterior=log_posterior,
            log_score=jnp.zeros(x.shape[0]),
            kl=log_posterior - log_prior,
            penalty=jnp.zeros(x.shape[0]),
        )

    def reconstruct(self, batch: Batch, encoding: Encoding, keys: Array) -> Array:
        z = encoding.mean + self.width * self._noise(keys) @ encoding.factor.T
        return self._decode(z).reshape(batch.images.shape)

    def generate(self, keys: Array, context: Array | None = None) -> Generated:
        means = self._decode(self._noise(keys)).reshape(-1, *self.image_shape)
        return Generated(means, means)

    def activations(self, batch: Batch, encoding: Encoding, keys: Array) -> dict[str, Array]:
        del batch, keys
        return {"features": encoding.mean}

    def _decode(self, z: Array) -> Array:
        return z @ self.weights + self.bias

    def _noise(self, keys: Array) -> Array:
        return jax.vmap(lambda key: jax.random.normal(key, (LATENT,)))(keys)


def _standard_normal(x: Array) -> Array:
    return -0.5 * jnp.sum(jnp.square(x) + math.log(2 * math.pi), axis=-1)


def log_marginal(model: LinearGaussian, variables: Variables, images: Array) -> np.ndarray:
    """log p(x) of each image in closed form, `[B]`, in float64."""
    weights = np.asarray(variables["params"]["weights"], np.float64)
    bias = np.asarray(variables["params"]["bias"], np.float64)
    covariance = weights.T @ weights + model.noise**2 * np.eye(len(bias))
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    return multivariate_normal(bias, covariance).logpdf(rows)


def gap_of_the_elbo(model: LinearGaussian) -> float:
    """log p(x) minus the ELBO, KL(q || posterior), the same for every image."""
    return LATENT * (0.5 * (model.width**2 - 1) - math.log(model.width))
