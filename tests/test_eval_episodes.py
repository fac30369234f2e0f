"""eval few-shot, recall, classification and memory: what they write and what they refuse."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from eval import classification, few_shot, likelihood, memory, recall, samples
from eval.classification import most_probable
from eval.episodes import (
    Plan,
    Protocol,
    as_in_training,
    likelihood_of,
    mean_over_episodes,
    open_baseline,
    over_episodes,
)
from eval.recall import draw as recall_draw
from eval.records import Record
from eval.run import open_run
from eval.samples import pictures
from memjax import bounds, configs, data, evaluation, training
from memjax.config import Experiment
from memjax.data import Episodes, Epochs
from memjax.errors import InputError
from memjax.types import Batch
from tests import eval_runs, tiny
from tests.runs import contents, smaller

K, EPISODES = 6, 3
SMALL: dict[str, Any] = {"num_samples": K, "chunk_size": 4, "num_episodes": EPISODES}
NAMES = ("vma_few_shot", "soft_few_shot", "vae_few_shot", "vma_learned_mnist")


def experiment(name: str) -> Experiment:
    base = configs.get(name)
    sizes = {"kind": "dense", "hidden": (6,), "latent": 2, "matching": 3, "memory_size": 5}
    few = {"num_epochs": 1, "batch_size": 4, "save_every": 1}
    sampler: Any = base.sampler
    if isinstance(sampler, Episodes):
        sampler = Episodes(ways=2, shots=2, steps=3)
    return dataclasses.replace(
        base,
        dataset="strokes",
        model=smaller(base.model, **sizes),
        sampler=sampler,
        train=dataclasses.replace(base.train, **few),
    )


@functools.cache
def trained(folder: Path, name: str) -> Path:
    workdir = folder / f"episodes_{name}"
    train.run(experiment(name), str(workdir), stop_at_step=3)
    return workdir


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with eval_runs.one_device():
        yield


@pytest.fixture(params=["vma_few_shot"])
def workdir(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> Path:
    run = trained(tmp_path_factory.getbasetemp(), request.param)
    return Path(shutil.copytree(run, tmp_path / "run"))


any_model = pytest.mark.parametrize("workdir", NAMES[:3], indirect=True)


def by_metric(found: list[Record]) -> dict[str, Record]:
    return {one.metric: one for one in found}


# ---- what is measured


@any_model
def test_few_shot_is_the_likelihood_of_episodes(workdir: Path) -> None:
    found = by_metric(few_shot(str(workdir), (3,), (2,), targets_per_class=1, seed=4, **SMALL))
    run = open_run(str(workdir), None)
    split = run.dataset.splits["test"]
    assert split.labels is not None
    table = data.class_table(split.labels)

    @tiny.quick_jit
    def nll(episode: jax.Array) -> jax.Array:
        key = jax.random.fold_in(training.stream(4, "evaluation_sampler"), episode)
        drawn = data.draw_episode(key, table, ways=3, shots=2, targets_per_class=1)
        images = jnp.asarray(split.images)
        batch = data.gather(
            data.Drawn(drawn.targets, drawn.context), images, key, "none", run.dataset.maximum
        )
        noise = jax.random.fold_in(training.stream(4, "evaluation"), episode)
        weights = evaluation.log_weights(run.model, run.variables, batch, noise, K, K)
        return -bounds.iwae_bound(weights)

    expected = np.array([nll(jnp.int32(episode)) for episode in range(EPISODES)])
    np.testing.assert_allclose(found["nll"].value, expected.mean(), rtol=1e-5)
    error = expected.mean(axis=1).std(ddof=1) / np.sqrt(EPISODES)
    np.testing.assert_allclose(found["nll"].stderr, error, rtol=1e-3)
    one = found["nll"]
    assert (one.task, one.split, one.num_images, one.num_samples) == ("few_shot", "test", 9, K)
    assert one.epochs == 1
    expected_protocol = {
        **{"ways": 3, "shots": 2, "shots_counted": "per_class", "memory_size": 6},
        **{"num_targets": 3, "replacement": False, "class_guaranteed": True, "episodes": 3},
        **{"image_size": [28, 28, 1], "evaluation_seed": 4, "precision": "float32"},
    }
    assert one.protocol.items() >= expected_protocol.items()
    written = json.loads((workdir / "results.json").read_text())
    assert [line["metric"] for line in written] == list(found)


def test_few_shot_goes_through_all_pairs(workdir: Path) -> None:
    found = few_shot(str(workdir), (2, 3), (1, 2), **SMALL)
    pairs = [(one.protocol["ways"], one.protocol["shots"]) for one in found if one.metric == "nll"]
    assert pairs == [(2, 1), (2, 2), (3, 1), (3, 2)]
    addresses = [one for one in found if one.metric == "kl_address"]
    assert len(addresses) == 4 and all((one.value or 0) >= 0 for one in addresses)


def test_shots_counted_in_all(workdir: Path) -> None:
    of_sets = {"shots_counted": "total", "num_targets": 5, **SMALL}
    found = by_metric(few_shot(str(workdir), (3,), (4,), **of_sets))
    assert found["nll"].num_images == 5 * EPISODES
    assert found["nll"].protocol["memory_size"] == 4
    assert not found["nll"].protocol["class_guaranteed"]
    assert "copied" not in found
    # A class of strokes has 20 drawings: of 100 in memory, drawn again and again, few are missing.
    found = by_metric(few_shot(str(workdir), (1,), (100,), replacement=True, **of_sets))
    assert 0.9 < (found["copied"].value or 0) <= 1


def test_targets_stay_the_same_among_more_classes() -> None:
    table = data.class_table(np.repeat(np.arange(9), 10))
    split = data.Split(np.zeros((90, 2, 2, 1), np.uint8), np.repeat(np.arange(9), 10))

    def drawn(ways: int) -> data.Drawn:
        protocol = Protocol(ways, 3, targets_per_class=2, target_classes=2)
        protocol.check(split, "images")
        return protocol.drawer(split)(jax.random.key(3), jnp.int32(0))

    few, all_ways = drawn(2), drawn(9)
    np.testing.assert_array_equal(few.targets, all_ways.targets)
    assert few.context is not None and all_ways.context is not None
    np.testing.assert_array_equal(few.context, all_ways.context[:6])
    assert all_ways.labels is not None
    np.testing.assert_array_equal(all_ways.labels, [0, 0, 1, 1])
    classes = np.asarray(table.index)
    assert len({int(np.argwhere(classes == place)[0, 0]) for place in all_ways.context}) == 9


def test_gain_is_of_the_same_targets(workdir: Path, tmp_path_factory: Any) -> None:
    base = tmp_path_factory.getbasetemp()
    other = Path(shutil.copytree(trained(base, "vae_few_shot"), workdir.parent / "vae"))
    asked = {"ways": (3,), "shots": (2,), "targets_per_class": 1, **SMALL}
    own = by_metric(few_shot(str(workdir), baseline=str(other), **asked))
    less = by_metric(few_shot(str(other), **asked))["nll"].value
    assert own["nll"].value is not None and less is not None
    np.testing.assert_allclose(own["nll_gain"].value, less - own["nll"].value, rtol=1e-4)
    assert own["nll"].protocol["baseline"].startswith("vae_few_shot, model.kind dense")
    assert own["nll"].protocol["baseline"].endswith(", 3 steps")
    zero = by_metric(few_shot(str(workdir), baseline=str(workdir), **asked))["nll_gain"]
    assert (zero.value, zero.stderr) == (0, 0)

    measured = {"num_batches": 2, "num_samples": K, "chunk_size": 4}
    own = by_metric(memory(str(workdir), baseline=str(other), **measured))
    run = open_run(str(other), None)
    plan = Plan("test", as_in_training(run, "test", 0)[0], 2, 0, "batches")
    less = over_episodes(run, plan, likelihood_of(run, K, 4))["nll"].mean()
    assert own["nll"].value is not None
    np.testing.assert_allclose(own["nll_gain"].value, less - own["nll"].value, rtol=1e-4)


def test_a_baseline_of_other_pixels_is_refused(workdir: Path, tmp_path_factory: Any) -> None:
    run = open_run(str(workdir), None)
    # Grey images would be binarised for the one and not for the other.
    fixed = dataclasses.replace(run.experiment.data, binarisation="fixed")
    grey = dataclasses.replace(
        run,
        dataset=dataclasses.replace(run.dataset, maximum=255),
        experiment=dataclasses.replace(run.experiment, data=fixed),
    )
    with pytest.raises(InputError, match=r"^--baseline: data\.binarisation is none in the eval"):
        open_baseline(grey, str(workdir), None)
    densities = dataclasses.replace(run, model=tiny.mem_vae(likelihood="gaussian"))
    with pytest.raises(InputError, match=r"^--baseline: model\.likelihood is bernoulli"):
        open_baseline(densities, str(workdir), None)
    learned = trained(tmp_path_factory.getbasetemp(), "vma_learned_mnist")
    with pytest.raises(InputError, match=r"^--baseline: vma_few_shot reads images in memory"):
        memory(str(learned), baseline=str(workdir))


def test_recall_has_its_targets_in_memory(workdir: Path) -> None:
    found = by_metric(recall(str(workdir), (7,), num_targets=3, **SMALL))
    assert found["nll"].num_images == 3 * EPISODES
    assert found["nll"].protocol["memory_size"] == 7
    run = open_run(str(workdir), None)
    for episode in range(3):
        drawn = recall_draw(30, 7, 3, jax.random.key(episode), jnp.int32(episode))
        assert len(set(np.asarray(drawn.context).tolist())) == 7
        np.testing.assert_array_equal(drawn.targets, drawn.context[:3])
    assert run.reads_context


def test_accuracies_are_those_of_the_larger_sums() -> None:
    # Entries of classes 0, 1, 1: two small probabilities beat one larger.
    classes = jnp.array([0, 1, 1])
    probabilities = jnp.array([[0.4, 0.3, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    np.testing.assert_array_equal(most_probable(probabilities, classes, 3), [1, 0, 1])


def test_classification_by_q_and_by_the_posterior(workdir: Path) -> None:
    found = by_metric(classification(str(workdir), (4,), (2,), num_episodes=8, num_samples=3))
    assert set(found) == {"accuracy_q", "accuracy_posterior"}
    assert all(0 <= (one.value or 0) <= 1 for one in found.values())
    run = open_run(str(workdir), None)
    split = run.dataset.splits["test"]
    drawer = Protocol(4, 2, 1).drawer(split)
    right = {"accuracy_q": [], "accuracy_posterior": []}
    for episode in map(jnp.int32, range(8)):
        key = jax.random.fold_in(training.stream(0, "evaluation_sampler"), episode)
        batch = data.gather(drawer(key, episode), jnp.asarray(split.images), key, "none", 1)
        noise = jax.random.fold_in(training.stream(0, "evaluation"), episode)
        of = (run.model, run.variables, batch)
        log_joint = evaluation.log_joint_of_addresses(*of, noise, 3, 3)
        encoding = run.model.apply(*of[1:], False, method="encode")
        log_q, _ = run.model.apply(*of[1:], encoding, method="address_log_probs")
        for name, logs in (("accuracy_q", log_q), ("accuracy_posterior", log_joint.T)):
            sums = np.exp(logs - logs.max(axis=1, keepdims=True)).reshape(4, 4, 2).sum(axis=-1)
            right[name] += (sums.argmax(axis=1) == np.arange(4)).tolist()
    for name, hits in right.items():
        np.testing.assert_allclose(found[name].value, np.mean(hits))


@pytest.mark.parametrize("workdir", [NAMES[0], NAMES[3]], indirect=True)
def test_memory_measures_and_draws(workdir: Path) -> None:
    found = by_metric(memory(str(workdir), num_batches=2, num_samples=K))
    size = found["nll"].protocol["memory_size"]
    assert size == (4 if found["nll"].experiment == "vma_few_shot" else 5)
    learned = found["nll"].protocol["memory"] == "learned"
    assert learned == ("entropy_posterior" in found) == ("dead_entries" in found)
    for name in ("entropy_prior", "entropy_posterior"):
        assert name not in found or 0 < found[name].value <= np.log(size) + 1e-6
    assert not learned or 0 <= found["dead_entries"].value <= 1
    assert found["nll_shuffled"].value != found["nll"].value
    assert found["nll"].num_images == 2 * 4
    assert (workdir / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_shuffling_moves_the_contents_of_every_entry(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    images = jnp.asarray(run.dataset.splits["test"].images[:6], jnp.float32)
    batch = Batch(images[:2], jnp.arange(2), context=images)
    before = run.model.apply(run.variables, batch, False, method="encode")
    for seed in range(5):
        key = jax.random.key(seed)
        after = run.model.apply(run.variables, batch, before, key, method="shuffle_memory")
        np.testing.assert_array_equal(after.log_posterior, before.log_posterior)
        np.testing.assert_array_equal(after.memory.log_prior, before.memory.log_prior)
        old, new = before.memory.reading.decoder, after.memory.reading.decoder
        moved = (old[:, None] == new[None]).all(axis=-1)
        np.testing.assert_array_equal(moved.sum(axis=0), 1)  # the same contents,
        assert not moved.diagonal().any()  # none at its place


def test_samples_show_the_memory_they_come_from(workdir: Path) -> None:
    assert samples(str(workdir), num_images=4).read_bytes().startswith(b"\x89PNG")
    found = pictures(open_run(str(workdir), None), num_images=4)
    assert list(found) == ["memory", "test images", "reconstructions", "samples"]
    test = data.load("strokes").splits["test"]

    def classes(images: np.ndarray) -> list[int]:
        same = (images[:, None] == test.images[None]).all(axis=(2, 3, 4))
        return test.labels[same.argmax(axis=1)].tolist() if same.any(axis=1).all() else []

    # Two drawings of each of two classes, and others of the same classes.
    in_memory, of_targets = classes(found["memory"]), classes(found["test images"])
    assert len(set(in_memory)) == 2 and in_memory == of_targets
    assert not (found["memory"][:, None] == found["test images"][None]).all(axis=(2, 3, 4)).any()


def test_mean_over_episodes_knows_that_targets_share_one() -> None:
    values = np.array([[1.0, 3.0], [5.0, 7.0]])
    assert mean_over_episodes(values) == {"value": 4.0, "stderr": 2.0}
    assert mean_over_episodes(values[:1]) == {"value": 2.0, "stderr": None}


# ---- what is refused


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        (few_shot, {"ways": (90,)}, "^ways: found 90, expected at most"),
        (
            few_shot,
            {"shots": (17,)},
            "strokes: found 20 drawings of class .*, expected at least 21",
        ),
        (few_shot, {"num_samples": 0}, "^--num-samples: found 0, expected at least 1"),
        (few_shot, {"num_episodes": 0}, "^--num-episodes: found 0"),
        (few_shot, {"replacement": True}, "^--replacement: found True with shots counted per"),
        (few_shot, {"guaranteed": True}, "^--guaranteed: found True with shots counted per"),
        (few_shot, {"split": "valid2"}, "^--split: strokes has no valid2 split"),
        (few_shot, {"seed": -1}, "^--seed: found -1"),
        (few_shot, {"ways": ()}, "^--ways: found no values, expected at least one"),
        (few_shot, {"shots": ()}, "^--shots: found no values"),
        (
            few_shot,
            {"target_classes": 9},
            "^--target-classes: found 9, expected 1 to the 8 classes",
        ),
        (few_shot, {"target_classes": 0}, "^--target-classes: found 0"),
        (
            few_shot,
            {"target_classes": 1, "shots_counted": "total"},
            "^--target-classes: found 1 with shots counted in all",
        ),
        (few_shot, {"baseline": "nowhere"}, "^nowhere/config.json: not found"),
        (memory, {"baseline": "nowhere"}, "^nowhere/config.json: not found"),
        (recall, {"memory_size": ()}, "^--memory-size: found no values"),
        (classification, {"ways": ()}, "^--ways: found no values"),
        (few_shot, {"shots_counted": "total", "shots": (20,)}, "strokes: found 20 drawings"),
        (recall, {"memory_size": (2,)}, "^--memory-size: found 2, expected at least the 64"),
        (recall, {"memory_size": (10**6,)}, "^--memory-size: found 1000000, expected at least"),
        (classification, {"num_samples": -1}, "^--num-samples: found -1, expected at least 0"),
        (classification, {"ways": (0,)}, "^ways: found 0, expected at least 1"),
        (memory, {"num_batches": 0}, "^--num-batches: found 0"),
        (likelihood, {}, "is given its memory with each batch"),
    ],
)
def test_bad_numbers(task: Any, fields: dict[str, Any], message: str, workdir: Path) -> None:
    before = contents(workdir)
    with pytest.raises(InputError, match=message):
        task(str(workdir), **fields)
    assert contents(workdir) == before


@pytest.mark.parametrize("task", [recall, classification, memory])
@pytest.mark.parametrize("workdir", ["vae_few_shot"], indirect=True)
def test_models_without_memory(task: Any, workdir: Path) -> None:
    with pytest.raises(InputError, match=r"vae_few_shot has no (images in memory|addresses)"):
        task(str(workdir))


@pytest.mark.parametrize("task", [classification, memory])
@pytest.mark.parametrize("workdir", ["soft_few_shot"], indirect=True)
def test_models_without_addresses(task: Any, workdir: Path) -> None:
    with pytest.raises(InputError, match="soft_few_shot has no addresses"):
        task(str(workdir))


def test_memory_of_a_learned_model_is_no_recall(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = trained(tmp_path_factory.getbasetemp(), "vma_learned_mnist")
    assert isinstance(open_run(str(run), None).experiment.sampler, Epochs)
    with pytest.raises(InputError, match="has no images in memory"):
        recall(str(run))
    with pytest.raises(InputError, match="vma_learned_mnist has learned its memory"):
        few_shot(str(run))
