"""eval slots: preferences of classes, what disabling costs, pictures and numbers."""

import csv
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import train
from eval import likelihood, records, slots
from eval.run import open_run
from eval.slots import averaged, layers_with_slots, preferences_of
from memjax import plots
from memjax.errors import InputError
from tests import eval_runs, runs

OPTIONS: dict[str, Any] = {"num_samples": 7, "max_images": 20, "chunk_size": 3, "batch_size": 11}


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with eval_runs.one_device():
        yield


@pytest.fixture
def workdir(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return eval_runs.copy(eval_runs.trained(tmp_path_factory.getbasetemp()), tmp_path / "run")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[records.Record]]:
    """A workdir with its slots; not to be written to."""
    base = tmp_path_factory.getbasetemp()
    workdir = eval_runs.copy(eval_runs.trained(base), base / "with_slots")
    with eval_runs.one_device():
        return workdir, slots(str(workdir), batch_norm="moving_average", **OPTIONS)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_preferences_are_averaged_by_class_and_divided_by_their_sum() -> None:
    preferences = np.array([[0.2, 0.6], [0.4, 0.6], [0.5, 0.5], [0.9, 0.3]])
    found = averaged(preferences, np.array([3, 3, 7, 3]))
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.5, 0.5]])
    found = averaged(preferences[:3], np.array([3, 3, 7]))
    np.testing.assert_allclose(found, [[1 / 3, 2 / 3], [0.5, 0.5]])


def test_everything_is_written(evaluated: tuple[Path, list[records.Record]]) -> None:
    workdir, written = evaluated
    run = open_run(str(workdir), None)
    kept = records.load(run.workdir / "results.json")
    assert [one.identity for one in kept] == [one.identity for one in written]
    said = {(one.metric, str(one.protocol.get("layer"))): one for one in written}
    for layer, count in ((0, 3), (1, 2)):
        numbers = rows_of(workdir / f"slots_{layer}.csv")
        assert numbers[0] == ["class", *map(str, range(count))]
        assert [row[0] for row in numbers[1:]] == [str(one) for one in range(10)]
        for row in numbers[1:]:
            assert sum(map(float, row[1:])) == pytest.approx(1, abs=1e-4)
        entropy = said["slot_entropy", str(layer)]
        assert entropy.value is not None
        assert 0 < entropy.value <= math.log(count) + 1e-6
        assert entropy.num_images == 250
        assert said["dead_slots", str(layer)].value == 0
    for name in ("slots", "slots_top", "slots_disabled"):
        with Image.open(workdir / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture))) > 20


def test_top_slots_are_those_that_are_preferred(
    evaluated: tuple[Path, list[records.Record]],
) -> None:
    workdir, _ = evaluated
    top = rows_of(workdir / "slots_top.csv")
    assert top[0] == ["layer", "class", "rank", "slot", "preference"]
    assert len(top) == 1 + 10 * (3 + 2)  # the layer next to z has two slots
    for layer in ("0", "1"):
        numbers = {row[0]: row[1:] for row in rows_of(workdir / f"slots_{layer}.csv")[1:]}
        for name in numbers:
            of_class = [row for row in top if row[:2] == [layer, name]]
            preferences = [float(row[4]) for row in of_class]
            assert preferences == sorted(map(float, numbers[name]), reverse=True)[:3]
            assert [numbers[name][int(row[3])] for row in of_class] == [row[4] for row in of_class]


def test_preferences_are_the_model_s(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    found = preferences_of(run, (0, 1), 4, 0, batch_size=60)
    again = preferences_of(run, (0, 1), 4, 0, batch_size=250)
    for layer, count in ((0, 3), (1, 2)):
        assert found[layer].shape == (250, count)
        np.testing.assert_allclose(found[layer], again[layer], rtol=1e-4)
        assert found[layer].min() > 0
        assert found[layer].max() < 1


def test_cost_is_the_difference_of_two_likelihoods(
    evaluated: tuple[Path, list[records.Record]], workdir: Path
) -> None:
    written = evaluated[1]
    cost = {str(one.protocol["disabled"]): one for one in written if one.metric == "nll_cost"}
    assert list(cost) == ["[0]", "[1]", "[0, 1]"]

    def log_likelihood() -> float:
        found = likelihood(str(workdir), batch_norm="moving_average", **OPTIONS)[0]
        assert found.value is not None
        return found.value

    whole = log_likelihood()
    eval_runs.edit_config(workdir, model={"disabled": [1]})
    assert cost["[1]"].value == pytest.approx(whole - log_likelihood(), abs=1e-4)
    assert cost["[1]"].stderr is not None
    assert cost["[1]"].num_samples == 7
    assert cost["[1]"].num_images == 20


def test_images_without_labels(tmp_path: Path) -> None:
    images = runs.write_images(tmp_path)
    train.run(runs.experiment(images, num_epochs=1), str(tmp_path / "run"))
    with pytest.raises(InputError, match="has no labels, expected images with labels"):
        slots(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"slots": ()}, "mem_vae_digits has no slots in its layers, expected a model with"),
        ({"slots": (0, 0)}, "mem_vae_digits has no slots in its layers"),
        ({"disabled": (1,)}, "was trained with model.disabled (1,), expected all of its memory"),
    ],
)
def test_models_that_have_no_whole_memory(workdir: Path, fields: dict[str, Any], said: str) -> None:
    run = open_run(str(workdir), None)
    with pytest.raises(InputError) as caught:
        layers_with_slots(dataclasses.replace(run, model=run.model.clone(**fields)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_samples": 0}, "--num-samples: found 0, expected at least 1"),
        ({"max_images": 0}, "--max-images: found 0, expected at least 1"),
        ({"batch_norm": "batch"}, "--batch-norm: found 'batch', expected one of"),
    ],
)
def test_options_that_cannot_be(workdir: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        slots(str(workdir), **options)
    assert str(caught.value).startswith(said)


def test_classes_alike_lie_close_together() -> None:
    rows = np.array([[0.5, 0.3, 0.2, 0.0], [0.5, 0.31, 0.19, 0.0], [0.0, 0.1, 0.1, 0.8]])
    figure = plots.preferences({0: rows}, ["a", "b", "c"])
    graph = figure.axes[1]
    places = {text.get_text(): np.array(text.get_position()) for text in graph.texts}
    near = np.linalg.norm(places["a"] - places["b"])
    assert near < np.linalg.norm(places["a"] - places["c"]) / 10
    assert len(graph.lines) == 1  # a and b alone are correlated


@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (1, 1), (2, 2)])
def test_few_classes_and_few_slots_are_drawn(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).random(shape)
    figure = plots.preferences({0: rows}, [str(one) for one in range(shape[0])])
    assert len(figure.axes[1].texts) == shape[0]
