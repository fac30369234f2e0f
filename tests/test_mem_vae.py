"""MEM-VAE: parameter counts, every term against numpy, and what must not change it."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import configs, sampling
from memjax.errors import InputError
from memjax.models.mem_vae import MemVAE
from memjax.types import Batch, Terms, Variables

from . import tiny
from .mem_vae_by_hand import ByHand, draw_noise, sigmoid, wide

FREY = MemVAE(hidden=(200,), latent=10, slots=(20,), local_reconstruction=(), likelihood="gaussian")
COUNTS = {
    "vae_mnist": (configs.get("vae_mnist").model, (28, 28, 1), 1_440_984),
    "vae530_mnist": (configs.get("vae530_mnist").model, (28, 28, 1), 1_559_184),
    "mem_vae_mnist": (configs.get("mem_vae_mnist").model, (28, 28, 1), 1_550_084),
    "vae_ocr": (configs.get("vae_ocr").model, (16, 8, 1), 163_828),
    "mem_vae_ocr": (configs.get("mem_vae_ocr").model, (16, 8, 1), 207_528),
    "vae_frey": (FREY.clone(slots=()), (28, 20, 1), 344_340),
    "mem_vae_frey": (FREY, (28, 20, 1), 354_160),
}
# Models that between them choose every field that changes a term.
MODELS = {
    "paper": tiny.mem_vae(),
    "vae": tiny.vae(),
    "without norm": tiny.mem_vae(batch_norm=False),
    "large epsilon": tiny.mem_vae(batch_norm_epsilon=0.5),  # as large as the variances
    "gaussian": tiny.mem_vae(likelihood="gaussian"),
    "softmax and sum": tiny.mem_vae(attention="softmax", composition="sum"),
    "bare sum": tiny.mem_vae(composition="sum", rectify_composition=False),
    "one layer": tiny.mem_vae(hidden=(6,), slots=(4,), local_reconstruction=(0.3,)),
    "slots above only": tiny.mem_vae(slots=(0, 3)),
    "disabled": tiny.mem_vae(disabled=(0,)),
}
LOCAL = {
    "code": {},
    "paper": {"local_reduction": "sum"},
    "shared noise": {"local_noise": "shared"},
    "own weights": {"local_reconstruction": (0.7, 0.05)},
    "one layer": {"local_reconstruction": (0.0, 0.4)},
    "without norm": {"batch_norm": False},
    "large epsilon": {"batch_norm_epsilon": 0.5},
    "without slots": {"slots": ()},
}


def assert_close(found: Terms, expected: Terms, rtol: float = 1e-4) -> None:
    for name in ("log_likelihood", "log_prior", "log_posterior", "log_score", "kl", "penalty"):
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("model", "image_shape", "expected"), COUNTS.values(), ids=COUNTS)
def test_parameter_counts(model: MemVAE, image_shape: tuple[int, int, int], expected: int) -> None:
    model = model.clone(image_shape=image_shape)
    batch = Batch(jnp.zeros((2, *image_shape)), jnp.arange(2))
    created = jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), batch))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(created["params"])) == expected


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_terms_by_hand(model: MemVAE) -> None:
    batch, variables = tiny.batch(), tiny.variables(model)
    by_hand = ByHand(model, variables)
    expected = by_hand.terms(batch, tiny.keys(batch, 2))
    found = tiny.terms(model, variables, batch, 2)
    assert_close(found, expected)
    np.testing.assert_array_equal(found.diagnostics["kl_latent"], found.kl)
    assert found.reparameterised
    # The decoder is alive: units that are all rectified to zero would agree with anything.
    z = np.random.default_rng(0).standard_normal((50, model.latent))
    assert all(np.mean(layer != 0) > 0.2 for layer in by_hand.decode(z))


@pytest.mark.parametrize("fields", LOCAL.values(), ids=LOCAL)
def test_training_terms_by_hand(fields: dict[str, Any]) -> None:
    model = tiny.mem_vae(**fields)
    batch, variables = tiny.batch(), tiny.variables(model)
    expected = ByHand(model, variables, train=True).terms(batch, tiny.keys(batch, 3))
    found = tiny.terms(model.clone(batch_axes=("samples",)), variables, batch, 3, train=True)
    assert_close(found, expected, rtol=1e-3)
    assert (found.penalty > 0).all()
    # The samples share the error of their averaged activations.
    np.testing.assert_allclose(found.penalty, jnp.broadcast_to(found.penalty[0], (3, 7)), rtol=1e-5)


def test_training_moves_the_averages_once() -> None:
    # By the first pass through the decoder; the pass for the local error leaves them.
    model = tiny.mem_vae(batch_norm_momentum=0.0, batch_axes=("samples",))
    batch, variables = tiny.batch(), tiny.variables(model)
    keys = tiny.keys(batch, 3)
    _, moved = tiny.terms_and_statistics(model, variables, batch, keys, True)
    by_hand = ByHand(model, variables, train=True)
    mean, log_variance, _ = by_hand.encode(batch.images)
    z = by_hand.draw(keys, mean, log_variance)
    dense = by_hand.params["generative_1"]["dense"]
    before = (z @ dense["kernel"] + dense["bias"]).reshape(-1, 6)
    found = moved["generative_1"]["norm"]
    np.testing.assert_allclose(found["mean"], before.mean(axis=0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["variance"], before.var(axis=0), rtol=1e-3)


def test_penalty_belongs_to_training() -> None:
    model, batch = tiny.mem_vae(), tiny.batch()
    assert not tiny.terms(model, tiny.variables(model), batch, 2).penalty.any()
    without = tiny.mem_vae(local_reconstruction=(), batch_axes=("samples",))
    assert not tiny.terms(without, tiny.variables(without), batch, 2, train=True).penalty.any()


@pytest.mark.parametrize("slot_scale", [0.01, 100.0])
@pytest.mark.parametrize("attention", ["sigmoid", "softmax"])
def test_memory_starts_without_effect(slot_scale: float, attention: Any) -> None:
    # The composition starts as the identity in h_g, so whatever lies in the slots is not seen.
    model = tiny.mem_vae(slot_scale=slot_scale, attention=attention)
    batch = tiny.batch()
    created = tiny.initialise(model, jax.random.key(1), batch)
    kept = {
        name: value
        for name, value in created["params"].items()
        if not name.startswith(("memory", "compose"))
    }
    assert set(kept) < set(created["params"])
    expected = tiny.terms(tiny.vae(), {**created, "params": kept}, batch, 2)
    found = tiny.terms(model, created, batch, 2)
    np.testing.assert_allclose(found.log_weights, expected.log_weights, rtol=1e-6)


def test_slots_of_all_layers_start_at_their_scale() -> None:
    model = tiny.mem_vae(hidden=(200, 100), slots=(400, 300), slot_scale=0.1)
    params = tiny.initialise(model, jax.random.key(2), tiny.batch())["params"]
    for layer in (0, 1):
        # Of 30,000 draws or more the deviation of a sample deviation is 0.4 percent of it.
        np.testing.assert_allclose(jnp.std(params[f"memory_{layer}"]["slots"]), 0.1, rtol=0.02)


@pytest.mark.parametrize(("composition", "read"), [("elementwise_mlp", 1.0), ("sum", 0.0)])
def test_disabled_memory_is_constant(composition: Any, read: float) -> None:
    batch = tiny.batch()
    model = tiny.mem_vae(composition=composition)
    variables = tiny.variables(model)
    # Equal slots that are read with preferences that sum to one give themselves.
    of_equals = model.clone(attention="softmax")
    params = dict(variables["params"])
    for i in (0, 1):
        memory = params[f"memory_{i}"]
        params[f"memory_{i}"] = {**memory, "slots": jnp.full_like(memory["slots"], read)}
    expected = tiny.terms(of_equals, {**variables, "params": params}, batch, 2)
    found = tiny.terms(model.clone(disabled=(0, 1)), variables, batch, 2)
    np.testing.assert_allclose(found.log_weights, expected.log_weights, rtol=1e-5)
    enabled = tiny.terms(model, variables, batch, 2)
    assert np.abs(found.log_weights - enabled.log_weights).max() > 1e-2


def test_encoding_is_free_of_noise() -> None:
    model, batch = tiny.mem_vae(), tiny.batch()
    variables = tiny.variables(model)
    encoding = tiny.encode(model, variables, batch)
    mean, log_variance, normalised = ByHand(model, variables).encode(batch.images)
    np.testing.assert_allclose(encoding.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encoding.log_variance, log_variance, rtol=1e-4, atol=1e-5)
    assert len(encoding.normalised) == 2 and encoding.features.shape == (7, 6)
    for found, expected in zip(encoding.normalised, normalised, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # An example's encoding is its own: another batch around it changes nothing.
    alone = tiny.encode(model, variables, jax.tree.map(lambda leaf: leaf[2:3], batch))
    np.testing.assert_allclose(alone.mean, encoding.mean[2:3], rtol=1e-5, atol=1e-6)


def test_terms_do_not_know_their_batch() -> None:
    model, batch = tiny.mem_vae(), tiny.batch()
    variables = tiny.variables(model)
    whole = tiny.terms(model, variables, batch, 2).log_weights
    order = np.array([4, 0, 6, 2, 5, 1, 3])
    mixed = jax.tree.map(lambda leaf: leaf[order], batch)
    found = tiny.terms(model, variables, mixed, 2).log_weights
    np.testing.assert_allclose(found, whole[:, order], rtol=1e-5)
    part = jax.tree.map(lambda leaf: leaf[3:], batch)
    found = tiny.terms(model, variables, part, 2).log_weights
    np.testing.assert_allclose(found, whole[:, 3:], rtol=1e-5)
    # The noise is that of the example's place in its split: elsewhere it is another.
    moved = dataclasses.replace(batch, index=batch.index + 1)
    assert (tiny.terms(model, variables, moved, 2).log_prior != whole).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_pictures_by_hand(likelihood: Any) -> None:
    model, batch, key = tiny.mem_vae(likelihood=likelihood), tiny.batch(), jax.random.key(5)
    variables = tiny.variables(model)
    by_hand = ByHand(model, variables)

    def means(z: np.ndarray) -> np.ndarray:
        found = by_hand.dense("image_mean", by_hand.decode(z)[0])
        found = sigmoid(found) if likelihood == "bernoulli" else found
        return found.reshape(-1, *tiny.IMAGE_SHAPE)

    generated = tiny.generate(model, variables, key, 9)
    z = draw_noise(sampling.example_keys(key, jnp.arange(9))[None], model.latent)[0]
    np.testing.assert_allclose(generated.means, means(z), rtol=1e-4, atol=1e-5)
    assert generated.means.shape == (9, *tiny.IMAGE_SHAPE) and generated.canvases is None
    reconstructed = tiny.reconstruct(model, variables, batch, key)
    mean, log_variance, _ = by_hand.encode(batch.images)
    keys = sampling.example_keys(key, batch.index)[None]
    z = by_hand.draw(keys, mean, log_variance)[0]
    np.testing.assert_allclose(reconstructed, means(z), rtol=1e-4, atol=1e-5)
    assert reconstructed.shape == batch.images.shape
    if likelihood == "bernoulli":
        assert ((generated.means > 0) & (generated.means < 1)).all()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            tiny.mem_vae(),
            {
                "features": (7, 6),
                "h_g.0": (7, 8),
                "h_a.0": (7, 5),
                "h_m.0": (7, 8),
                "h_g.1": (7, 6),
                "h_a.1": (7, 2),
                "h_m.1": (7, 6),
            },
        ),
        (tiny.vae(), {"features": (7, 6), "h_g.0": (7, 8), "h_g.1": (7, 6)}),
    ],
    ids=["memory", "no slots"],
)
def test_activations(model: MemVAE, expected: dict[str, tuple[int, int]]) -> None:
    batch, variables = tiny.batch(), tiny.variables(model)

    @tiny.quick_jit
    def activations(variables: Variables) -> dict[str, jax.Array]:
        encoding = model.apply(variables, batch, False, method="encode")
        keys = tiny.keys(batch, 1)[0]
        return model.apply(variables, batch, encoding, keys, method="activations")

    found = activations(variables)
    assert {name: value.shape for name, value in found.items()} == expected
    if "h_a.0" in expected:
        memory = wide(variables["params"]["memory_0"])
        preferences = sigmoid(wide(found["h_g.0"]) @ memory["slot_keys"] + memory["slot_bias"])
        np.testing.assert_allclose(found["h_a.0"], preferences, rtol=1e-4)
        np.testing.assert_allclose(found["h_m.0"], preferences @ memory["slots"], rtol=1e-3)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("size", [80.0, 1e4])
def test_loss_is_finite_at_extreme_logits(likelihood: Any, size: float) -> None:
    model = tiny.mem_vae(likelihood=likelihood, batch_axes=("samples",))
    variables, batch = tiny.variables(model), tiny.batch()
    signs = jnp.where(jnp.arange(12) % 2 == 0, size, -size)
    params = dict(variables["params"])
    params["image_mean"] = {**params["image_mean"], "bias": signs}
    if likelihood == "gaussian" and size < 1e3:
        # Variances from exp(-80) up; beyond that the density itself leaves float32.
        params["image_log_variance"] = {**params["image_log_variance"], "bias": jnp.abs(signs)}

    found = tiny.training_gradient(model, params, variables["batch_stats"], batch, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_equal_images_are_no_trouble() -> None:
    # Their units have no variance: normalisation divides by the root of epsilon.
    model = tiny.mem_vae(batch_axes=("samples",))
    variables = tiny.variables(model)
    batch = Batch(jnp.ones((4, *tiny.IMAGE_SHAPE)), jnp.arange(4))

    found = tiny.training_gradient(model, variables["params"], variables["batch_stats"], batch, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_shape": None}, r"model.image_shape: found None, expected \(H, W, C\)"),
        ({"hidden": ()}, r"model.hidden.*found \(\).*at least one hidden layer"),
        ({"hidden": (8, 0)}, r"model.hidden.*found \(8, 0\).*positive"),
        ({"latent": 0}, r"model.latent: found .*, 0, expected positive"),
        ({"slots": (3,)}, r"model.slots: found \(3,\), expected nothing or 2 values"),
        ({"slots": (3, -1)}, r"model.slots: found \(3, -1\), expected .* at least 0"),
        (
            {"local_reconstruction": (0.1, 0.1, 0.1)},
            r"model.local_reconstruction: found .* expected nothing or 2 values",
        ),
        ({"local_reconstruction": (0.1, -0.1)}, r"model.local_reconstruction: found .* at least 0"),
        ({"disabled": (2,)}, r"model.disabled: found \(2,\), expected .* slots, of \(0, 1\)"),
        ({"disabled": (1,), "slots": (3, 0)}, r"model.disabled: found \(1,\), expected .*\(0,\)"),
        ({"disabled": (0,), "slots": ()}, r"model.disabled: found \(0,\), expected .* of \(\)"),
        ({"local_reconstruction": (0.1, math.nan)}, r"model.local_reconstruction: found .*nan"),
        ({"slot_scale": -0.01}, r"model.slot_scale: found -0.01, expected at least 0"),
        ({"batch_norm_epsilon": math.nan}, r"model.batch_norm_epsilon: found nan"),
        ({"batch_norm_momentum": 1.0}, r"model.batch_norm_momentum: found 1.0, .* less than 1"),
        ({"disabled": (-1,)}, r"model.disabled: found \(-1,\)"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    model = tiny.mem_vae(**fields)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), tiny.batch()))


# ---- slots as images


@pytest.mark.parametrize("composition", ["elementwise_mlp", "sum"])
def test_slot_images_are_those_written_out(composition: Any) -> None:
    """Nothing generated and one slot read in a layer, then the layers below it as ever."""
    model = tiny.mem_vae(composition=composition)
    variables = tiny.variables(model)
    by_hand = ByHand(model, variables)
    for layer in (0, 1):
        slots = by_hand.params[f"memory_{layer}"]["slots"]
        zeros = np.zeros_like(slots)
        h = slots if composition == "sum" else by_hand.compose(layer, zeros, slots)
        h = np.maximum(h, 0)
        if layer == 1:
            h = by_hand.with_memory(0, by_hand.hidden("generative_0", h)[0])
        expected = sigmoid(by_hand.dense("image_mean", h)).reshape(-1, *tiny.IMAGE_SHAPE)
        found = model.apply(variables, layer, method="slot_images")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, 1, 2])
def test_layers_without_slots_have_no_images(layer: int) -> None:
    model = tiny.mem_vae(slots=(5, 0))
    with pytest.raises(InputError, match=f"layer: found {layer}, expected a hidden layer that has"):
        model.apply(tiny.variables(model), layer, method="slot_images")
