"""What is compared in the benchmarks is the same thing, and is compared in turn."""

import dataclasses
import functools
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import addressing, evaluation, large_memory, limit, timing, training, writing
from eval import records
from memjax import configs, huge_pages, objectives, sampling
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.errors import InputError, WriteError
from memjax.models.vma import VMA
from memjax.models.writer import Writer
from memjax.types import Batch, Terms, Variables
from tests import tiny
from train import devices
from train.runner import fit_to_data

B, M, K, SIDE = 3, 4, 5, 13


def test_rounds_alternate() -> None:
    calls = []

    def timed(name: str) -> Any:
        def seconds(count: int) -> float:
            calls.append((name, count))
            return count * {"a": 0.1, "b": 3.0}[name]

        return seconds

    found = timing.alternate([timed("a"), timed("b")], 3)
    np.testing.assert_allclose(found, [[0.1] * 3, [3.0] * 3])
    assert calls[4:] == [("a", 10), ("b", 1)] * 3  # a second, or a step that takes longer


def test_of_rounds_the_median_is_recorded() -> None:
    made = timing.record(configs.get("vma_recall"), "step_seconds", [9.0, 1.0, 2.0])
    assert (made.value, made.values) == (2.0, [9.0, 1.0, 2.0])


@pytest.mark.parametrize("kind", ["convolutional", "dense"])
def test_variants_differ_in_addressing_alone(kind: Any) -> None:
    made = addressing.variants(kind, 48)
    assert {one.sampler.ways * one.sampler.shots for one in made.values()} == {48}
    assert [one.objective.num_samples for one in made.values()] == [4, 1, 1]
    models = [one.model.clone(addressing="hard", blended="features") for one in made.values()]
    assert models == models[:1] * 3
    assert [one.model.addressing for one in made.values()] == ["hard", "soft", "soft"]


def test_what_is_timed_is_recorded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def recall(rounds: int) -> list[records.Record]:
        return [timing.record(configs.get("vma_recall"), "step_seconds", [0.0123456] * rounds)]

    monkeypatch.setattr(addressing, "recall", recall)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(huge_pages, "in_use", lambda: True)
    addressing.main(parts=("recall",), rounds=3, results=str(tmp_path))
    (found,) = records.load(tmp_path / "benchmarks.json")
    assert (found.value, found.values) == (0.0123, [0.0123] * 3)
    assert found.protocol == {
        "rounds": 3,
        "precision": "float32",
        "num_samples": 4,
        "batch_size": 32,
        "huge_pages": True,
    }


class Proportional:
    """In place of `Epochs`: a model that can be built, whose steps take a microsecond an entry."""

    def __init__(self, base: Experiment, dataset: Dataset, warm_up: int):
        assert warm_up == 1
        self.experiment = experiment = fit_to_data(base, dataset)
        batch = devices.blank_batch(experiment, dataset.splits["train"], 1, 1)
        shapes = jax.eval_shape(
            lambda: sampling.initialise(experiment.model, jax.random.key(0), batch)
        )
        memory = shapes["params"].get("memory")
        learned = 0 if memory is None else memory.size // memory.shape[-1]
        self.entries = learned or len(batch.context)

    def seconds(self, count: int) -> float:
        return 1e-6 * count * self.entries

    def limit(self) -> "Proportional":
        return self


def test_a_curve_over_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addressing, "Epochs", Proportional)
    found = addressing.over_memory("dense", (8, 16), rounds=1)
    assert [one.protocol["curve"] for one in found] == [
        *("dense, hard", "dense, soft features", "dense, soft pixels")
    ]
    for one in found:
        assert (one.x, one.values) == ([8.0, 16.0], [8e-6, 16e-6])
        assert "sampler.shots" not in one.protocol["changed"]


@pytest.mark.parametrize(
    "curves",
    [functools.partial(addressing.over_memory, "dense"), addressing.over_learned],
    ids=["given", "learned"],
)
def test_each_size_begins_without_what_others_have_compiled(
    monkeypatch: pytest.MonkeyPatch, curves: Any
) -> None:
    """Where there is too much of it: else a process ends before the last size."""
    begun: list[str] = []
    monkeypatch.setattr(addressing, "Epochs", Proportional)
    monkeypatch.setattr(addressing, "say", begun.append)
    monkeypatch.setattr(addressing.backend, "forget_programs", lambda: begun.append("forgotten"))
    curves((8, 16), rounds=1)
    assert [one == "forgotten" for one in begun] == [True, False, True, False]


