"""memjax.evaluation: the likelihood over chunks of samples, and batch statistics of one pass."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import bounds, products, sampling
from memjax.evaluation import (
    Likelihood,
    log_weights,
    log_weights_and_diagnostics,
    pass_statistics,
    summarise,
)
from memjax.types import Array, Batch, Variables
from tests import linear_gaussian, tiny
from tests.mem_vae_by_hand import ByHand

K = 60
KEY = jax.random.key(11)
MODEL = tiny.mem_vae()
VARIABLES = tiny.variables(MODEL)
BATCH = tiny.batch(5)

_compiled = tiny.quick_jit(log_weights, static_argnums=(0, 4, 5))
_summarise = tiny.quick_jit(summarise, static_argnums=1)
_pass_statistics = tiny.quick_jit(pass_statistics, static_argnums=0)


def weights_of(batch: Batch, num_samples: int = K, chunk_size: int = 16) -> np.ndarray:
    return np.asarray(_compiled(MODEL, VARIABLES, batch, KEY, num_samples, chunk_size))


def take(batch: Batch, rows: Iterable[int]) -> Batch:
    return jax.tree.map(lambda leaf: leaf[np.asarray(rows)], batch)


def assert_same_nats(found: Any, expected: Any) -> None:
    """1e-4 nats or 1e-6 relative, whichever is more: what no way of computing may exceed."""
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)


# ---- log_weights


@pytest.fixture(scope="module")
def unrolled() -> np.ndarray:
    """One sample after the other in a Python loop, encoder and decoder together."""

    @tiny.quick_jit
    def one_sample(sample: Array) -> Array:
        keys = sampling.example_keys(KEY, BATCH.index, sample)
        encoding = MODEL.apply(VARIABLES, BATCH, False, method="encode")
        terms = MODEL.apply(VARIABLES, BATCH, encoding, keys, False, method="terms")
        return terms.log_likelihood + terms.log_prior - terms.log_posterior

    return np.stack([one_sample(sample) for sample in range(K)])


@pytest.mark.parametrize("chunk_size", [1, 7, 50, K, K + 40])
def test_weights_are_those_of_a_loop_whatever_the_chunk(
    chunk_size: int, unrolled: np.ndarray
) -> None:
    found = weights_of(BATCH, chunk_size=chunk_size)
    assert found.shape == (K, 5)
    assert_same_nats(found, unrolled)


def test_fewer_samples_are_the_first_of_more() -> None:
    assert_same_nats(weights_of(BATCH, 9, 4), weights_of(BATCH)[:9])


def test_order_of_the_batch_does_not_matter() -> None:
    order = [3, 0, 4, 2, 1]
    assert_same_nats(weights_of(take(BATCH, order)), weights_of(BATCH)[:, order])


def test_division_into_batches_does_not_matter() -> None:
    parts = [weights_of(take(BATCH, rows)) for rows in ([0, 3], [4, 1], [2, 2])]
    assert_same_nats(np.concatenate(parts, axis=1), weights_of(BATCH)[:, [0, 3, 4, 1, 2, 2]])


def test_noise_belongs_to_sample_and_image() -> None:
    same_image = BATCH.replace(images=jnp.repeat(BATCH.images[:1], 5, axis=0))
    found = weights_of(same_image)
    assert len(np.unique(found)) == found.size


def multiplications(jaxpr: Any) -> int:
    """Of all matrix products, those inside a scan counted as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            outputs = np.prod(equation.outvars[0].aval.shape, dtype=int)
            total += int(outputs) * int(np.prod([shape[i] for i in summed], dtype=int))
        if equation.primitive is products.matmul_p:
            total += multiplications(products.jaxpr_of(equation))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * multiplications(inner)
    return total


@pytest.mark.parametrize(("num_samples", "chunk_size"), [(1, 1), (12, 4), (60, 12)])
def test_encoder_runs_once_however_many_samples(num_samples: int, chunk_size: int) -> None:
    # tiny.SIZES: 12 pixels, hidden layers of 8 and 6, 3 latent dimensions, 5 and 2 slots.
    encoder = 12 * 8 + 8 * 6 + 2 * (6 * 3)
    decoder = 3 * 6 + (6 * 2 + 2 * 6) + 6 * 8 + (8 * 5 + 5 * 8) + 8 * 12
    program = jax.make_jaxpr(log_weights, static_argnums=(0, 4, 5))(
        MODEL, VARIABLES, BATCH, KEY, num_samples, chunk_size
    )
    assert multiplications(program.jaxpr) == 5 * (encoder + num_samples * decoder)


# ---- summarise


def random_weights(num_samples: int, num_images: int) -> np.ndarray:
    generator = np.random.default_rng(num_samples)
    return generator.normal(-90, 3, (num_samples, num_images)).astype(np.float32)


