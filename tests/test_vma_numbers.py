"""Variational memory addressing written out in numpy and float64, from the parameters alone."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from memjax import sampling
from memjax.models.vma import VMA
from memjax.types import Batch, Terms, Variables
from tests import tiny
from tests.mem_vae_by_hand import draw_noise, normal_log_prob, wide
from tests.test_vma import batch, keys, vma

B, M, K = 3, 5, 100
HARD: dict[str, dict[str, Any]] = {
    "memory normalised": {},
    "inner, flat prior": {"similarity": "inner", "prior": "flat", "skips": False},
    "cosine": {"similarity": "cosine"},
    "learned": {"memory": "learned", "memory_size": M, "memory_units": 4},
}
OTHER: dict[str, dict[str, Any]] = {
    "soft": {"addressing": "soft"},
    "soft, cosine": {"addressing": "soft", "similarity": "cosine", "skips": False},
    "none": {"addressing": "none"},
}


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def variables(model: VMA, given: Batch) -> Variables:
    """With large weights and small biases, so that entries, more than biases, decide."""
    shapes = jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), given))
    generator = np.random.default_rng(2)

    def drawn(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(generator.normal(0, 0.7 if leaf.ndim > 1 else 0.2, leaf.shape))

    return jax.tree.map(drawn, shapes)


def kl_of_normals(mean: Any, log_variance: Any, of_prior: Any, log_variance_of_prior: Any) -> Any:
    ratio = (np.exp(log_variance) + (mean - of_prior) ** 2) / np.exp(log_variance_of_prior)
    return 0.5 * (log_variance_of_prior - log_variance + ratio - 1).sum(axis=-1)


class ByHand:
    """The dense networks of one VMA, its targets and its memory."""

    def __init__(self, model: VMA, of: Variables, given: Batch):
        self.model, self.params = model, wide(of["params"])
        self.networks = self.params["networks"]
        self.x, context = (wide(i).reshape(len(i), -1) for i in (given.images, given.context))
        self.entries = self.params.get("memory", context)

    def mlp(self, name: str, h: np.ndarray) -> np.ndarray:
        for i in range(len(layers := self.networks[name])):
            layer = layers[f"Dense_{i}"]
            h = (np.maximum(h, 0) if i else h) @ layer["kernel"] + layer["bias"]
        return h

    def log_probabilities(self, query: np.ndarray) -> np.ndarray:
        embedded = self.mlp("key", self.entries)
        scores = query @ embedded.T
        if self.model.similarity != "inner":
            scores /= np.linalg.norm(embedded, axis=-1)
        if self.model.similarity == "cosine":
            scores /= np.linalg.norm(query, axis=-1, keepdims=True)
        return log_softmax(scores, axis=-1)

    def addresses(self) -> tuple[np.ndarray, np.ndarray]:
        """log q(a | x) and log p(a)."""
        log_q = self.log_probabilities(self.mlp("query", self.x))
        if self.model.prior == "flat":
            return log_q, np.full(M, -np.log(M))
        return log_q, self.log_probabilities(self.params["prior_query"])[0]

    def posterior(self, entry_share: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
        first = self.mlp("posterior_of_image", self.x) + entry_share
        mean, log_variance = np.split(self.mlp("posterior_rest", np.maximum(first, 0)), 2, axis=-1)
        return mean, log_variance

    def log_likelihood(self, z: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """Of z and of the parts `[K, B, M]` that entries have in what is read."""
        h = self.mlp("decoder_of_latent", z)
        if weights is not None:
            h += weights @ self.mlp("decoder_of_entry", self.entries)
        for i in range(len(self.model.hidden)):
            layer = self.networks[f"decoder_rest_{i}"]
            h = np.maximum(h, 0) @ layer["kernel"] + layer["bias"]
            if weights is not None and self.model.skips:
                h += weights @ self.entries @ self.networks[f"skip_layers_{i}"]["kernel"]
        return (self.x * h - np.logaddexp(0, h)).sum(axis=-1)

    def hard_terms(self, noise: np.ndarray, address: np.ndarray) -> Terms:
        log_q, log_p = self.addresses()
        chosen, zero = self.entries[address], np.zeros(address.shape)
        mean, log_variance = self.posterior(self.mlp("posterior_of_entry", chosen))
        prior = np.split(self.mlp("prior", chosen), 2, axis=-1)
        z = mean + np.exp(log_variance / 2) * noise
        log_score = log_q[np.arange(B), address]
        kl_address = (np.exp(log_q) * (log_q - log_p)).sum(axis=-1) + zero
        kl_latent = kl_of_normals(mean, log_variance, *prior)
        # Which entries are used is asked of learned ones alone, in training.
        used = {"posterior": np.exp(log_q) + zero[..., None]} if "memory" in self.params else {}
        return Terms(
            log_likelihood=self.log_likelihood(z, np.eye(M)[address]),
            log_prior=log_p[address] + normal_log_prob(z, *prior),
            log_posterior=log_score + normal_log_prob(z, mean, log_variance),
            log_score=log_score,
            kl=kl_address + kl_latent,
            penalty=zero,
            diagnostics={
                "kl_address": kl_address,
                "kl_latent": kl_latent,
                "entropy_prior": -(np.exp(log_p) * log_p).sum() + zero,
                **used,
            },
            reparameterised=False,
        )

    def other_terms(self, noise: np.ndarray) -> Terms:
        mean, log_variance = self.posterior()
        z = mean + np.exp(log_variance / 2) * noise
        weights = None
        if self.model.addressing == "soft":
            weights = np.exp(self.log_probabilities(self.mlp("latent_query", z)))
        zero = np.zeros(z.shape[:-1])
        kl = kl_of_normals(mean, log_variance, 0.0, 0.0) + zero
        return Terms(
            log_likelihood=self.log_likelihood(z, weights),
            log_prior=normal_log_prob(z, 0.0, np.zeros(z.shape)),
            log_posterior=normal_log_prob(z, mean, log_variance),
            log_score=zero,
            kl=kl,
            penalty=zero,
            diagnostics={"kl_latent": kl},
        )


def both(**fields: Any) -> tuple[ByHand, np.ndarray, Any]:
    """By hand, the noise of K samples, and what finds the module's Terms at given addresses."""
    model, given = vma(hidden=(8, 6), **fields), batch(B, M)
    of, drawn = variables(model, given), keys(given, K)

    @tiny.quick_jit
    def found(*address: jax.Array) -> Terms:
        encoding = model.apply(of, given, True, method="encode")

        def one(keys: jax.Array, *address: jax.Array) -> Terms:
            return model.apply(of, given, encoding, keys, True, *address, method="terms")

        return jax.vmap(one)(drawn, *address)

    return ByHand(model, of, given), draw_noise(drawn, model.latent), found


