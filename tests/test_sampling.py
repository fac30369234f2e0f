"""Samples: their keys, the vmap over them, and estimates of a likelihood that is known."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import bounds, sampling
from memjax.types import Batch

from . import tiny
from .jaxprs import equations
from .linear_gaussian import LinearGaussian, gap_of_the_elbo, log_marginal

MODEL = LinearGaussian(width=1.5)
KEY = jax.random.key(3)


def words(keys: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


bound = jax.jit(bounds.iwae_bound)


@pytest.fixture(scope="module")
def known() -> tuple[Any, Batch, np.ndarray]:
    """Variables of a linear Gaussian model, 64 images drawn from it, and their log p(x)."""
    blank = Batch(jnp.zeros((1, 2, 3, 1)), jnp.zeros(1, jnp.int32))
    variables = tiny.initialise(MODEL, jax.random.key(0), blank)
    means = tiny.generate(MODEL, variables, jax.random.key(1), 64).means
    images = means + MODEL.noise * jax.random.normal(jax.random.key(2), means.shape)
    return variables, Batch(images, jnp.arange(64)), log_marginal(MODEL, variables, images)


@pytest.fixture(scope="module")
def log_weights(known: tuple[Any, Batch, np.ndarray]) -> np.ndarray:
    """`[5000, 64]`."""
    variables, batch, _ = known
    return np.asarray(tiny.terms(MODEL, variables, batch, 5000).log_weights)


def test_five_thousand_samples_find_the_likelihood(
    known: tuple[Any, Batch, np.ndarray], log_weights: np.ndarray
) -> None:
    *_, exact = known
    estimate = bound(log_weights)
    assert abs(estimate.mean() - exact.mean()) < 0.02
    # Var(w) / E(w)^2 = (2.25 / sqrt(3.5))^4 - 1 = 1.09, so an estimate deviates by 0.015.
    assert np.abs(estimate - exact).max() < 5 * np.sqrt(1.09 / 5000)


def test_few_samples_stay_below_the_likelihood(
    known: tuple[Any, Batch, np.ndarray], log_weights: np.ndarray
) -> None:
    *_, exact = known
    # The groups of K among the samples, one beside the other.
    found = {
        number: bound(np.hstack(log_weights.reshape(-1, number, 64))).mean()
        for number in (1, 5, 50)
    }
    assert found[1] < found[5] < found[50] < exact.mean()
    # The ELBO misses by KL(q || posterior), and 50 samples by half of Var(w) / E(w)^2 / 50.
    np.testing.assert_allclose(exact.mean() - found[1], gap_of_the_elbo(MODEL), atol=0.01)
    np.testing.assert_allclose(exact.mean() - found[50], 0.5 * 1.09 / 50, atol=0.005)


def test_the_posterior_itself_needs_one_sample(known: tuple[Any, Batch, np.ndarray]) -> None:
    variables, batch, exact = known
    terms = tiny.terms(LinearGaussian(width=1.0), variables, batch, 3)
    np.testing.assert_allclose(terms.log_weights, np.tile(exact, (3, 1)), rtol=1e-4, atol=1e-4)


def test_a_model_without_batch_norm_has_no_statistics(
    known: tuple[Any, Batch, np.ndarray],
) -> None:
    variables, batch, _ = known
    keys = tiny.keys(batch, 2)
    terms, statistics = tiny.terms_and_statistics(MODEL, variables, batch, keys, True)
    assert terms.log_weights.shape == (2, 64) and not jax.tree.leaves(statistics)


def test_keys_are_functions_of_example_and_sample() -> None:
    index, samples = jnp.array([40, 3, 7]), jnp.array([0, 9])
    found = words(sampling.sample_keys(KEY, index, samples))
    for k, sample in enumerate(samples.tolist()):
        for b, example in enumerate(index.tolist()):
            expected = jax.random.fold_in(jax.random.fold_in(KEY, example), sample)
            np.testing.assert_array_equal(found[k, b], words(expected))


def test_keys_do_not_know_batch_or_chunk() -> None:
    index, samples = jnp.array([40, 3, 7, 12]), jnp.arange(5)
    whole = words(sampling.sample_keys(KEY, index, samples))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(
        words(sampling.sample_keys(KEY, index[order], samples)), whole[:, order]
    )
    np.testing.assert_array_equal(
        words(sampling.sample_keys(KEY, index[:1], samples)), whole[:, :1]
    )
    np.testing.assert_array_equal(words(sampling.sample_keys(KEY, index, samples[3:])), whole[3:])
    np.testing.assert_array_equal(words(sampling.example_keys(KEY, index)), whole[0])


def test_keys_differ() -> None:
    found = words(sampling.sample_keys(KEY, jnp.arange(20), jnp.arange(20))).reshape(400, -1)
    assert len(np.unique(found, axis=0)) == 400


@pytest.mark.parametrize("train", [False, True])
def test_the_encoder_runs_once(train: bool) -> None:
    num_samples = 11  # of which the rows of no other product are a multiple
    model = tiny.mem_vae(batch_axes=("samples",) if train else ())
    variables = tiny.variables(tiny.mem_vae())
    batch = tiny.batch(7)

    def terms(keys: jax.Array) -> Any:
        return sampling.sample_terms(model, variables, batch, keys, train)

    jaxpr = jax.make_jaxpr(terms)(tiny.keys(batch, num_samples)).jaxpr
    shapes = [one.outvars[0].aval.shape for one in equations(jaxpr, "dot_general")]
    found = Counter(rows % num_samples == 0 for rows, _ in shapes)
    # Encoder: two hidden layers, mean, variance. Decoder: two hidden layers, twice attention and
    # reading, image; in training the hidden layers once more, for the local reconstruction.
    assert found[False] == 4
    assert found[True] == (7 + 6 if train else 7)


def test_terms_of_an_encoding_are_those_of_the_batch() -> None:
    model, batch = tiny.mem_vae(), tiny.batch()
    variables, keys = tiny.variables(model), tiny.keys(batch, 3)
    whole, statistics = tiny.terms_and_statistics(model, variables, batch, keys, False)
    encoding = tiny.encode(model, variables, batch)
    again = tiny.quick_jit(sampling.sample_terms_of_encoding, static_argnums=0)(
        model, variables, batch, encoding, keys
    )
    assert jax.tree.all(jax.tree.map(lambda a: a.shape == (3, 7), whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole, again)
    jax.tree.map(np.testing.assert_array_equal, statistics, variables["batch_stats"])


def test_generated_images_are_functions_of_their_number() -> None:
    model = tiny.mem_vae()
    variables = tiny.variables(model)
    few = tiny.generate(model, variables, KEY, 3).means
    many = tiny.generate(model, variables, KEY, 5).means
    np.testing.assert_allclose(many[:3], few, rtol=1e-5)
    assert len(np.unique(np.asarray(many).reshape(5, -1).round(5), axis=0)) == 5
