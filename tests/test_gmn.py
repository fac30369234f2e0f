"""Generative matching networks: episodes and sets are one computation, and no order matters."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import objectives, sampling
from memjax.errors import InputError
from memjax.models.gmn import GMN
from memjax.types import Batch, Terms, Variables
from tests import tiny

SHAPE = (6, 5, 1)
T, EPISODES = 3, 2
B = T * EPISODES


def gmn(**fields: Any) -> GMN:
    small: dict[str, Any] = {"episode_length": T, "latent": 3, "state": 4, "matching": 5}
    small |= {"prior_hidden": 6, "maps": (3,), "decoder_maps": (2,), "blocks": 1}
    small |= {"kernels": (4,), "block_kernels": (3,), "image_shape": SHAPE}
    return GMN(**(small | fields))


def batch(size: int = B) -> Batch:
    drawn = np.random.default_rng(0).integers(0, 2, (size, *SHAPE))
    return Batch(jnp.asarray(drawn, jnp.float32), 10 + jnp.arange(size))


def variables(model: GMN, given: Batch, seed: int = 1) -> Variables:
    """Large enough that images, sets and attention differ."""
    shapes = jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), given))
    generator = np.random.default_rng(seed)

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = generator.normal(0, 0.5, leaf.shape)
        # An attention that is as sharp as it can be says nothing of its strength.
        is_strength = "strength" in str(path) and path[-1].key == "bias"
        return jnp.asarray(values + 2 * is_strength, jnp.float32)

    return jax.tree_util.tree_map_with_path(drawn, shapes)


def terms(model: GMN, of: Variables, given: Batch) -> Terms:
    keys = sampling.sample_keys(jax.random.key(2), given.index, jnp.arange(2))
    return tiny.terms_and_statistics(model, of, given, keys, True)[0]


@functools.partial(tiny.quick_jit, static_argnums=(0, 4))
def by_encoding(model: GMN, of: Variables, given: Batch, keys: jax.Array, method: str) -> Any:
    encoding = model.apply(of, given, False, method="encode")
    return encoding, model.apply(of, given, encoding, keys, method=method)


def part(given: Batch, chosen: Any) -> Batch:
    return Batch(given.images[chosen], given.index[chosen])


def assert_near(found: Any, expected: Any) -> None:
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(f, e, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "fields",
    [{}, {"hops": 2, "prior_hops": 0, "pseudo_inputs": 2, "similarity": "cosine"}],
)
def test_an_episode_is_one_set_after_the_other(fields: dict[str, Any]) -> None:
    model, given = gmn(**fields), batch()
    of = variables(model, given)
    whole = terms(model, of, given)
    assert whole.reparameterised and set(whole.diagnostics) == {"kl_latent"}
    np.testing.assert_array_equal(whole.log_score, 0)
    for t in (0, T - 1):
        # In the second episode, so that the first is seen not to matter.
        context = given.images[T : T + t]
        alone = terms(model, of, part(given, slice(T + t, T + t + 1)).replace(context=context))
        assert_near(alone, jax.tree.map(lambda leaf, t=t: leaf[:, T + t : T + t + 1], whole))
    # Neighbours see different sets, and it shows.
    assert jnp.unique(jnp.round(whole.diagnostics["kl_latent"][0], 3)).size == B


def test_targets_do_not_see_each_other_nor_the_order_of_their_set() -> None:
    model, given = gmn(), batch()
    of = variables(model, given)
    targets, context = part(given, slice(0, 2)), given.images[2:]
    found = terms(model, of, targets.replace(context=context))
    assert_near(terms(model, of, targets.replace(context=context[::-1])), found)
    one = part(targets, slice(1, 2)).replace(context=context)
    assert_near(terms(model, of, one), jax.tree.map(lambda leaf: leaf[:, 1:], found))
    other = terms(model, of, targets.replace(context=context.at[0].set(1 - context[0])))
    assert jnp.abs(other.log_weights - found.log_weights).max() > 1e-3


def test_terms_by_hand() -> None:
    model, given = gmn(), batch()
    of = variables(model, given)
    found = terms(model, of, given)
    keys = sampling.example_keys(jax.random.key(2), given.index, 1)
    encoding, means = by_encoding(model, of, given, keys, "reconstruct")
    noise = np.stack([jax.random.normal(key, (model.latent,)) for key in keys])
    q, p = encoding.posterior, encoding.prior
    z = q.mean + q.scale * noise

    def log_normal(at: Any) -> jax.Array:
        whitened = (z - at.mean) / at.scale
        return (-0.5 * whitened**2 - jnp.log(at.scale) - 0.5 * np.log(2 * np.pi)).sum(axis=-1)

    assert_near((found.log_posterior[1], found.log_prior[1]), (log_normal(q), log_normal(p)))
    ratio = (q.scale**2 + (q.mean - p.mean) ** 2) / p.scale**2
    kl = (jnp.log(p.scale / q.scale) + 0.5 * (ratio - 1)).sum(axis=-1)
    assert_near((found.kl[0], found.diagnostics["kl_latent"][1]), (kl, kl))
    x = given.images
    expected = (x * jnp.log(means) + (1 - x) * jnp.log1p(-means)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found.log_likelihood[1], expected, rtol=1e-4)


def test_no_parameter_is_without_use() -> None:
    model, given = gmn(pseudo_inputs=2), batch()

    @tiny.quick_jit
    def gradient(of: Variables) -> Variables:
        def value(of: Variables) -> jax.Array:
            keys = sampling.sample_keys(jax.random.key(2), given.index, jnp.arange(1))
            found, _ = sampling.sample_terms(model, of, given, keys, True)
            return objectives.Pathwise()(found).mean()

        return jax.grad(value)(of)

    found = gradient(variables(model, given))
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert jnp.isfinite(leaf).all() and jnp.any(leaf != 0), path
    # One memory image gives the shapes of all of them.
    blank = sampling.blank_batch(SHAPE)
    shapes = jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), blank))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(lambda leaf: leaf.shape, shapes)


def test_images_from_the_prior() -> None:
    model, given = gmn(), batch()
    of, key = variables(model, given), jax.random.key(3)
    context = given.images[:3]
    found = tiny.generate(model, of, key, 5, context).means
    assert found.shape == (5, *SHAPE) and ((found > 0) & (found < 1)).all()
    assert_near(tiny.generate(model, of, key, 5, context[::-1]).means, found)
    # No set at all and an empty one.
    alone = tiny.generate(model, of, key, 5).means
    assert jnp.abs(alone - found).max() > 1e-3
    assert_near(tiny.generate(model, of, key, 5, context[:0]).means, alone)
    again = tiny.reconstruct(model, of, given, key)
    assert again.shape == given.images.shape
    keys = sampling.example_keys(key, given.index)
    features = by_encoding(model, of, given, keys, "activations")[1]["features"]
    assert features.shape == (B, 2 * 1 * 3)


@pytest.mark.parametrize(
    ("fields", "size", "context", "message"),
    [
        ({}, 4, None, "^Batch.images: found 4 images without a context, expected whole episodes"),
        ({}, 2, (3, 5, 6, 1), r"^Batch.context: found images \(5, 6, 1\), expected \(6, 5, 1\)"),
        ({"image_shape": None}, 3, None, "^model.image_shape: found None"),
        ({"episode_length": 0}, 3, None, "^model.episode_length: found 0, expected at least 1"),
        ({"hops": -1}, 3, None, "^model.hops: found -1, expected at least 0"),
        ({"pseudo_inputs": 0}, 3, None, "^model.pseudo_inputs: found 0, expected at least 1"),
        (
            {"maps": (2, 2)},
            3,
            None,
            r"^model.maps: found \(2, 2\), expected a number of at least 1 for",
        ),
        ({"decoder_maps": (0,)}, 3, None, r"^model.decoder_maps: found \(0,\), expected"),
        ({"kernels": (7,)}, 3, None, r"^model.kernels: found \(7,\), expected sections"),
    ],
)
def test_what_is_refused(fields: Any, size: int, context: Any, message: str) -> None:
    given = batch(size).replace(context=None if context is None else jnp.zeros(context))
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: sampling.initialise(gmn(**fields), jax.random.key(0), given))


def test_the_default_is_the_authors_network() -> None:
    model = GMN(image_shape=(28, 28, 1))
    shapes = jax.eval_shape(
        lambda: sampling.initialise(
            model, jax.random.key(0), Batch(jnp.zeros((10, 28, 28, 1)), jnp.arange(10))
        )
    )["params"]
    layers = {name: shapes[name] for name in ("pyramid", "mirror")}
    strided = [
        layers[name][f"Section_{i}"]["Weights_0"]["weights"].shape
        for name in layers
        for i in range(3)
    ]
    assert strided[:3] == [(4, 4, 1, 16), (3, 3, 16, 32), (2, 2, 32, 32)]
    assert strided[3:] == [(2, 2, 32, 32), (3, 3, 32, 16), (4, 4, 16, 16)]
    assert shapes["reader"]["pseudo_values"].shape == (1, 288)
    assert shapes["reader"]["match"]["Weights_0"]["weights"].shape == (288, 200)
    assert shapes["reader"]["cell"]["gates"]["Weights_0"]["weights"].shape == (688, 400)
    assert shapes["decoder_layer"]["Weights_0"]["weights"].shape == (50 + 288 + 200, 288)
    fields = {field.name for field in dataclasses.fields(model)}
    assert fields >= {"image_shape", "precision", "batch_axes"}