def test_curves_over_a_learned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addressing, "Epochs", Proportional)
    monkeypatch.setattr(addressing, "BLOCK_SIZE", 4)
    assert list(addressing.learned(4)) == ["hard", "soft"]
    models = [one.model for one in addressing.learned(8).values()]
    assert [(one.addressing, one.block_size) for one in models] == [
        *(("hard", 0), ("hard", 4), ("soft", 0))
    ]
    found = addressing.over_learned((4, 8), rounds=1)
    curves = {one.protocol["curve"]: one for one in found}
    assert list(curves) == [
        *("learned, hard", "learned, soft", "learned, products of hard"),
        "learned, hard in blocks of 4",
    ]
    assert [one.protocol["num_samples"] for one in found] == [4, 1, 4, 4]
    blocks = curves.pop("learned, hard in blocks of 4")
    assert (blocks.x, blocks.values) == ([8.0], [8e-6])
    assert blocks.protocol["changed"]["model.block_size"] == 4
    for one in curves.values():
        assert (one.x, one.values) == ([4.0, 8.0], [4e-6, 8e-6])


def test_addresses_of_a_large_memory() -> None:
    base = configs.get("vma_learned_mnist")
    small = large_memory.large(base.model).clone(memory_size=2000, block_size=200, matching=8)
    assert small.embeddings == "learned" and small.shared_parameters
    ours = large_memory.Addressing(base, timing.random_bits(1, 100, 28), small)
    assert ours.seconds(2) > 0 and ours.limit().seconds(1) > 0
    assert ours.limit().flops == 2 * 2000 * 8 * (large_memory.QUERIES + 1)
    # Less than a tenth of all probabilities.
    assert ours.extra_bytes < 0.1 * 4 * 2_000_000 + 4 * 200 * large_memory.QUERIES


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (addressing, {"learned_sizes": (16, 1500)}, "^--learned-sizes: found 1500, expected at"),
        (addressing, {"parts": ("learned",)}, "^devices: found 4, expected one"),
        (addressing, {"parts": ()}, "^--parts: found no values, expected at least one"),
        (addressing, {"learned_sizes": ()}, "^--learned-sizes: found no values, expected at"),
        (addressing, {"sizes": (16, 6)}, "^--sizes: found 6, expected multiples of four"),
        (addressing, {"sizes": (0,)}, "^--sizes: found 0, expected at least 4"),
        (
            addressing,
            {"sizes": (2**31,)},
            "^--sizes: found 2147483648, expected at most 2147483647",
        ),
        (addressing, {"learned_sizes": (0,)}, "^--learned-sizes: found 0, expected at least 1"),
        (
            addressing,
            {"learned_sizes": (2**31,)},
            "^--learned-sizes: found 2147483648, expected at m",
        ),
        (addressing, {"rounds": 0}, "^--rounds: found 0, expected at least 1"),
        (addressing, {"rounds": 2**31}, "^--rounds: found 2147483648, expected at most 2147483647"),
        (training, {"rounds": 0}, "^--rounds: found 0, expected at least 1"),
        (training, {"parts": ()}, "^--parts: found no values, expected at least one"),
        (training, {"experiments": ()}, "^--experiments: found no values, expected at least"),
        (training, {"experiments": ("nothing",)}, "^experiment 'nothing': unknown"),
        (training, {"parts": ("seeds",)}, "^devices: found 4, expected one"),
        (training, {"num_seeds": 1}, "^--num-seeds: found 1, expected at least 2"),
        (training, {"num_seeds": 2**31}, "^--num-seeds: found 2147483648, expected at most 214748"),
        (writing, {"steps": ()}, "^--steps: found none, expected at least one"),
        (writing, {"steps": (0,)}, "^--steps: found 0, expected 1 to 2147483647"),
        (writing, {"steps": (2**31,)}, "^--steps: found 2147483648, expected 1 to 2147483647"),
    ],
)
def test_bad_options(module: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module.main(**options)


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        # 1.5 TB of images by numpy, 2 TB of memory by XLA.
        ({"parts": ("memory",), "kinds": ("dense",)}, {"sizes": 2**31 - 4}),
        ({"parts": ("learned",)}, {"learned_sizes": 2**31 - 128}),
    ],
)
def test_what_memory_cannot_hold_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Any, sizes: dict[str, int]
) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    ((name, size),) = sizes.items()
    option = name.replace("_", "-")
    message = rf"^--{option}: found {size}, expected fewer, for which there is memory \(.*\)$"
    with pytest.raises(InputError, match=message):
        addressing.main(**parts, **{name: (size,)}, rounds=1, results=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_another_error_of_xla_is_no_lack_of_memory() -> None:
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError), timing.enough_memory("sizes", 4):
        raise error
    with pytest.raises(InputError), timing.enough_memory("sizes", 4):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


