"""The recurrent writer, against a loop in numpy and by identities."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import sampling
from memjax.distributions import distrax
from memjax.errors import InputError
from memjax.models.writer import Writer
from memjax.types import Batch, Terms
from tests import tiny, writer_by_hand
from tests.jaxprs import equations

SIZES: dict[str, Any] = {
    "image_shape": tiny.IMAGE_SHAPE,
    "steps": 3,
    "latent": 3,
    "encoder_units": 6,
    "decoder_units": 5,
    "read_size": 2,
    "write_size": 2,
}
CLASSES = 3


def writer(**fields: Any) -> Writer:
    return Writer(**{**SIZES, **fields})


KINDS = {
    "lstm": writer(),
    "linear": writer(output="linear"),
    "canvas": writer(canvas_input="canvas"),
    "no feedback": writer(decoder_feedback=False, output="linear"),
    "one step": writer(steps=1),
}
OTHERS = {
    "windows": writer(attention="gaussian", output="linear"),
    "slots": writer(slots=4),
    "labels": writer(num_classes=CLASSES),
    "learned": writer(initial_state="learned"),
    "gaussian": writer(likelihood="gaussian"),
    "gaussian windows": writer(likelihood="gaussian", attention="gaussian", output="linear"),
    "canvas windows": writer(
        likelihood="gaussian", attention="gaussian", output="linear", canvas_input="canvas"
    ),
    "colour": writer(image_shape=(3, 4, 3), output="linear"),
    "all at once": writer(
        image_shape=(3, 4, 3),
        attention="gaussian",
        output="linear",
        read_size=3,
        slots=4,
        num_classes=CLASSES,
        initial_state="learned",
    ),
}
every = pytest.mark.parametrize("model", [*KINDS.values(), *OTHERS.values()], ids=[*KINDS, *OTHERS])


def batch(count: int = 4, channels: int = 1) -> Batch:
    found = tiny.batch(count)
    of_channels = [jnp.roll(found.images, shift, axis=0) for shift in range(channels)]
    images = jnp.concatenate(of_channels, axis=-1)
    return Batch(images, found.index, labels=found.index % CLASSES)


def examples_of(model: Writer) -> Batch:
    """A batch with as many channels as the model has."""
    assert model.image_shape is not None
    return batch(channels=model.image_shape[-1])


def variables(model: Writer) -> Any:
    examples = examples_of(model)
    shapes = jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), examples))
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 0.4, leaf.shape), jnp.float32), shapes
    )


def terms(model: Writer, num_samples: int, found: Any = None) -> Terms:
    examples = examples_of(model)
    of = variables(model) if found is None else found
    return tiny.terms(model, of, examples, num_samples)


def noise(model: Writer, num_samples: int) -> np.ndarray:
    """`[K, T, B, D]`, by the rule of the docstring: from the key of a sample and the step."""
    found = np.zeros((num_samples, model.steps, len(batch().images), model.latent), np.float32)
    keys = tiny.keys(batch(), num_samples)
    for k, t, b in np.ndindex(*found.shape[:3]):
        key = jax.random.fold_in(keys[k, b], t)
        found[k, t, b] = jax.random.normal(key, (model.latent,))
    return found


def hand(model: Writer, of_sample: np.ndarray) -> dict[str, Any]:
    examples = examples_of(model)
    images, labels = np.asarray(examples.images), np.asarray(examples.labels)
    return writer_by_hand.run(model, variables(model)["params"], images, of_sample, labels)


@every
def test_the_scan_is_the_loop(model: Writer) -> None:
    found = terms(model, 2)
    for k, of_sample in enumerate(noise(model, 2)):
        expected = hand(model, of_sample)
        for name in ("log_likelihood", "log_prior", "log_posterior", "kl"):
            np.testing.assert_allclose(
                getattr(found, name)[k], expected[name], rtol=1e-5, err_msg=name
            )
    assert found.reparameterised and not found.log_score.any() and not found.penalty.any()


@every
def test_the_canvas_is_the_sum_of_the_writes(model: Writer) -> None:
    of, examples = variables(model), examples_of(model)
    keys = tiny.keys(examples, 1)[0]

    def reconstructed(module: Writer) -> jax.Array:
        return module.reconstruct(examples, module.encode(examples, False), keys)

    means = model.apply(of, method=reconstructed)
    writes = hand(model, noise(model, 1)[0])["writes"]
    start = writer_by_hand.start(model, of["params"], len(keys))["canvas"]
    expected = writer_by_hand.means(model, start + np.sum(writes, axis=0))
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-5)


@every
def test_samples_are_the_writes_of_the_prior(model: Writer) -> None:
    of, examples = variables(model), examples_of(model)
    keys, labels = tiny.keys(examples, 1)[0], examples.labels if model.num_classes else None
    found = model.apply(of, keys, labels=labels, method="generate")
    state = writer_by_hand.start(model, of["params"], len(keys))
    assert found.canvases.shape == (model.steps, *examples.images.shape)
    for t, z in enumerate(noise(model, 1)[0]):
        state = writer_by_hand.write(model, of["params"], z, state, labels)
        expected = writer_by_hand.means(model, state["canvas"])
        np.testing.assert_allclose(found.canvases[t], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.means, found.canvases[-1])


def test_draws_are_of_the_last_canvas() -> None:
    model, count = KINDS["linear"], 4000
    keys = jax.random.split(jax.random.key(3), count)
    found = model.apply(variables(model), keys, method="generate")
    means, draws = np.asarray(found.means), np.asarray(found.draws)
    assert set(np.unique(draws)) == {0.0, 1.0}
    # Each pixel, over its standard error.
    scale = np.sqrt((means * (1 - means)).sum(axis=0))
    assert (np.abs((draws - means).sum(axis=0)) < 5 * scale).all()


@every
def test_features_are_the_last_state_of_the_encoder(model: Writer) -> None:
    examples = examples_of(model)
    keys = tiny.keys(examples, 1)[0]

    def last(module: Writer) -> dict[str, jax.Array]:
        return module.activations(examples, module.encode(examples, False), keys)

    found = model.apply(variables(model), method=last)
    expected = hand(model, noise(model, 1)[0])["features"]
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "slots"])
def test_every_product_has_the_precision_asked_for(name: str) -> None:
    model = {**KINDS, **OTHERS}[name].clone(precision="bfloat16")
    of, keys = variables(model), tiny.keys(batch(), 1)

    def found(of: Any) -> Terms:
        return sampling.sample_terms(model, of, batch(), keys, False)[0]

    products = list(equations(jax.make_jaxpr(found)(of).jaxpr, "dot_general"))
    assert len(products) > 5
    for product in products:
        assert {operand.aval.dtype.name for operand in product.invars} == {"bfloat16"}


@every
def test_log_posterior_minus_log_prior_is_the_kl_on_average(model: Writer) -> None:
    # From so many samples that the closed forms are met to their standard error.
    found = terms(model, 4000)
    difference = np.asarray(found.log_posterior - found.log_prior, np.float64)
    error = (difference - np.asarray(found.kl, np.float64)).mean(axis=0)
    scale = (difference - np.asarray(found.kl)).std(axis=0) / np.sqrt(len(difference))
    assert (np.abs(error) < 5 * scale).all()


def test_the_kl_is_that_of_distrax() -> None:
    model = writer(steps=1)
    of = variables(model)
    found = terms(model, 1, of)
    features = hand(model, noise(model, 1)[0])["features"]
    mean, log_variance = np.split(
        writer_by_hand.dense(of["params"]["posterior"], features), 2, axis=-1
    )
    posterior = distrax.MultivariateNormalDiag(mean, np.exp(log_variance / 2))
    prior = distrax.MultivariateNormalDiag(np.zeros_like(mean), np.ones_like(mean))
    np.testing.assert_allclose(found.kl[0], posterior.kl_divergence(prior), rtol=1e-5)


@every
def test_rematerialising_changes_nothing(model: Writer) -> None:
    of, examples = variables(model), examples_of(model)

    def gradient(model: Writer) -> Any:
        return tiny.training_gradient(model, of["params"], {}, examples, 2)

    value, gradients = gradient(model)
    again, others = gradient(model.clone(rematerialise=True))
    np.testing.assert_allclose(value, again, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, others
    )
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    assert all(np.isfinite(leaf).all() for _, leaf in leaves)
    # Everything is trained, but what a single step cannot have seen.
    assert model.steps == 1 or all(np.asarray(leaf).any() for _, leaf in leaves)


@pytest.mark.parametrize("name", ["lstm", "canvas", "windows", "slots", "labels", "learned"])
def test_the_gradient_is_that_of_the_loop(name: str) -> None:
    model = (KINDS | OTHERS)[name]
    params, examples = variables(model)["params"], examples_of(model)
    images, labels = np.asarray(examples.images), np.asarray(examples.labels)
    of_sample = noise(model, 1)[0]

    def bound(params: Any) -> float:
        found = writer_by_hand.run(model, params, images, of_sample, labels)
        weights = found["log_likelihood"] + found["log_prior"] - found["log_posterior"]
        return float(np.mean(weights))

    _, gradient = tiny.training_gradient(model, params, {}, examples, 1)
    generator, size = np.random.default_rng(1), 1e-5
    for _ in range(3):
        direction = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape), params)
        step = jax.tree.map(lambda of: size * of, direction)
        ahead = bound(jax.tree.map(lambda leaf, of: np.float64(leaf) + of, params, step))
        behind = bound(jax.tree.map(lambda leaf, of: np.float64(leaf) - of, params, step))
        along = jax.tree.map(lambda leaf, of: np.sum(np.float64(leaf) * of), gradient, direction)
        np.testing.assert_allclose(
            sum(jax.tree.leaves(along)), (ahead - behind) / (2 * size), rtol=1e-3, atol=1e-3
        )


def test_gradients_of_many_steps_are_finite() -> None:
    model = writer(steps=64, output="linear", attention="gaussian")
    of = tiny.initialise(model, jax.random.key(0), batch())
    value, gradient = tiny.training_gradient(model, of["params"], {}, batch(), 2)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_an_lstm_bounds_the_canvas() -> None:
    model = writer(steps=5)
    of = jax.tree.map(lambda leaf: 100 * leaf, variables(model))
    keys = tiny.keys(batch(), 1)[0]
    means = np.asarray(model.apply(of, keys, method="generate").means, np.float64)
    assert np.abs(np.log(means / (1 - means))).max() <= 5 * 1.001


def test_windows_read_patches_of_both_images() -> None:
    # With no share of the image beside the window, x reaches z through 2 x 2 x 2 numbers.
    of = variables(OTHERS["windows"])["params"]
    assert of["encoder_of_canvas"]["kernel"].shape == (2 * 2 * 2, 4 * 6)
    assert of["output_layer"]["kernel"].shape == (5, 2 * 2)
    assert "encoder_of_image" not in of


def test_labels_reach_both_networks() -> None:
    model = OTHERS["labels"]
    of, examples = variables(model), batch()
    same = Batch(examples.images, examples.index, labels=jnp.zeros(4, jnp.int32))
    other = Batch(examples.images, examples.index, labels=jnp.full(4, 2))
    found = [tiny.terms(model, of, one, 1) for one in (same, other)]
    assert not np.isclose(found[0].kl, found[1].kl).any()
    keys = tiny.keys(examples, 1)[0]
    generate = lambda labels: model.apply(of, keys, labels=labels, method="generate").means  # noqa: E731
    zeros, twos = generate(jnp.zeros(4, jnp.int32)), generate(jnp.full(4, 2))
    assert not np.isclose(zeros, twos).all(axis=(1, 2, 3)).any()
    # Where none is given every image has one of its own.
    drawn = generate(None)
    options = np.stack([generate(jnp.full(4, label)) for label in range(CLASSES)])
    assert (np.isclose(options, drawn).all(axis=(2, 3, 4)).sum(axis=0) == 1).all()


def test_labels_are_drawn_evenly_and_apart_from_the_noise() -> None:
    model, count = OTHERS["labels"], 600
    keys = jax.random.split(jax.random.key(3), count)
    # By the key after those of z_1 .. z_T.
    labels = jax.vmap(
        lambda key: jax.random.randint(jax.random.fold_in(key, model.steps), (), 0, CLASSES)
    )(keys)
    counts = np.bincount(labels, minlength=CLASSES)
    assert (np.abs(counts - count / CLASSES) < 5 * np.sqrt(count / CLASSES)).all()
    of = variables(model)
    given = model.apply(of, keys, labels=labels, method="generate").means
    np.testing.assert_array_equal(model.apply(of, keys, method="generate").means, given)


def test_slots_start_as_nothing() -> None:
    model = OTHERS["slots"]
    of = tiny.initialise(model, jax.random.key(0), batch())
    without = {k: v for k, v in of["params"].items() if k not in ("memory", "compose")}
    found = tiny.terms(model, of, batch(), 2)
    plain = tiny.terms(writer(), {"params": without}, batch(), 2)
    np.testing.assert_allclose(found.log_weights, plain.log_weights, rtol=1e-5)


def test_a_learned_start_begins_at_zero() -> None:
    model = OTHERS["learned"]
    of = tiny.initialise(model, jax.random.key(0), batch())
    learned = {name for name in of["params"] if name.startswith("initial_")}
    assert len(learned) == 7
    without = {k: v for k, v in of["params"].items() if k not in learned}
    found = tiny.terms(model, of, batch(), 2)
    plain = tiny.terms(writer(), {"params": without}, batch(), 2)
    np.testing.assert_allclose(found.log_weights, plain.log_weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "model.steps: found 0, expected at least 1"),
        ({"latent": 0}, "model.latent: found 0"),
        ({"slots": -1}, "model.slots: found -1, expected at least 0"),
        ({"attention": "gaussian", "read_size": 4}, "model.read_size: found 4, expected 1 to 3"),
        ({"attention": "gaussian", "write_size": 9}, "model.write_size: found 9"),
        ({"read_size": 0}, "model.read_size: found 0, expected at least 1"),
        ({"attention": "gaussian", "output": "lstm"}, "model.output: found lstm"),
        ({"image_shape": None}, "model.image_shape: found None"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampling.initialise(writer(**{"output": "linear", **fields}), jax.random.key(0), batch())


def test_labels_that_are_not_there() -> None:
    with pytest.raises(InputError, match=r"model.num_classes: found 3 with images that have no"):
        sampling.initialise(OTHERS["labels"], jax.random.key(0), tiny.batch())
    model = KINDS["lstm"]
    with pytest.raises(InputError, match="labels: found some for a model without classes"):
        model.apply(
            variables(model), tiny.keys(batch(), 1)[0], labels=jnp.zeros(4, int), method="generate"
        )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3], r"labels: found 3, expected 0 to 2"),
        ([-1, 0, 0, 0], r"labels: found -1, expected 0 to 2"),
        ([1], r"labels: found the shape \(1,\), expected \(4,\), one for each sample"),
    ],
)
def test_labels_that_cannot_be(labels: list[int], message: str) -> None:
    model = OTHERS["labels"]
    keys, given = tiny.keys(batch(), 1)[0], jnp.asarray(labels)
    with pytest.raises(InputError, match=message):
        model.apply(variables(model), keys, labels=given, method="generate")