def test_bound_is_the_mean_over_disjoint_groups() -> None:
    weights = random_weights(7, 4)
    found = _summarise(jnp.asarray(weights), (1, 2, 3, 7))

    def bound(rows: list[int]) -> np.ndarray:
        return np.log(np.mean(np.exp(np.float64(weights[rows]) + 90), axis=0)) - 90

    expected = [
        np.mean([bound([k]) for k in range(7)], axis=0),
        np.mean([bound([0, 1]), bound([2, 3]), bound([4, 5])], axis=0),
        np.mean([bound([0, 1, 2]), bound([3, 4, 5])], axis=0),
        bound(list(range(7))),
    ]
    np.testing.assert_allclose(found.iwae_bound, expected, rtol=1e-6)
    np.testing.assert_allclose(found.log_likelihood, expected[-1], rtol=1e-6)


def test_bound_at_one_sample_is_the_elbo() -> None:
    weights = jnp.asarray(random_weights(30, 5))
    found = _summarise(weights, (1,)).iwae_bound[0]
    np.testing.assert_allclose(found, bounds.elbo(weights), rtol=1e-6)


def test_bound_never_falls_when_groups_are_joined() -> None:
    # Groups of 2 are pairs of groups of 1, and so on: by Jensen it holds for every image.
    found = np.asarray(
        _summarise(jnp.asarray(random_weights(24, 50)), (1, 2, 4, 12, 24)).iwae_bound
    )
    assert np.all(np.diff(found, axis=0) > -1e-4)  # the rounding of float32 at -90 nats
    assert np.all(found[-1] - found[0] > 0.5)


def test_bound_rises_on_average_where_groups_are_not_joined() -> None:
    weights = jnp.asarray(random_weights(60, 2000))
    found = np.asarray(_summarise(weights, (1, 2, 3, 5, 7, 11, 60)).iwae_bound)
    assert np.all(np.diff(found.mean(axis=1)) > 0.05)


@pytest.mark.parametrize("level", [0.0, -90.0, -1e5])
def test_limits_of_effective_sample_size(level: float) -> None:
    equal = np.full(10, level)
    one = np.full(10, level)
    one[3] += 200
    three = np.full(10, level)
    three[[0, 4, 9]] += 200
    weights = jnp.asarray(np.stack([equal, one, three], axis=1), jnp.float32)
    found = _summarise(weights, (1, 10))
    np.testing.assert_allclose(found.effective_sample_size, [10, 1, 3], rtol=1e-4)
    expected = [level, level + 200 - np.log(10), level + 200 - np.log(10 / 3)]
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-6, atol=1e-4)


def test_shift_of_the_weights_shifts_the_bounds_alone() -> None:
    weights = jnp.asarray(random_weights(20, 6))
    before, after = _summarise(weights, (1, 5, 20)), _summarise(weights + 64.0, (1, 5, 20))
    np.testing.assert_allclose(after.iwae_bound, before.iwae_bound + 64, atol=1e-4)
    np.testing.assert_allclose(after.log_likelihood, before.log_likelihood + 64, atol=1e-4)
    np.testing.assert_allclose(after.effective_sample_size, before.effective_sample_size, rtol=1e-3)


# ---- a closed form


LINEAR = linear_gaussian.LinearGaussian(width=1.5)
_DRAWN = np.random.default_rng(5)
LINEAR_VARIABLES = {
    "params": {
        "weights": jnp.asarray(_DRAWN.standard_normal((linear_gaussian.LATENT, 6)), jnp.float32),
        "bias": jnp.asarray(_DRAWN.standard_normal(6), jnp.float32),
    }
}


def drawn_images(count: int) -> Batch:
    """Images from the linear-Gaussian model itself."""
    params = LINEAR_VARIABLES["params"]
    generator = np.random.default_rng(count)
    z = generator.standard_normal((count, linear_gaussian.LATENT))
    noise = LINEAR.noise * generator.standard_normal((count, 6))
    x = z @ np.asarray(params["weights"]) + np.asarray(params["bias"]) + noise
    images = jnp.asarray(x.reshape(count, *linear_gaussian.IMAGE_SHAPE), jnp.float32)
    return Batch(images, jnp.arange(count))


Linear = tuple[Likelihood, np.ndarray]


@pytest.fixture(scope="module")
def linear() -> Linear:
    """What 5,000 samples say of 64 images, in chunks that do not divide them, and log p(x)."""
    batch = drawn_images(64)

    @jax.jit
    def evaluate(batch: Batch) -> Likelihood:
        weights = log_weights(LINEAR, LINEAR_VARIABLES, batch, KEY, 5000, 300)
        return summarise(weights, (1, 5, 50, 500, 5000))

    return evaluate(batch), linear_gaussian.log_marginal(LINEAR, LINEAR_VARIABLES, batch.images)


def test_estimate_meets_the_closed_form(linear: Linear) -> None:
    found, exact = linear
    assert abs(np.mean(found.log_likelihood) - np.mean(exact)) < 0.02
    # One image's estimate has a standard deviation of 0.015 nats.
    np.testing.assert_allclose(found.log_likelihood, exact, atol=0.08)


def test_bounds_lie_below_the_closed_form_and_approach_it(linear: Linear) -> None:
    found, exact = linear
    gaps = np.mean(exact - np.asarray(found.iwae_bound), axis=1)
    assert np.all(np.diff(gaps) < 0)
    assert np.all(gaps[:3] > 0)  # at 500 samples the mean of 64 images is off by as much
    assert gaps[0] == pytest.approx(linear_gaussian.gap_of_the_elbo(LINEAR), abs=0.01)


