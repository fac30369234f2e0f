"""eval few-shot, recall, classification and memory: what they write and what they refuse."""

import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from eval import classification, compare, episodes, few_shot, likelihood, memory, recall, samples
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
from eval.run import Run, open_run
from eval.samples import pictures
from memjax import bounds, configs, data, evaluation, plots, sampling, training
from memjax.config import Experiment
from memjax.data import Episodes, Epochs
from memjax.errors import InputError
from memjax.memory import usage
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


def by_metric(found: list[Record]) -> dict[str, Record]:
    return {one.metric: one for one in found}


def addresses(run: Run, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """log q(a | x) and log p(a)."""
    encoding = run.model.apply(run.variables, batch, False, method="encode")
    return run.model.apply(run.variables, batch, encoding, method="address_log_probs")


# ---- what is measured


@pytest.mark.parametrize(
    ("workdir", "of_split"),
    [(NAMES[0], "train"), (NAMES[1], "test"), (NAMES[2], "train")],
    indirect=["workdir"],
)
def test_few_shot_is_the_likelihood_of_episodes(workdir: Path, of_split: Any) -> None:
    asked = {"targets_per_class": 1, "seed": 4, "split": of_split, **SMALL}
    found = by_metric(few_shot(str(workdir), (3,), (2,), **asked))
    run = open_run(str(workdir), None)
    split = run.dataset.splits[of_split]
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
    assert (one.task, one.split, one.num_images, one.num_samples) == ("few_shot", of_split, 9, K)
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


def test_images_are_binarised_once_and_copies_are_of_an_image(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 28, 28, 1), dtype=np.uint8)
    splits = {"train": data.Split(images[0]), "test": data.Split(images[1])}
    fixed = dataclasses.replace(run.experiment.data, binarisation="fixed")
    grey = dataclasses.replace(
        run,
        dataset=dataclasses.replace(run.dataset, splits=splits, maximum=255),
        experiment=dataclasses.replace(run.experiment, data=fixed),
    )
    # Both targets are of a class that is in memory, the first is there itself.
    drawn = data.Drawn(*map(jnp.array, ([4, 6], [2, 4, 8], [1, 0], [0, 1, 0])))
    plan = Plan("train", lambda key, episode: drawn, 2, 3, "episodes")
    found = over_episodes(
        grey, plan, lambda _, batch, key: {"own": batch.images, "others": batch.context}, True
    )
    ink = training.stream(3, "evaluation_binarisation")
    for name, places in (("own", drawn.targets), ("others", drawn.context)):
        expected = data.binarise(jnp.asarray(images[0])[places], ink, places, 255)
        np.testing.assert_array_equal(found[name], [expected] * 2)
    np.testing.assert_array_equal(found["copied"], [[True, False]] * 2)


