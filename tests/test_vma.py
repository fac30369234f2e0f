"""Variational memory addressing: exact answers where the addresses can be summed out."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import bounds, evaluation, objectives, sampling
from memjax.errors import InputError
from memjax.models.vma import VMA
from memjax.types import Batch, Terms, Variables
from tests import tiny

SHAPE = (3, 2, 1)
M, B, K = 3, 2, 3
MODELS: dict[str, dict[str, Any]] = {
    "episode": {},
    "learned": {"memory": "learned", "memory_size": M, "memory_units": 5},
    "blocks": {"memory": "learned", "memory_size": M, "memory_units": 5, "block_size": 1},
    "learned keys": {"memory": "learned", "memory_size": M, "embeddings": "learned"},
    "flat prior": {"prior": "flat"},
    "cosine": {"similarity": "cosine"},
    "inner": {"similarity": "inner"},
}


def vma(**fields: Any) -> VMA:
    return VMA(**{"image_shape": SHAPE, "hidden": (5, 4), "latent": 2, "matching": 3, **fields})


def batch(size: int = B, entries: int = M) -> Batch:
    drawn = np.random.default_rng(0).integers(0, 2, (size + entries, *SHAPE))
    images = jnp.asarray(drawn, jnp.float32)
    return Batch(images[:size], jnp.arange(size), context=images[size:])


@pytest.fixture
def wide() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def variables(model: VMA, given: Batch) -> Variables:
    """Large enough that addresses, similarities and images differ."""
    shapes = jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), given))
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(0, 0.7, leaf.shape)), shapes)


def keys(given: Batch, num_samples: int = K) -> jax.Array:
    return sampling.sample_keys(jax.random.key(2), given.index, jnp.arange(num_samples))


def terms_at(
    model: VMA, of: Variables, given: Batch, address: jax.Array, noise: Any = None
) -> tuple[Terms, Any]:
    """Terms of K samples at addresses `[K, B]`, and log q(a | x) of these addresses."""
    encoding = model.apply(of, given, True, method="encode")
    log_q, _ = model.apply(of, given, encoding, method="address_log_probs")
    score = jnp.take_along_axis(log_q[None], address[..., None], axis=-1)[..., 0]

    def one(keys: jax.Array, address: jax.Array) -> Terms:
        return model.apply(of, given, encoding, keys, True, address, method="terms")

    forced = jax.vmap(one)(keys(given) if noise is None else noise, address)
    return forced.replace(log_posterior=forced.log_posterior + score, log_score=score), score


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("baseline", ["arithmetic", "geometric"])
@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_the_expected_estimator_is_the_gradient_of_the_expected_bound(
    fields: dict[str, Any], baseline: bounds.Baseline
) -> None:
    model, given = vma(**fields), batch()
    given = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.ndim == 4 else leaf, given)
    start = variables(model, given)
    # All outcomes of K addresses, the same for each example: they do not meet in the bound.
    outcomes = jnp.array(list(itertools.product(range(M), repeat=K)))
    addresses = jnp.broadcast_to(outcomes[..., None], (*outcomes.shape, B))

    def expected_bound(of: Variables) -> jax.Array:
        def one(address: jax.Array) -> jax.Array:
            terms, score = terms_at(model, of, given, address)
            return jnp.exp(score.sum(axis=0)) * bounds.iwae_bound(terms.log_weights)

        return jax.vmap(one)(addresses).sum()

    def estimated(of: Variables) -> jax.Array:
        def one(address: jax.Array) -> jax.Array:
            terms, score = terms_at(model, of, given, address)
            probability = jax.lax.stop_gradient(jnp.exp(score.sum(axis=0)))
            return probability * objectives.vimco(terms, baseline)

        return jax.vmap(one)(addresses).sum()

    value, gradient = tiny.quick_jit(jax.value_and_grad(expected_bound))(start)
    found_value, found = tiny.quick_jit(jax.value_and_grad(estimated))(start)
    np.testing.assert_allclose(found_value, value, rtol=1e-12)

    def assert_equal(path: Any, expected: jax.Array, found: jax.Array) -> None:
        assert expected.dtype == jnp.float64
        # A softmax does not see a constant, so that some of these are zero but for rounding.
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12, err_msg=str(path))

    jax.tree_util.tree_map_with_path(assert_equal, gradient, found)
    assert sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(gradient)) > 1


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_terms_of_drawn_addresses_are_those_of_forced_ones(fields: dict[str, Any]) -> None:
    model, given = vma(**fields), batch()
    start = variables(model, given)
    drawn, _ = tiny.terms_and_statistics(model, start, given, keys(given, 40), False)
    encoding = model.apply(start, given, True, method="encode")
    log_q, log_p = model.apply(start, given, encoding, method="address_log_probs")
    np.testing.assert_allclose(jnp.exp(log_q).sum(axis=-1), 1)
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1)
    # q(a | x) tells the addresses apart, so that log_score says which one was drawn.
    distance = jnp.abs(drawn.log_score[..., None] - log_q[None])
    address = jnp.argmin(distance, axis=-1)
    np.testing.assert_allclose(jnp.min(distance, axis=-1), 0, atol=1e-9)
    assert set(np.unique(address)) == set(range(M))
    every = jax.vmap(
        lambda keys, a: model.apply(start, given, encoding, keys, True, a, method="terms")
    )(keys(given, 40), address)
    np.testing.assert_allclose(every.log_likelihood, drawn.log_likelihood)
    np.testing.assert_allclose(every.log_prior, drawn.log_prior)
    np.testing.assert_allclose(every.log_posterior + drawn.log_score, drawn.log_posterior)
    assert not drawn.reparameterised
    np.testing.assert_array_equal(every.log_score, 0)
    kl = jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)
    np.testing.assert_allclose(drawn.diagnostics["kl_address"], jnp.broadcast_to(kl, (40, B)))
    np.testing.assert_allclose(
        drawn.kl, drawn.diagnostics["kl_address"] + drawn.diagnostics["kl_latent"]
    )


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"embeddings": "learned"},
        {"prior": "flat"},
        {"kind": "convolutional", "similarity": "cosine"},
    ],
)
def test_blocks_change_nothing_but_how_addresses_are_drawn(fields: dict[str, Any]) -> None:
    sizes = {"memory": "learned", "memory_size": 12, "memory_units": 5, "maps": (8, 8)}
    blocks, whole = vma(**sizes, **fields, block_size=4), vma(**sizes, **fields)
    given = batch()
    start = variables(whole, given)
    shared = set(blocks.shared_parameters)
    assert shared and not whole.shared_parameters
    in_blocks = dict(start["params"])
    for name in shared & in_blocks.keys():
        in_blocks[name] = in_blocks[name].reshape(3, 4, *in_blocks[name].shape[1:])

    def drawn(params: Any) -> tuple[jax.Array, tuple[Terms, jax.Array]]:
        of = {"params": params}
        terms, _ = sampling.sample_terms(blocks, of, given, keys(given, 20), False)
        encoding = blocks.apply(of, given, True, method="encode")
        log_q, _ = blocks.apply(of, given, encoding, method="address_log_probs")
        return objectives.vimco(terms).sum(), (terms, log_q)

    (value, (terms, log_q)), gradient = tiny.quick_jit(jax.value_and_grad(drawn, has_aux=True))(
        in_blocks
    )
    distance = jnp.abs(terms.log_score[..., None] - log_q)
    address = jnp.argmin(distance, axis=-1)
    np.testing.assert_allclose(jnp.min(distance, axis=-1), 0, atol=1e-9)
    assert len(np.unique(address)) > 6

    def forced(params: Any) -> tuple[jax.Array, Terms]:
        terms, _ = terms_at(whole, {"params": params}, given, address, keys(given, 20))
        return objectives.vimco(terms).sum(), terms

    (expected_value, expected), whole_gradient = tiny.quick_jit(
        jax.value_and_grad(forced, has_aux=True)
    )(start["params"])
    np.testing.assert_allclose(value, expected_value, rtol=1e-9)
    for name in ("kl_address", "kl_latent", "entropy_prior"):
        found = terms.diagnostics[name]
        np.testing.assert_allclose(found, expected.diagnostics[name], rtol=1e-9, err_msg=name)
    for name, leaf in jax.tree.map(np.asarray, gradient).items():
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(
                np.reshape(one, other.shape), other, rtol=1e-5, atol=1e-6
            ),
            leaf,
            whole_gradient[name],
        )


@pytest.mark.usefixtures("wide")
def test_the_joint_estimate_approaches_the_sum_over_addresses_from_below() -> None:
    model, given = vma(latent=1), batch()
    # Smaller, so that q(z | x, m) is no worse than a broad proposal.
    start = jax.tree.map(lambda leaf: leaf / 2, variables(model, given))
    key = jax.random.key(3)
    exact = tiny.quick_jit(evaluation.sum_over_addresses, static_argnums=(0, 4, 5))(
        model, start, given, key, 20_000, 1_000
    )
    weights = tiny.quick_jit(evaluation.log_weights, static_argnums=(0, 4, 5))(
        model, start, given, key, 60_000, 1_000
    )
    means = [bounds.iwae_bound(weights.reshape(k, -1)).reshape(-1, B).mean(axis=0) for k in (1, 10)]
    whole = bounds.iwae_bound(weights)
    np.testing.assert_allclose(whole, exact, atol=0.03)
    assert (means[0] < means[1]).all() and (means[1] < exact + 0.01).all()


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_reading_the_drawn_entries_alone_changes_nothing(kind: Any) -> None:
    model, given = vma(kind=kind, maps=(3, 3)), batch(entries=K * B + 1)
    start = variables(model, given)

    def bound(of: Variables, model: VMA) -> tuple[jax.Array, Terms]:
        terms, _ = sampling.sample_terms(model, of, given, keys(given), True)
        return objectives.vimco(terms).sum(), terms

    gradient = tiny.quick_jit(jax.grad(bound, has_aux=True), static_argnums=1)
    found = gradient(start, model.clone(batch_axes=("samples",))), gradient(start, model)
    near = 1e-8 if kind == "dense" else 1e-4  # convolutions are in float32
    for late, early in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(late, early, rtol=near, atol=near)


@pytest.mark.parametrize(("entries", "early"), [(K * B, True), (K * B + 1, False)])
def test_a_step_reads_all_entries_or_the_drawn_ones(entries: int, early: bool) -> None:
    model, given = vma(batch_axes=("samples",)), batch(entries=entries)
    start = variables(model, given)

    def encoding(_: jax.Array) -> Any:
        return model.apply(start, given, True, method="encode")

    found = jax.eval_shape(jax.vmap(encoding, axis_name="samples"), jnp.zeros(K))
    assert (found.memory.reading is not None) == early


@pytest.mark.parametrize("addressing", ["soft", "none"])
def test_other_addressing_is_reparameterised(addressing: Any) -> None:
    model, given = vma(addressing=addressing), batch()
    terms, _ = tiny.terms_and_statistics(model, variables(model, given), given, keys(given), True)
    assert terms.reparameterised
    np.testing.assert_array_equal(terms.log_score, 0)
    objectives.pathwise(terms)
    with pytest.raises(InputError, match=r"found .*, expected hard"):
        model.apply(
            variables(model, given),
            given,
            model.apply(variables(model, given), given, True, method="encode"),
            method="address_log_probs",
        )


def test_dense_networks_mix_pixels_and_features_alike() -> None:
    # Their first layer is linear and attention sums to one.
    given = batch()
    features, pixels = vma(addressing="soft"), vma(addressing="soft", blended="pixels")
    start = variables(features, given)
    for found, expected in zip(
        jax.tree.leaves(tiny.terms_and_statistics(features, start, given, keys(given), True)),
        jax.tree.leaves(tiny.terms_and_statistics(pixels, start, given, keys(given), True)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_shared_embeddings_find_the_very_image(kind: Any) -> None:
    fields = {"kind": kind, "maps": (3, 3), "embeddings": "shared", "similarity": "cosine"}
    model, given = vma(**fields), batch()
    given = given.replace(images=given.context[1:])
    start = variables(model, given)
    encoding = model.apply(start, given, True, method="encode")
    log_q, _ = model.apply(start, given, encoding, method="address_log_probs")
    np.testing.assert_array_equal(jnp.argmax(log_q, axis=-1), [1, 2])
    assert "key" not in start["params"]["networks"]


def test_same_class_is_the_probability_of_the_targets_class() -> None:
    model, given = vma(), batch()
    given = given.replace(labels=jnp.array([4, 9]), context_labels=jnp.array([9, 4, 9]))
    start = variables(model, given)
    terms, _ = tiny.terms_and_statistics(model, start, given, keys(given), True)
    encoding = model.apply(start, given, True, method="encode")
    q = jnp.exp(model.apply(start, given, encoding, method="address_log_probs")[0])
    expected = jnp.array([q[0, 1], q[1, 0] + q[1, 2]])
    np.testing.assert_allclose(terms.diagnostics["same_class"][0], expected, rtol=1e-6)


def test_no_parameter_is_without_use() -> None:
    given = batch()
    # Cosines keep the softmax from being 0 or 1.
    conv = {"kind": "convolutional", "maps": (8, 8), "similarity": "cosine"}
    others = ({"addressing": "soft"}, {"addressing": "none"}, {"memory": "learned"})
    for fields in ({}, *others, {"skips": False}, conv, conv | {"skips": False}):
        model = vma(**fields)
        start = variables(model, given)

        def value(of: Variables, model: VMA = model) -> jax.Array:
            terms, _ = sampling.sample_terms(model, of, given, keys(given), True)
            surrogate = objectives.pathwise if terms.reparameterised else objectives.vimco
            return surrogate(terms).sum()

        gradient = tiny.quick_jit(jax.grad(value))(start)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert jnp.any(leaf != 0) or "bias" in str(path), (fields, path)


def test_a_learned_memory_starts_at_its_scale() -> None:
    model = vma(memory="learned", memory_size=200, memory_units=50, memory_scale=0.3)
    of = tiny.initialise(model, jax.random.key(0), batch())
    found = np.asarray(of["params"]["memory"])
    assert found.shape == (200, 50)
    np.testing.assert_allclose(found.std(), 0.3 * np.sqrt(200), rtol=0.05)


@pytest.mark.parametrize(
    ("fields", "context", "message"),
    [
        ({}, None, r"^Batch.context: found None, expected the memory's images"),
        ({}, (4, 2, 2, 1), r"^Batch.context: found images \(2, 2, 1\), expected \(3, 2, 1\)"),
        ({"memory_size": 0}, (3, *SHAPE), r"^model.memory_size: found 0, expected at least 1"),
        ({"kind": "convolutional", "maps": (0,)}, (3, *SHAPE), r"^model.maps: found \(0,\)"),
        ({"memory_scale": -1.0}, (3, *SHAPE), r"^model.memory_scale: found -1.0"),
        ({"hidden": ()}, (3, *SHAPE), r"^model.hidden: found \(\), expected at least one layer"),
        (
            {"embeddings": "shared", "memory": "learned"},
            (3, *SHAPE),
            "^model.embeddings: found shared, expected separate",
        ),
        ({"image_shape": None}, (3, *SHAPE), r"^model.image_shape: found None"),
    ],
)
def test_what_is_refused(fields: Any, context: Any, message: str) -> None:
    given = batch().replace(context=None if context is None else jnp.zeros(context))
    with pytest.raises(InputError, match=message):
        sampling.initialise(vma(**fields), jax.random.key(0), given)


def test_a_dominating_weight_leaves_everything_finite() -> None:
    def terms(log_likelihood: jax.Array) -> Terms:
        zeros = jnp.zeros((4, 1))
        return Terms(log_likelihood, zeros, zeros, log_likelihood / 1e4, zeros, zeros)

    start = jnp.array([[0.0], [1e4], [-1e4], [3.0]])
    for baseline in ("arithmetic", "geometric"):
        value, gradient = jax.value_and_grad(
            lambda at, baseline=baseline: objectives.vimco(terms(at), baseline).sum()
        )(start)
        assert math.isclose(value, 1e4 - math.log(4), rel_tol=1e-6)
        assert jnp.isfinite(gradient).all()


def test_vimco_needs_two_samples() -> None:
    zeros = jnp.zeros((1, 4))
    with pytest.raises(InputError, match="objective vimco: found num_samples 1, expected at least"):
        objectives.Vimco(1)(Terms(zeros, zeros, zeros, zeros, zeros, zeros))