def test_seeds_that_are_timed_together_are_those_timed_alone() -> None:
    base, dataset = configs.get("vae_digits"), timing.random_bits(1, 100, 8)

    def steps(seed: int, num_seeds: int) -> training.Epochs:
        train = dataclasses.replace(base.train, num_seeds=num_seeds)
        return training.Epochs(dataclasses.replace(base, seed=seed, train=train), dataset, 2)

    second = jax.tree.map(lambda leaf: leaf[1], steps(4, 2).params)
    chex.assert_trees_all_close(second, steps(5, 1).params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_steps_beyond_the_plan_take_its_last_row(num_seeds: int) -> None:
    base, dataset = configs.get("vae_digits"), timing.random_bits(1, 100, 8)
    train = dataclasses.replace(base.train, num_seeds=num_seeds)
    model = base.model.clone(hidden=(8, 6), latent=3)
    base = dataclasses.replace(base, train=train, model=model)
    within, beyond = (training.Epochs(base, dataset, 1) for _ in range(2))
    assert within.steps == 2
    within._plan = np.concatenate([within._plan, within._plan[..., 1:, :]], axis=-2)
    for one in (within, beyond):
        assert one.seconds(3) > 0
        np.testing.assert_array_equal(one._state.train.step, 4 if num_seeds == 1 else [4, 4])
    chex.assert_trees_all_equal(within.params, beyond.params)


def test_an_evaluation_is_timed_by_the_image() -> None:
    asked = []
    timed = evaluation.ByImage(lambda batches: asked.append(batches) or 12.0 * batches, 4)
    assert [timed.seconds(count) for count in (1, 4, 5, 12)] == [3.0, 12.0, 15.0, 36.0]
    assert asked == [1, 1, 2, 3]


def test_an_evaluation_and_its_products() -> None:
    base = configs.get("vae_digits")
    base = dataclasses.replace(base, model=base.model.clone(hidden=(8, 6), latent=3))
    sizes = evaluation.Sizes(num_samples=7, batch_size=5, chunk_size=3)
    made = evaluation.Evaluation(base, timing.random_grey(20, 8), sizes)
    assert made.seconds(1) > 0
    assert made.protocol == {"num_samples": 7, "batch_size": 5, "chunk_size": 3}
    encoder = 64 * 8 + 8 * 6 + 2 * 6 * 3
    decoder = 3 * 6 + 6 * 8 + 8 * 64
    # The last chunk is as large as the others.
    products = limit.products(*made.traced())
    assert limit.total_flops(products) == 2 * 5 * (encoder + 9 * decoder)


def test_starts_without_and_with_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str | None] = []

    def start(name: str, data_dir: str | None, compiled: str | None) -> float:
        calls.append(compiled)
        return 1.0 + 4.0 * (compiled is None)

    monkeypatch.setattr(training, "start", start)
    found = training.start_seconds("vae_mnist", 2, None)
    assert [(one.metric, one.value) for one in found] == [
        ("start_seconds", 5.0),
        ("start_seconds_warm", 1.0),
    ]
    cache, *rest = calls
    assert cache and rest == [None, cache] * 2  # it is filled before the rounds


def test_a_start_finds_what_another_has_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "users"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    assert training.start("vae_digits", None, None) > 0
    assert not list(tmp_path.iterdir())
    assert training.start("vae_digits", None, str(tmp_path / "own")) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_start_without_data_is_said_in_a_line(tmp_path: Path) -> None:
    options = ["--parts", "start", "--experiments", "vae_mnist", "--rounds", "1"]
    folders = ["--data-dir", str(tmp_path / "none"), "--results", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.training", *options, *folders]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and not list(tmp_path.iterdir())
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "none") in line


def test_what_a_process_says_before_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    def check(code: int, said: str) -> str:
        training._check_ended(subprocess.CompletedProcess([], code), said)
        return capsys.readouterr().err

    assert check(0, "one\nerror: of another\n") == "one\nerror: of another\n"
    for code, kind in ((2, InputError), (1, WriteError)):
        with pytest.raises(kind, match=r"^x: found y$"):
            check(code, "one\nerror: x: found y\n")
        assert capsys.readouterr().err == "one\n"
    for code, said in ((1, "Traceback\nValueError: error: x\n"), (1, ""), (-9, "error: x\n")):
        with pytest.raises(subprocess.CalledProcessError):
            check(code, said)
        assert capsys.readouterr().err == said


def test_seconds_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SHORTEST", 1e-9)  # one step a call
    (found,) = training.seeds_seconds("vae_mnist", 2, rounds=1)
    assert (found.metric, found.x) == ("step_seconds_by_seeds", [1.0, 2.0])
    assert min(found.values or []) > 0


