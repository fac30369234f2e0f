"""PyTorch's rivals of the benchmarks are the same models, with the same objectives and steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

from benchmarks import jobs, timing
from benchmarks.evaluation import Sizes
from benchmarks.jobs import JOBS
from benchmarks.training import Epochs
from memjax import configs, training
from memjax.data import Dataset, Split
from memjax.errors import InputError
from memjax.large_memory import Slots
from memjax.models.mem_vae import MemVAE
from memjax.objectives import pathwise
from memjax.sampling import sample_terms
from memjax.types import Batch, Terms
from tests import tiny
from tests.mem_vae_by_hand import draw_noise

torch = pytest.importorskip("torch")

B, K = 7, 5
MEM_VAE = tiny.mem_vae(batch_axes=("samples",))


def copied(array: Any) -> Any:
    return torch.from_numpy(np.array(array, np.float32))


def rival(model: MemVAE) -> Any:
    from benchmarks.torch_mem_vae import TorchMemVAE

    made = TorchMemVAE(model)
    made.load(tiny.variables(MEM_VAE)["params"])
    return made


def noise_of(keys: jax.Array) -> list[Any]:
    latent = tiny.SIZES["latent"]
    assert isinstance(latent, int)
    return [copied(draw_noise(keys, latent, other)) for other in (False, True)]


def loss_of_ours(params: Any, keys: jax.Array) -> tuple[jax.Array, Terms]:
    variables = {**tiny.variables(MEM_VAE), "params": params}
    terms, _ = sample_terms(MEM_VAE, variables, tiny.batch(B), keys, True)
    return -pathwise(terms).mean(), terms


def test_mem_vae_has_the_same_bound_penalty_and_gradient() -> None:
    from benchmarks.torch_mem_vae import bound

    params, keys = tiny.variables(MEM_VAE)["params"], tiny.keys(tiny.batch(B), K)
    theirs = rival(MEM_VAE)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(one.numel() for one in theirs.parameters()) == numbers
    graded = tiny.quick_jit(jax.value_and_grad(loss_of_ours, has_aux=True))
    (loss, terms), gradient = graded(params, keys)
    images = copied(tiny.batch(B).images).flatten(1)
    log_weights, penalty = theirs(images, *noise_of(keys))
    np.testing.assert_allclose(log_weights.detach(), terms.log_weights, rtol=1e-5)
    np.testing.assert_allclose(penalty.detach(), terms.penalty[0], rtol=1e-5)
    found = -(bound(log_weights) - penalty).mean()
    np.testing.assert_allclose(found.item(), loss, rtol=1e-5)
    found.backward()
    # The gradients of ours, in the rival's order.
    ordered = rival(MEM_VAE)
    ordered.load(gradient)
    for (name, one), expected in zip(theirs.named_parameters(), ordered.parameters(), strict=True):
        np.testing.assert_allclose(one.grad, expected.detach(), rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("model", [MEM_VAE, tiny.vae()], ids=["memory", "vae"])
def test_evaluation_has_the_same_log_weights(model: MemVAE) -> None:
    from benchmarks.torch_mem_vae import TorchMemVAE

    variables, batch = tiny.variables(model.clone(batch_axes=())), tiny.batch(B)
    keys = tiny.keys(batch, K)
    theirs = TorchMemVAE(model).eval()
    theirs.load(variables["params"], variables["batch_stats"])
    images = copied(batch.images).flatten(1)
    mean, log_variance, _ = theirs.encode(images)
    found = theirs.log_weights(images, mean, log_variance, noise_of(keys)[0])
    expected = tiny.terms(model.clone(batch_axes=()), variables, batch, K).log_weights
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)


def test_an_evaluation_of_all_samples_is_timed() -> None:
    from benchmarks.torch_common import How
    from benchmarks.torch_mem_vae import TorchMemVAE, likelihood

    seen = []
    sizes = Sizes(num_samples=7, batch_size=3, chunk_size=3)
    experiment = dataclasses.replace(configs.get("vae_digits"), model=tiny.vae())
    images = timing.random_grey(5, 12).splits["train"].images.reshape(-1, *tiny.IMAGE_SHAPE)
    split = Split(images)
    dataset = Dataset("random", {"train": split, "test": split}, 255)
    with pytest.MonkeyPatch.context() as patch:
        weigh = TorchMemVAE.log_weights
        patch.setattr(
            TorchMemVAE, "log_weights", lambda *given: seen.append(given[-1].shape) or weigh(*given)
        )
        made = likelihood(experiment, tiny.variables(tiny.vae()), dataset, sizes, How())
        assert made.seconds(4) > 0
    latent = tiny.SIZES["latent"]
    assert seen == [(3, 3, latent), (3, 3, latent), (1, 3, latent)] * 3  # once to warm up


def test_pythae_has_the_same_gradient_and_estimate() -> None:
    pytest.importorskip("pythae")
    from benchmarks.torch_mem_vae import TorchMemVAE, bound
    from benchmarks.torch_pythae import make

    variables, latent = tiny.variables(tiny.vae()), tiny.SIZES["latent"]
    images = copied(tiny.batch(B).images).flatten(1)
    noise = torch.randn(K, B, latent, generator=torch.manual_seed(0))
    ours, inner = TorchMemVAE(tiny.vae()), TorchMemVAE(tiny.vae())
    for module in (ours, inner):
        module.load(variables["params"], variables["batch_stats"])
    theirs = make(inner, K)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "_sample_gauss", lambda m, s: (m + s * noise.transpose(0, 1), None))
        theirs({"data": images}).loss.backward()
    (-bound(ours(images, noise, noise)[0]).mean()).backward()
    for (name, one), other in zip(inner.named_parameters(), ours.parameters(), strict=True):
        np.testing.assert_allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5, err_msg=name)
    # Where every sample is the mean, so is the estimate of one sample.
    theirs.eval(), ours.eval().load(variables["params"], variables["batch_stats"])
    inner.load(variables["params"], variables["batch_stats"])
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "_sample_gauss", lambda mean, deviation: (mean, None))
        found = theirs.get_nll(images, 200)
        expected = ours(images, torch.zeros(1, B, latent), noise)[0].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_moving_means_move_once() -> None:
    from benchmarks.torch_mem_vae import Hidden

    layer = Hidden(3, 2, MEM_VAE)
    x = torch.arange(12.0).reshape(4, 3)
    expected = 0.01 * layer.dense(x).detach().mean(0)
    layer(x)
    layer(x, record=False)
    np.testing.assert_allclose(layer.mean, expected, rtol=1e-5)


def test_the_optimiser_takes_the_same_steps() -> None:
    from benchmarks.torch_common import Optimizer

    fields = configs.get("mem_vae_mnist").optimizer
    start = np.linspace(-1, 1, 5, dtype=np.float32)
    # Of a norm above the limit, with an element that is still too large when that is kept.
    slopes = np.array([[0.3, -9.0, 1.0, 0.0, 2.0], [0.1, 0.2, -0.3, 0.4, 0.5]], np.float32)
    ours = training.make_optimizer(**dataclasses.asdict(fields), steps_per_epoch=10)
    params = jnp.asarray(start)
    state = ours.init(params)
    theirs = torch.nn.Parameter(copied(start))
    optimizer = Optimizer([theirs], fields)
    for slope in slopes:
        updates, state = ours.update(jnp.asarray(slope), state, params)
        params = optax.apply_updates(params, updates)
        optimizer.step((theirs * copied(slope)).sum())
        np.testing.assert_allclose(theirs.detach(), params, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"), [("weight_decay", 3e-4), ("undecayed", ("memory",)), ("another", 1)]
)
def test_what_the_optimiser_does_not_do_is_refused(field: str, value: Any) -> None:
    from benchmarks.torch_common import Optimizer

    base = configs.get("mem_vae_mnist").optimizer
    kind = dataclasses.make_dataclass(
        "Later", [("another", int, 0)], bases=(type(base),), frozen=True
    )
    fields = dataclasses.replace(kind(**dataclasses.asdict(base)), **{field: value})
    with pytest.raises(
        InputError, match=rf"^optimizer\.{field}: found .*, expected .*, as the riv"
    ):
        Optimizer([torch.nn.Parameter(torch.zeros(1))], fields)


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.kind is Epochs])
def test_the_optimisers_of_the_jobs_are_not_refused(name: str) -> None:
    from benchmarks.torch_common import Optimizer

    fields = configs.get(JOBS[name].experiment).optimizer
    Optimizer([torch.nn.Parameter(torch.zeros(1))], fields)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("local", "drawn"), [((0.1, 0.1), 2), ((0.0, 0.0), 1), ((), 1)])
def test_noise_is_drawn_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch, local: tuple[float, ...], drawn: int, compiled: bool
) -> None:
    from benchmarks.torch_common import How
    from benchmarks.torch_mem_vae import training

    # Compilation takes a minute, and what is compiled is the loss alone.
    monkeypatch.setattr(torch, "compile", lambda function: function)
    base = configs.get("mem_vae_digits")
    model = tiny.mem_vae(local_reconstruction=local)
    experiment = dataclasses.replace(base, model=model)
    shape = tiny.IMAGE_SHAPE
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    dataset = Dataset("random", {"train": Split(images)}, 255)
    made = training(experiment, tiny.variables(model)["params"], dataset, How(compiled))
    _, *noise = made._draw()
    expected = (experiment.objective.num_samples, experiment.train.batch_size, model.latent)
    assert [tuple(one.shape) for one in noise] == [expected] * drawn
    assert made.seconds(1) > 0 and np.isfinite(made.loss())


SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "mem_vae_digits": ("torch_mem_vae", {"hidden": (8, 6), "latent": 3, "slots": (5, 2)}),
    "vma_recall": ("torch_vma", {"hidden": (6, 5), "latent": 2, "matching": 3}),
    "vma_few_shot": ("torch_vma", {"hidden": (6,), "latent": 2, "matching": 3, "maps": (2,) * 6}),
    "avme_mnist": ("torch_writer", {"encoder_units": 5, "decoder_units": 4, "latent": 2}),
}


@pytest.mark.parametrize("name", SMALL)
def test_rivals_train_at_both_precisions(name: str) -> None:
    from benchmarks.torch_common import How

    module, sizes = SMALL[name]
    base = configs.get(name)
    model = base.model.clone(image_shape=(8, 8, 1), **sizes)
    experiment = dataclasses.replace(base, model=model)
    blank = jnp.zeros((4, 8, 8, 1))
    params = tiny.initialise(model, jax.random.key(0), Batch(blank, jnp.arange(4), context=blank))
    dataset = timing.random_bits(20, 15, 8)
    losses = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        rivals = jobs.torch_module(module)
        made = rivals.training(experiment, params["params"], dataset, How(precision=precision))
        assert made.seconds(1) > 0
        losses.append(made.loss())
    np.testing.assert_allclose(*losses, rtol=0.05)
    assert losses[0] != losses[1]


def test_addresses_have_the_same_probabilities() -> None:
    from benchmarks import torch_addresses
    from benchmarks.torch_common import How

    generator = np.random.default_rng(0)
    keys, queries = (generator.normal(size=(n, 5)).astype(np.float32) for n in (30, 4))
    units = torch.nn.functional.normalize(torch.from_numpy(keys), dim=-1)
    found = torch_addresses.log_softmax(units, torch.from_numpy(queries))
    posterior, _ = Slots(jnp.asarray(keys).reshape(3, 10, 5)).match(queries, jnp.zeros((1, 5)))
    np.testing.assert_allclose(found, posterior.log_probabilities, rtol=1e-5, atol=1e-5)
    slot, log_probability = torch_addresses.addresses(units, torch.from_numpy(queries))
    np.testing.assert_allclose(log_probability, found[range(4), slot])
    many = torch.from_numpy(queries[:1]).expand(20_000, -1)
    drawn = np.bincount(torch_addresses.addresses(units, many)[0], minlength=30)
    assert stats.chisquare(drawn, 20_000 * special.softmax(found[0].double())).pvalue > 1e-3
    assert torch_addresses.TorchAddresses(keys, queries, How()).seconds(2) > 0