@pytest.mark.parametrize(
    ("workdir", "task", "metric", "paper"),
    [
        ("vae_few_shot", few_shot, "nll", 90.8),
        ("vma_few_shot", classification, "accuracy_q", 0.91),
    ],
    indirect=["workdir"],
)
def test_the_papers_value_is_of_the_test_split(
    workdir: Path, task: Any, metric: str, paper: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A changed experiment would have none.
    name = open_run(str(workdir), None).experiment.name
    monkeypatch.setitem(configs.EXPERIMENTS, name, experiment(name))
    found = {metric: np.zeros((1, 1))}
    module = sys.modules[task.__module__]
    monkeypatch.setattr(module, "over_episodes", lambda *_, **__: dict(found))
    for split, expected in (("test", paper), ("train", None)):
        (one,) = task(str(workdir), (5,), (1,), split=split)
        assert one.paper == expected


def test_targets_stay_the_same_among_more_classes() -> None:
    table = data.class_table(np.repeat(np.arange(9), 10))
    split = data.Split(np.zeros((90, 2, 2, 1), np.uint8), np.repeat(np.arange(9), 10))

    def drawn(ways: int) -> data.Drawn:
        protocol = Protocol(ways, 3, targets_per_class=2, target_classes=2)
        protocol.check(split, "images")
        return protocol.drawer(split)(jax.random.key(3), jnp.int32(0))

    described = Protocol(9, 3, targets_per_class=2, target_classes=2).describe()
    assert (described["target_classes"], described["num_targets"]) == (2, 4)
    assert "target_classes" not in Protocol(9, 3).describe()
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


def test_a_baseline_is_of_the_same_data_and_sees_no_classes(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(str(workdir), None)
    splits = {**run.dataset.splits, "test": run.dataset.splits["valid"]}
    other_images = dataclasses.replace(run.dataset, splits=splits)
    baselines = {
        "same": run,
        "images": dataclasses.replace(run, dataset=other_images),
        "classes": dataclasses.replace(run, model=SimpleNamespace(num_classes=3)),
    }
    asked = []

    def opened(workdir: str, data_dir: str) -> Run:
        asked.append(data_dir)
        return baselines[workdir]

    monkeypatch.setattr(episodes, "open_run", opened)
    assert open_baseline(run, "same", "data") is run
    assert asked == ["data"]
    with pytest.raises(InputError, match="is of other images than"):
        open_baseline(run, "images", "data")
    with pytest.raises(InputError, match="sees the classes of its images"):
        open_baseline(run, "classes", "data")


def test_recall_has_its_targets_in_memory(workdir: Path) -> None:
    asked = {"num_targets": 3, "split": "train", "seed": 4, **SMALL}
    found = by_metric(recall(str(workdir), (7,), **asked))
    assert found["nll"].num_images == 3 * EPISODES
    assert found["nll"].protocol["memory_size"] == 7
    run = open_run(str(workdir), None)
    images = run.dataset.splits["train"].images
    hits = []
    for episode in range(EPISODES):
        key = jax.random.fold_in(training.stream(4, "evaluation_sampler"), episode)
        places = jax.random.permutation(key, len(images))[:7]
        context = jnp.asarray(images[places], jnp.float32)
        log_q, _ = addresses(run, Batch(context[:3], places[:3], context=context))
        hits.append(jnp.exp(log_q).diagonal())  # a target's own place alone
    np.testing.assert_allclose(found["same_class"].value, np.mean(hits), rtol=1e-5)
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


@pytest.mark.parametrize(
    ("workdir", "asked", "batches", "size"),
    [(NAMES[0], 9, 3, 4), (NAMES[3], 2, 2, 5)],  # an epoch of the first has three batches
    indirect=["workdir"],
)
def test_memory_measures_and_draws(workdir: Path, asked: int, batches: int, size: int) -> None:
    measured: Any = {"num_batches": asked, "num_samples": K, "split": "train", "seed": 4}
    with pytest.raises(InputError, match=r"^/dev/null/m.png: cannot be written \(Not a directory"):
        memory(str(workdir), output="/dev/null/m.png", **measured)
    assert not (workdir / "results.json").exists()  # it is refused before anything is measured
    found = by_metric(memory(str(workdir), **measured))
    assert found["nll"].num_images == batches * 4
    assert found["nll"].protocol["memory_size"] == size
    assert 0 < found["entropy_prior"].value <= np.log(size) + 1e-6
    assert (workdir / "memory.png").read_bytes().startswith(b"\x89PNG")

    run = open_run(str(workdir), None)
    images, (draw, _) = run.dataset.splits["train"].images, as_in_training(run, "train", 4)

    @tiny.quick_jit
    def by_hand(episode: jax.Array) -> tuple[jax.Array, ...]:
        key = jax.random.fold_in(training.stream(4, "evaluation_sampler"), episode)
        batch = data.gather(draw(key, episode), jnp.asarray(images), key, "none", 1)
        noise = jax.random.fold_in(training.stream(4, "evaluation"), episode)
        of_shuffle, noise = jax.random.split(noise)
        own = run.model.apply(run.variables, batch, False, method="encode")
        shuffle = functools.partial(run.model.apply, method="shuffle_memory")
        shuffled = shuffle(run.variables, batch, own, of_shuffle)
        own_nll, shuffled_nll = (
            -bounds.iwae_bound(
                evaluation.log_weights_of_encoding(
                    run.model, run.variables, batch, encoding, noise, K, K
                )[0]
            )
            for encoding in (own, shuffled)
        )
        return own_nll, shuffled_nll, jnp.exp(own.posterior.log_probabilities)

    of_batches = [by_hand(jnp.int32(episode)) for episode in range(batches)]
    nll, nll_shuffled, posterior = (np.concatenate(one) for one in zip(*of_batches, strict=True))
    expected = {"nll": nll.mean(), "nll_shuffled": nll_shuffled.mean()}
    assert expected["nll"] != expected["nll_shuffled"]
    if run.model.memory == "learned":
        expected |= usage(posterior.mean(axis=0))
    assert expected.keys() <= found.keys() and ("dead_entries" in found) == (len(expected) == 4)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].value, value, rtol=1e-6)


