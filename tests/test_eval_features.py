"""eval features: what a linear machine makes of the last hidden layer of recognition."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.svm import LinearSVC

import train
from eval import features, records
from eval.features import LARGEST, SMALLEST, _check, classified, features_of
from eval.likelihood import with_statistics
from eval.run import open_run
from memjax import configs, data
from memjax.configs import published
from memjax.errors import InputError
from memjax.types import Batch
from tests import eval_runs, runs

SPLITS = ("train", "test")


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with eval_runs.one_device():
        yield


@pytest.fixture
def workdir(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return eval_runs.copy(eval_runs.trained(tmp_path_factory.getbasetemp()), tmp_path / "run")


def test_features_are_those_of_the_model(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    split = run.dataset.splits["test"]
    found = features_of(run, split, "none", 0, 0, batch_size=60)
    assert found.shape == (250, 12)
    grey = jnp.asarray(split.images, jnp.float32) / run.dataset.maximum
    batch = Batch(grey, jnp.arange(250))
    encoding = run.model.apply(run.variables, batch, False, method="encode")
    np.testing.assert_allclose(found, encoding.features, rtol=1e-4, atol=1e-5)


def test_accuracy_is_that_of_the_machine(workdir: Path) -> None:
    (found,) = features(
        str(workdir), regularisation=1e-3, binarise=False, batch_norm="moving_average"
    )
    run = open_run(str(workdir), None)
    splits = run.dataset.splits
    of = {name: features_of(run, splits[name], "none", 0, 0, 300) for name in ("train", "test")}
    machine = LinearSVC(C=1 / (1e-3 * 1297), dual=False).fit(of["train"], splits["train"].labels)
    assert found.value == pytest.approx(machine.score(of["test"], splits["test"].labels))
    assert found.value > 0.3  # ten classes, two epochs
    assert found.stderr == pytest.approx(np.sqrt(found.value * (1 - found.value) / 249))
    assert (found.task, found.metric, found.num_images) == ("features", "accuracy", 250)
    assert found.protocol["binarisation_seed"] is None
    assert found.protocol["regularisation"] == 1e-3
    assert [one.identity for one in records.load(run.workdir / "results.json")] == [found.identity]


def test_images_are_binarised_by_their_seed(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    split = run.dataset.splits["test"]
    binary = features_of(run, split, "fixed", 5, 0, 100)
    np.testing.assert_allclose(
        binary, features_of(run, split, "fixed", 5, 0, 77), rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(binary, features_of(run, split, "fixed", 6, 0, 100))
    (said,) = features(str(workdir), binarise=True, binarisation_seed=6)
    assert said.protocol["binarisation_seed"] == 6


def test_statistics_of_batch_norm_are_those_asked_for(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    expected = {}
    for batch_norm in ("pass", "moving_average"):
        (said,) = features(str(workdir), 1e-3, batch_norm=batch_norm)  # type: ignore[arg-type]
        used, _ = with_statistics(run, batch_norm)
        of = {n: features_of(used, run.dataset.splits[n], "none", 0, 0, 300) for n in SPLITS}
        expected[batch_norm] = classified(of, run, 1e-3, 0).mean()
        assert said.value == pytest.approx(expected[batch_norm])
        assert said.protocol["batch_norm"] == batch_norm
    # The moving averages are still on their way, so that these are two answers.
    assert expected["pass"] != expected["moving_average"]


def test_the_papers_accuracy_is_recorded(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the paper had evaluated this very experiment.
    name = "mem_vae_digits"
    monkeypatch.setitem(configs.EXPERIMENTS, name, eval_runs.experiment())
    monkeypatch.setitem(published.FEATURES, name, 0.75)
    assert features(str(workdir))[0].paper == 0.75
    assert features(str(workdir), binarise=True)[0].paper is None
    monkeypatch.undo()
    monkeypatch.setitem(published.FEATURES, name, 0.75)
    assert features(str(workdir))[0].paper is None  # of an experiment that was changed


@pytest.mark.parametrize("regularisation", [SMALLEST, LARGEST])
def test_machine_ends_at_both_ends_of_its_range(workdir: Path, regularisation: float) -> None:
    (found,) = features(str(workdir), regularisation)
    assert found.value is not None
    assert 0 < found.value < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regularisation": 0.0}, "--regularisation: found 0.0, expected 1e-10 to 1000"),
        ({"regularisation": 9e-11}, "--regularisation: found 9e-11, expected 1e-10 to 1000"),
        ({"regularisation": 1e-300}, "--regularisation: found 1e-300, expected 1e-10 to 1000"),
        ({"regularisation": 1001.0}, "--regularisation: found 1001.0, expected 1e-10 to 1000"),
        ({"regularisation": 1e300}, "--regularisation: found 1e+300, expected 1e-10 to 1000"),
        ({"regularisation": float("nan")}, "--regularisation: found nan"),
        ({"regularisation": float("inf")}, "--regularisation: found inf"),
        ({"batch_size": 0}, "--batch-size: found 0, expected at least 1"),
        ({"batch_norm": "batch"}, "--batch-norm: found 'batch', expected one of"),
        ({"seed": -1}, "--seed: found -1, expected 0 to"),
    ],
)
def test_options_that_cannot_be(workdir: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        features(str(workdir), **options)
    assert str(caught.value).startswith(said)


def test_images_without_labels(tmp_path: Path) -> None:
    images = runs.write_images(tmp_path)
    experiment = runs.experiment(images, num_epochs=1)
    train.run(experiment, str(tmp_path / "run"))
    with pytest.raises(InputError, match="has no labels, expected images with labels"):
        features(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("train_class", "test_class", "said"),
    [
        (0, 0, "digits: has one class, expected at least two"),
        (None, 10, "digits: has test images of classes without training images"),
    ],
)
def test_classes_that_cannot_be(
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_class: int | None,
    test_class: int,
    said: str,
) -> None:
    found = data.load("digits")
    splits = dict(found.splits)
    for name, label in (("train", train_class), ("test", test_class)):
        if label is not None:
            labels = np.full(len(splits[name]), label)
            splits[name] = dataclasses.replace(splits[name], labels=labels)
    monkeypatch.setattr(data, "load", lambda *_, **__: dataclasses.replace(found, splits=splits))
    eval_runs.edit_config(workdir)
    with pytest.raises(InputError, match=said):
        features(str(workdir))


def test_features_that_know_the_label_are_refused(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    conditional = configs.get("avme_digits_conditional").model
    with pytest.raises(InputError, match=r"was trained with model\.num_classes 10, expected"):
        _check(dataclasses.replace(run, model=conditional))


def test_a_memory_that_is_given_is_refused(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    reading = configs.get("vma_few_shot").model
    with pytest.raises(InputError, match="is given its memory with each batch, expected a model"):
        _check(dataclasses.replace(run, model=reading))


def test_published_accuracy_is_of_grey_images() -> None:
    protocol = {"binarisation_seed": None, "regularisation": 1e-4}
    assert published.features_accuracy("vae_mnist", protocol) == 0.979
    assert published.features_accuracy("vae_ocr", protocol) is None
    for other in ({"binarisation_seed": 0}, {"regularisation": 1e-3}):
        assert published.features_accuracy("vae_mnist", {**protocol, **other}) is None
