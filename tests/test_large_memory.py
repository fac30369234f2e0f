"""A memory in blocks, on one device and on several: the same as one product of matrices."""

import os
import subprocess
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from memjax.errors import InputError
from memjax.large_memory import Slots, read
from memjax.memory import Addresses, Similarity, similarity
from memjax.types import Array

QUERIES, UNITS, BLOCKS, SIZE = 16, 8, 16, 10
KINDS: list[Similarity] = ["memory_normalised", "inner", "cosine"]
AXIS = "devices"


class Inputs(NamedTuple):
    """Of a loss; those that have gradients come first."""

    prior_query: Array
    query: Array
    keys: Array
    entries: Array
    noise: Array
    weights: Array

    def on(self, devices: int) -> "Inputs":
        """The share of each of so many devices, `[N, ...]`."""
        shared = [of.reshape(devices, -1, *of.shape[1:]) for of in self[1:]]
        return Inputs(jnp.stack([self.prior_query] * devices), *shared)


def inputs() -> Inputs:
    generator = np.random.default_rng(0)
    slots = BLOCKS * SIZE
    shapes = (1, UNITS), (QUERIES, UNITS), (slots, UNITS), (slots, 3, 2), (QUERIES,)
    *given, weights = (jnp.asarray(generator.normal(size=of), jnp.float32) for of in shapes)
    return Inputs(*given, noise(QUERIES), weights)