@pytest.mark.parametrize("workdir", [NAMES[3]], indirect=True)
def test_the_picture_is_of_entries_drawn_from_their_prior(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(str(workdir), None)
    # Sharper than after three steps, so that neither p(a) nor the entries look alike.
    params = jax.tree.map(lambda leaf: 3 * leaf, run.variables["params"])
    params["prior_query"] *= 100
    run = dataclasses.replace(run, variables={**run.variables, "params": params})
    draw, _ = as_in_training(run, "test", 4)
    shown: dict[str, np.ndarray] = {}
    module = sys.modules[memory.__module__]
    monkeypatch.setattr(plots, "memory", lambda **arrays: shown.update(arrays))
    monkeypatch.setattr(module, "ENTRIES", 3)
    module.picture(run, draw, "test", 4)

    of_samples, places, _, of_choice, of_targets = jax.random.split(
        training.stream(4, "samples"), 5
    )
    images = jnp.asarray(run.dataset.splits["test"].images)
    batch = data.gather(draw(places, jnp.int32(0)), images, places, "none", 1)
    log_q, log_p = addresses(run, batch)
    gumbel = jax.random.gumbel(of_choice, (5,))
    drawn = np.argsort(-(log_p + gumbel))[:3]
    assert list(drawn) != list(np.argsort(-gumbel)[:3])  # as a flat prior would have it
    np.testing.assert_array_equal(shown["address"], drawn)
    for name, address in {"entries": np.arange(5), "means": np.repeat(drawn, 8)}.items():
        of = (run.model, run.variables, of_samples, len(address))
        expected = sampling.generate(*of, address=jnp.asarray(address)).means
        np.testing.assert_allclose(shown[name], expected, rtol=1e-4, atol=1e-6)
    chosen = jax.random.permutation(of_targets, 4)
    np.testing.assert_array_equal(shown["targets"], batch.images[chosen])
    np.testing.assert_allclose(shown["probabilities"], jnp.exp(log_q)[chosen], rtol=1e-4)


def test_shuffling_moves_the_contents_of_every_entry(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    images = jnp.asarray(run.dataset.splits["test"].images[:6], jnp.float32)
    batch = Batch(images[:2], jnp.arange(2), context=images)
    before = run.model.apply(run.variables, batch, False, method="encode")
    for seed in range(5):
        key = jax.random.key(seed)
        after = run.model.apply(run.variables, batch, before, key, method="shuffle_memory")
        jax.tree.map(
            np.testing.assert_array_equal,
            (after.posterior, after.prior),
            (before.posterior, before.prior),
        )
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


def test_a_model_that_is_given_its_memory_has_no_likelihood_to_compare(workdir: Path) -> None:
    with pytest.raises(InputError, match="no log p\\(x\\) to compare, expected `eval few-shot"):
        compare((str(workdir),))


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