FEW_SHOT = configs.get("vma_few_shot").model.clone(
    image_shape=(SIDE, SIDE, 1), maps=(3, 4, 5, 6, 3, 2), hidden=(6,), latent=2, matching=3
)
RECALL = configs.get("vma_recall").model.clone(
    image_shape=(SIDE, SIDE, 1), hidden=(6, 5), latent=2, matching=3
)


@pytest.mark.parametrize(
    ("model", "size"),
    [(FEW_SHOT, M), (RECALL, M), (RECALL, K * B + 1)],
    ids=["convolutional", "dense", "dense, fewer drawn than there are"],
)
def test_torch_has_the_same_model(model: VMA, size: int) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.torch_vma import TorchVMA

    generator = np.random.default_rng(0)
    images = generator.integers(0, 2, (B + size, SIDE, SIDE, 1)).astype(np.float32)
    batch = Batch(jnp.asarray(images[:B]), jnp.arange(B), context=jnp.asarray(images[B:]))
    keys = sampling.sample_keys(jax.random.key(0), batch.index, jnp.arange(K))
    shapes = jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), batch))
    variables = jax.tree.map(
        lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
    )
    address = generator.integers(0, size, (K, B))

    @tiny.quick_jit
    def at_address(variables: Variables) -> tuple[jax.Array, jax.Array]:
        encoding = model.apply(variables, batch, True, method="encode")

        def forced(keys: jax.Array, address: jax.Array) -> Terms:
            given = (variables, batch, encoding, keys, True, address)
            return model.apply(*given, method="terms")

        terms = jax.vmap(forced)(keys, address)
        log_score = jnp.take_along_axis(encoding.posterior.log_probabilities, address.T, axis=1).T
        return terms.log_weights - log_score, log_score

    noise = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (2,))))(keys)
    rival = TorchVMA(model)
    rival.load(variables["params"])
    numbers = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert sum(p.numel() for p in rival.parameters()) == numbers
    as_torch = torch.from_numpy(images).permute(0, 3, 1, 2)
    found = rival(
        as_torch[:B],
        as_torch[B:],
        torch.from_numpy(np.array(noise)),
        torch.from_numpy(address),
    )
    for ours, theirs in zip(at_address(variables), found, strict=True):
        np.testing.assert_allclose(theirs.detach(), ours, rtol=1e-6, atol=1e-4)


def test_torch_has_the_same_objective() -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.torch_vma import vimco

    generator = np.random.default_rng(0)
    log_weights, log_score = generator.normal(0, 2, (2, K, B)).astype(np.float32)

    def ours(log_weights: jax.Array, log_score: jax.Array) -> jax.Array:
        zeros = jnp.zeros((K, B))
        terms = Terms(log_weights, zeros, zeros, log_score, zeros, zeros)
        return objectives.vimco(terms).sum()

    value, gradient = jax.value_and_grad(ours, (0, 1))(log_weights, log_score)
    given = [torch.from_numpy(one).requires_grad_() for one in (log_weights, log_score)]
    total = vimco(*given).sum()
    total.backward()
    np.testing.assert_allclose(total.item(), value, rtol=1e-5)
    for one, expected in itertools.zip_longest(given, gradient):
        np.testing.assert_allclose(one.grad, expected, atol=1e-5)


def test_torch_has_the_same_writer() -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.torch_writer import TorchWriter

    sizes = {"steps": 3, "latent": 2, "encoder_units": 5, "decoder_units": 4}
    ours = Writer(image_shape=(SIDE, SIDE, 1), output="linear", **sizes)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 2, (B, SIDE, SIDE, 1)).astype(np.float32)
    batch = Batch(jnp.asarray(images), jnp.arange(B))
    shapes = jax.eval_shape(lambda: sampling.initialise(ours, jax.random.key(0), batch))
    variables = jax.tree.map(
        lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
    )
    keys = sampling.sample_keys(jax.random.key(1), batch.index, jnp.arange(1))
    terms, _ = sampling.sample_terms(ours, variables, batch, keys, False)
    noise = ours.apply(variables, keys[0], method="_noise")
    rival = TorchWriter(ours, SIDE * SIDE)
    rival.load(variables["params"])
    assert sum(p.numel() for p in rival.parameters()) == sum(
        leaf.size for leaf in jax.tree.leaves(variables)
    )
    found = rival(
        torch.from_numpy(images.reshape(B, -1)),
        torch.from_numpy(np.array(noise)),
    )
    for expected, theirs in zip((terms.log_likelihood, terms.kl), found, strict=True):
        np.testing.assert_allclose(theirs.detach(), expected[0], rtol=1e-5, atol=1e-4)


def test_rematerialising_holds_less() -> None:
    # The images, 784 numbers each, are what is kept of every step.
    assert writing.gradient_gib(16, False) > 3 * writing.gradient_gib(16, True) > 0
