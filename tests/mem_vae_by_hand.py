"""MEM-VAE written out in numpy and float64, for equality with the module."""

import functools
import math
from typing import Any

import jax
import numpy as np

from memjax.models.mem_vae import MemVAE
from memjax.types import Batch, Terms, Variables

Rows = np.ndarray  # [..., D]


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def sigmoid(x: Rows) -> Rows:
    return 1 / (1 + np.exp(-x))


def normal_log_prob(x: Rows, mean: Any, log_variance: Any) -> Rows:
    squares = (x - mean) ** 2 / np.exp(log_variance)
    return -0.5 * (math.log(2 * math.pi) + log_variance + squares).sum(axis=-1)


def standardised(h: Rows, epsilon: float) -> Rows:
    """Over all rows: examples, and samples where there are any."""
    rows = tuple(range(h.ndim - 1))
    return (h - h.mean(axis=rows)) / np.sqrt(h.var(axis=rows) + epsilon)


def draw_noise(keys: jax.Array, latent: int, other: bool = False) -> np.ndarray:
    """`[K, B]` keys -> `[K, B, D]`, the noise of the bound or that of the local error."""
    return wide(_draw_noise(keys, latent, other))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw_noise(keys: jax.Array, latent: int, other: bool) -> jax.Array:
    def one(key: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, 1) if other else key, (latent,))

    return jax.vmap(jax.vmap(one))(keys)


class ByHand:
    """The networks of one MemVAE; layers are ordered from the image up."""

    def __init__(self, model: MemVAE, variables: Variables, train: bool = False):
        self.model = model
        self.params = wide(variables["params"])
        self.stats = wide(variables["batch_stats"])
        self.train = train

    def dense(self, name: str, h: Rows) -> Rows:
        return h @ self.params[name]["kernel"] + self.params[name]["bias"]

    def hidden(self, name: str, h: Rows) -> tuple[Rows, Rows]:
        p, model = self.params[name], self.model
        h = h @ p["dense"]["kernel"] + p["dense"]["bias"]
        if not model.batch_norm:
            return np.maximum(h, 0), h
        if self.train:
            normalised = standardised(h, model.batch_norm_epsilon)
        else:
            kept = self.stats[name]["norm"]
            normalised = (h - kept["mean"]) / np.sqrt(kept["variance"] + model.batch_norm_epsilon)
        return np.maximum(normalised * p["scale"] + p["shift"], 0), normalised

    def encode(self, images: np.ndarray) -> tuple[Rows, Rows, list[Rows]]:
        h, normalised = wide(images).reshape(len(images), -1), []
        for i in range(len(self.model.hidden)):
            h, before = self.hidden(f"recognition_{i}", h)
            normalised.append(before)
        return (
            self.dense("posterior_mean", h),
            self.dense("posterior_log_variance", h),
            normalised,
        )

    def decode(self, z: Rows) -> list[Rows]:
        outputs, h = [], z
        for i in reversed(range(len(self.model.hidden))):
            h, _ = self.hidden(f"generative_{i}", h)
            if self.model.slots and self.model.slots[i]:
                h = self.with_memory(i, h)
            outputs.append(h)
        return outputs[::-1]

    def with_memory(self, i: int, h_g: Rows) -> Rows:
        model, p = self.model, self.params[f"memory_{i}"]
        scores = h_g @ p["slot_keys"] + p["slot_bias"]
        exponentials = np.exp(scores)
        softmax = exponentials / exponentials.sum(axis=-1, keepdims=True)
        h_m = (sigmoid(scores) if model.attention == "sigmoid" else softmax) @ p["slots"]
        if i in model.disabled:
            h_m = np.zeros_like(h_m) if model.composition == "sum" else np.ones_like(h_m)
        composed = h_g + h_m if model.composition == "sum" else self.compose(i, h_g, h_m)
        return np.maximum(composed, 0) if model.rectify_composition else composed

    def compose(self, i: int, g: Rows, m: Rows) -> Rows:
        p = self.params[f"compose_{i}"]
        (a1, a2, a3, a4), (c1, c2, c3, c4) = p["a"], p["c"]
        a = a1 + a2 * m + a3 * g + a4 * g * m
        return a + p["b"] * sigmoid(c1 + c2 * m + c3 * g + c4 * g * m)

    def image_log_prob(self, h: Rows, images: np.ndarray) -> Rows:
        x, mean = wide(images).reshape(len(images), -1), self.dense("image_mean", h)
        if self.model.likelihood == "bernoulli":
            return (x * mean - np.logaddexp(0, mean)).sum(axis=-1)
        return normal_log_prob(x, mean, self.dense("image_log_variance", h))

    def draw(self, keys: jax.Array, mean: Rows, log_variance: Rows, other: bool = False) -> Rows:
        noise = draw_noise(keys, self.model.latent, other)
        return mean + np.exp(0.5 * log_variance) * noise

    def terms(self, batch: Batch, keys: jax.Array) -> Terms:
        mean, log_variance, normalised = self.encode(batch.images)
        z = self.draw(keys, mean, log_variance)
        kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=-1)
        layers = self.decode(z)
        if self.model.local_noise == "independent":
            other = self.decode(self.draw(keys, mean, log_variance, other=True))
        else:
            other = layers
        zero = np.zeros(z.shape[:-1])
        return Terms(
            log_likelihood=self.image_log_prob(layers[0], batch.images),
            log_prior=normal_log_prob(z, 0.0, np.zeros_like(z)),
            log_posterior=normal_log_prob(z, mean, log_variance),
            log_score=zero,
            kl=kl + zero,
            penalty=self.local_error(normalised, other) + zero if self.train else zero,
            diagnostics={"kl_latent": kl + zero},
        )

    def local_error(self, normalised: list[Rows], layers: list[Rows]) -> Rows:
        """`[B]`, from normalised `[B, D]` and layers `[K, B, D]`."""
        model, error = self.model, np.zeros(len(normalised[0]))
        for i, weight in enumerate(model.local_reconstruction):
            recognised = normalised[i]
            if not model.batch_norm:
                recognised = standardised(recognised, model.batch_norm_epsilon)
            generated = standardised(layers[i], model.batch_norm_epsilon).mean(axis=0)
            squares = (recognised - generated) ** 2
            reduced = squares.mean(axis=-1) if model.local_reduction == "mean" else squares.sum(-1)
            error += weight * reduced
        return error