def test_effective_sample_size_meets_the_closed_form(linear: Linear) -> None:
    # (E w)^2 / E w^2 of a Gaussian proposal s times as wide: sqrt(2 s^2 - 1) / s^2 a dimension.
    width = LINEAR.width
    share = (np.sqrt(2 * width**2 - 1) / width**2) ** linear_gaussian.LATENT
    assert np.mean(linear[0].effective_sample_size) == pytest.approx(5000 * share, rel=0.02)


def test_the_posterior_as_proposal_is_exact_with_one_sample() -> None:
    model, batch = LINEAR.clone(width=1.0), drawn_images(8)
    weights = _compiled(model, LINEAR_VARIABLES, batch, KEY, 3, 2)
    exact = linear_gaussian.log_marginal(model, LINEAR_VARIABLES, batch.images)
    np.testing.assert_allclose(weights, np.stack([exact] * 3), atol=1e-3)


# ---- pass_statistics


class Recording(ByHand):
    """MEM-VAE in numpy, noting the statistics of every layer that it normalises."""

    def __init__(self, variables: Variables):
        super().__init__(MODEL, variables, train=True)
        self.found: dict[str, Any] = {}

    def hidden(self, name: str, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        layer = self.params[name]["dense"]
        rows = (h @ layer["kernel"] + layer["bias"]).reshape(-1, len(layer["bias"]))
        self.found[name] = {"norm": {"mean": rows.mean(axis=0), "variance": rows.var(axis=0)}}
        return super().hidden(name, h)


def test_statistics_are_those_of_one_batch_layer_by_layer() -> None:
    batch = tiny.batch(40)
    found = _pass_statistics(MODEL, VARIABLES, batch, KEY)
    network = Recording(VARIABLES)
    mean, log_variance, _ = network.encode(batch.images)
    network.decode(network.draw(sampling.example_keys(KEY, batch.index)[None], mean, log_variance))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        dict(found["batch_stats"]),
        network.found,
    )
    jax.tree.map(np.testing.assert_array_equal, found["params"], VARIABLES["params"])


def test_statistics_make_the_hidden_layers_of_that_batch_standard() -> None:
    batch = tiny.batch(40)
    found = _pass_statistics(MODEL, VARIABLES, batch, KEY)
    for normalised in MODEL.apply(found, batch, False, method="encode").normalised:
        np.testing.assert_allclose(np.mean(normalised, axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(np.var(normalised, axis=0), 1, atol=1e-4)


def test_statistics_forget_the_moving_averages() -> None:
    other = {**VARIABLES, "batch_stats": jax.tree.map(lambda a: 3 * a, VARIABLES["batch_stats"])}
    batch = tiny.batch(40)
    found = [_pass_statistics(MODEL, start, batch, KEY) for start in (VARIABLES, other)]
    jax.tree.map(np.testing.assert_array_equal, *(one["batch_stats"] for one in found))
    changed = jax.tree.map(
        lambda new, old: bool(jnp.all(new != old)),
        found[0]["batch_stats"],
        VARIABLES["batch_stats"],
    )
    assert all(jax.tree.leaves(changed))


def test_nothing_changes_without_batch_norm() -> None:
    model = tiny.mem_vae(batch_norm=False)
    variables = {"params": VARIABLES["params"], "batch_stats": {}}
    assert pass_statistics(model, variables, BATCH, KEY) is variables


@pytest.mark.parametrize(("devices", "num_samples"), [(2, 10), (3, 10), (4, 1)])
def test_devices_share_the_samples(devices: int, num_samples: int) -> None:
    """The last device has fewer samples than the others, or none; each gets all of them."""

    @tiny.quick_jit
    def shared(noise: Array) -> Any:
        return jax.vmap(
            lambda _: log_weights_and_diagnostics(
                MODEL, VARIABLES, BATCH, noise, num_samples, 2, "devices"
            ),
            axis_name="devices",
        )(jnp.arange(devices))

    compiled = tiny.quick_jit(log_weights_and_diagnostics, static_argnums=(0, 4, 5))
    weights, said = compiled(MODEL, VARIABLES, BATCH, KEY, num_samples, 2)
    found = shared(KEY)
    for device in range(devices):
        own_weights, own_said = jax.tree.map(lambda values, of=device: values[of], found)
        assert_same_nats(own_weights, weights)
        for name, values in said.items():
            assert_same_nats(own_said[name], values)


def test_diagnostics_are_of_the_samples_that_are_asked_for() -> None:
    """The last chunk holds more than are left of 10."""
    compiled = tiny.quick_jit(log_weights_and_diagnostics, static_argnums=(0, 4, 5))
    by_chunk = [compiled(MODEL, VARIABLES, BATCH, KEY, 10, chunk)[1] for chunk in (10, 7, 4)]
    for found in by_chunk[1:]:
        for name, values in by_chunk[0].items():
            assert_same_nats(found[name], values)