def noise(count: int) -> Array:
    """A key for each of so many."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(count))


def loss(posterior: Any, prior: Any, slot: Array, contents: Array, weights: Array) -> Any:
    """Something that has gradients of all that it is made of, and what it is made of."""
    log_q, log_p = posterior.log_probability(slot), prior.log_probability(slot)
    values = weights * log_q**2 + jnp.sin(contents).sum((1, 2)) * log_q - log_q * log_p
    entropy = jnp.broadcast_to(prior.entropy(), slot.shape)
    return values.sum(), (slot, log_q, log_p, contents, posterior.kl(prior), entropy)


gradients = partial(jax.value_and_grad, argnums=(0, 1, 2, 3), has_aux=True)


def of_blocks(*given: Array, kind: Any, axis: Any) -> Any:
    """The loss at slots that are drawn."""
    of = Inputs(*given)
    slots = Slots(of.keys.reshape(-1, SIZE, UNITS), kind, axis=axis)
    posterior, prior = slots.match(of.query, of.prior_query)
    slot = posterior.draw(of.noise)
    return loss(posterior, prior, slot, read(of.entries, slot, axis), of.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_the_whole_softmax(kind: Similarity) -> None:
    given = inputs()
    (_, aux), found = gradients(partial(of_blocks, kind=kind, axis=None))(*given)
    slot = aux[0]

    def of_one_product(*given: Array) -> Any:
        of = Inputs(*given)
        posterior, prior = (
            Addresses(jax.nn.log_softmax(similarity(query, of.keys, kind, "float32")))
            for query in (of.query, of.prior_query)
        )
        return loss(posterior, prior, slot, of.entries[slot], of.weights)

    (_, expected_aux), expected = gradients(of_one_product)(*given)
    for one, other in zip((*aux, *found), (*expected_aux, *expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)
    assert len(set(np.asarray(slot).tolist())) > 3 and np.ptp(slot) > SIZE


@pytest.mark.parametrize("kind", KINDS)
def test_several_devices_are_one(kind: Similarity) -> None:
    given, count = inputs(), len(jax.devices())
    (value, aux), expected = gradients(partial(of_blocks, kind=kind, axis=None))(*given)
    mapped = jax.pmap(gradients(partial(of_blocks, kind=kind, axis=AXIS)), axis_name=AXIS)
    (values, found_aux), (of_prior, *found) = mapped(*given.on(count))
    np.testing.assert_allclose(values.sum(), value, rtol=1e-5)
    np.testing.assert_allclose(of_prior.sum(0), expected[0], rtol=1e-4, atol=2e-5)
    together = [of.reshape(-1, *of.shape[2:]) for of in (*found_aux, *found)]
    np.testing.assert_array_equal(together[0], aux[0])
    for one, other in zip(together[1:], (*aux[1:], *expected[1:]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_eight_devices_are_one() -> None:
    """In a process of its own, which has as many."""
    program = (
        "from tests import test_large_memory as test; import jax; assert len(jax.devices()) == 8; "
        "test.test_several_devices_are_one('memory_normalised')"
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **flags}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("of_prior", [False, True])
def test_draws_are_exact(of_prior: bool) -> None:
    of = inputs()
    slots = Slots(2 * of.keys.reshape(BLOCKS, SIZE, UNITS), "inner")
    query = of.prior_query if of_prior else of.query[:1]
    # p(a) is one row for any number of draws.
    chosen = slots.match(of.query[:1], of.prior_query)[of_prior]
    count = 40_000
    found = np.bincount(chosen.draw(noise(count)), minlength=len(of.keys))
    scores = np.asarray(similarity(query, 2 * of.keys, "inner", "float32"), np.float64)[0]
    expected = count * special.softmax(scores)
    often = expected >= 5
    rare = [of[~often].sum() for of in (found, expected)]
    observed = np.append(found[often], rare[0])
    assert stats.chisquare(observed, np.append(expected[often], rare[1])).pvalue > 1e-3


def test_slots_without_probability_are_not_drawn() -> None:
    keys = jnp.full((4, 5, 1), -1e9).at[2, 3].set(1e9)
    posterior, _ = Slots(keys, "inner").match(jnp.ones((100, 1)), jnp.zeros((1, 1)))
    slot = posterior.draw(noise(100))
    np.testing.assert_array_equal(slot, 13)
    np.testing.assert_array_equal(posterior.log_probability(slot), 0)


def test_a_query_of_nothing_is_a_flat_prior() -> None:
    of = inputs()
    for kind in KINDS:
        slots = Slots(of.keys.reshape(-1, SIZE, UNITS), kind)
        _, prior = slots.match(of.query, jnp.zeros((1, UNITS)))
        np.testing.assert_allclose(prior.entropy(), np.log(len(of.keys)), rtol=1e-6)
        np.testing.assert_allclose(prior.log_probabilities, -np.log(len(of.keys)), rtol=1e-6)


def test_what_is_told_of_addresses_has_no_gradient() -> None:
    of = inputs()

    def told(*given: Array) -> Array:
        prior_query, query, keys = given
        posterior, prior = Slots(keys.reshape(-1, SIZE, UNITS)).match(query, prior_query)
        return (posterior.kl(prior) + posterior.entropy() + prior.entropy()).sum()

    value, found = jax.value_and_grad(told, (0, 1, 2))(of.prior_query, of.query, of.keys)
    assert value > 0
    for one in found:
        np.testing.assert_array_equal(one, 0)


def test_matching_has_the_precision_it_is_given() -> None:
    of = inputs()
    blocks = of.keys.reshape(-1, SIZE, UNITS)
    exact, rounded = (
        Slots(blocks, "inner", precision).match(of.query, of.prior_query)[0].sums.log
        for precision in ("float32", "bfloat16")
    )
    scores = similarity(of.query, of.keys, "inner", "bfloat16").reshape(QUERIES, -1, SIZE)
    np.testing.assert_allclose(rounded, special.logsumexp(scores, axis=-1), rtol=1e-5, atol=1e-5)
    assert np.max(np.abs(rounded - exact)) > 1e-3


def test_the_gradient_keeps_no_probabilities() -> None:
    """They are computed again, block by block."""
    blocks, size, queries = 64, 128, 64

    def loss(keys: Array, query: Array) -> Array:
        return Slots(keys).match(query, jnp.zeros((1, UNITS)))[0].sums.log.sum()

    shapes = ((blocks, size, UNITS), (queries, UNITS))
    compiled = jax.jit(jax.grad(loss)).lower(*map(jnp.zeros, shapes)).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 4 * blocks * size * queries / 2


def test_probabilities_of_all_are_refused_on_several_devices() -> None:
    def every(*given: Array) -> Array:
        of = Inputs(*given)
        slots = Slots(of.keys.reshape(-1, SIZE, UNITS), axis=AXIS)
        return slots.match(of.query, of.prior_query)[0].log_probabilities

    with pytest.raises(InputError, match=r"^model.block_size: found .*, expected one"):
        jax.pmap(every, axis_name=AXIS)(*inputs().on(len(jax.devices())))