def assert_equal(found: Terms, expected: Terms) -> None:
    def one(path: Any, expected: np.ndarray, found: jax.Array) -> None:
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12, err_msg=name)

    # The same diagnostics, too, and the same answer to whether all is reparameterised.
    jax.tree_util.tree_map_with_path(one, expected, found)


@pytest.mark.parametrize("name", ["memory normalised", "learned"])
def test_terms_at_every_address(name: str) -> None:
    by_hand, noise, found = both(**HARD[name])
    address = np.add.outer(np.arange(K), np.arange(B)) % M
    drawn = by_hand.hard_terms(noise, address)
    # A forced address has no log q(a | x).
    of_latent = drawn.log_posterior - drawn.log_score
    expected = drawn.replace(log_posterior=of_latent, log_score=np.zeros((K, B)))
    assert_equal(found(jnp.asarray(address)), expected)


@pytest.mark.parametrize("fields", HARD.values(), ids=HARD)
def test_terms_of_drawn_addresses(fields: dict[str, Any]) -> None:
    by_hand, noise, found = both(**fields)
    drawn = found()
    # The score says which address was drawn: all terms have to be those of it.
    log_q, _ = by_hand.addresses()
    address = np.abs(wide(drawn.log_score)[..., None] - log_q).argmin(axis=-1)
    assert set(np.unique(address)) == set(range(M))
    assert_equal(drawn, by_hand.hard_terms(noise, address))


@pytest.mark.parametrize("fields", OTHER.values(), ids=OTHER)
def test_terms_without_addresses(fields: dict[str, Any]) -> None:
    by_hand, noise, found = both(**fields)
    assert_equal(found(), by_hand.other_terms(noise))
