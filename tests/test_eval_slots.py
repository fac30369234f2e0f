"""eval slots: preferences of classes, what disabling costs, pictures and numbers."""

import csv
import dataclasses
import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

import train
from eval import likelihood, records, slots
from eval.activations import activations_of
from eval.compare import values_of
from eval.likelihood import file_name, with_statistics
from eval.run import Run, open_run
from eval.slots import (
    _title,
    _top_slots,
    _usage,
    averaged,
    layers_with_slots,
    panels_disabled,
    preferences_of,
)
from memjax import data, plots, sampling, training
from memjax.errors import InputError
from memjax.memory import usage
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

    def log_likelihood() -> np.ndarray:
        found = likelihood(str(workdir), batch_norm="moving_average", **OPTIONS)[0]
        return values_of(epath.Path(workdir / file_name(found)), found.num_images)

    whole = log_likelihood()
    eval_runs.edit_config(workdir, model={"disabled": [1]})
    found = whole - log_likelihood()
    assert cost["[1]"].value == pytest.approx(found.mean(), abs=1e-4)
    assert cost["[1]"].stderr == pytest.approx(found.std(ddof=1) / np.sqrt(20), rel=1e-3)
    assert cost["[1]"].num_samples == 7
    assert cost["[1]"].num_images == 20


def test_usage_is_of_the_mean_over_all_images(workdir: Path) -> None:
    # Each image reads one slot alone, all of them together three of four.
    preferences = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]], np.float64)
    found = _usage(open_run(str(workdir), None), {1: preferences}, {}, {})
    said = {one.metric: one for one in found}
    mean = np.array([0.25, 0.25, 0.5])
    assert said["slot_entropy"].value == pytest.approx(-(mean * np.log(mean)).sum())
    assert said["dead_slots"].value == 0.25
    assert all((one.num_images, one.protocol["layer"]) == (3, 1) for one in found)


@pytest.mark.parametrize("batch_norm", ["pass", "moving_average"])
def test_statistics_and_seeds_are_those_asked_for(workdir: Path, batch_norm: Any) -> None:
    options = {**OPTIONS, "batch_norm": batch_norm, "binarisation_seed": 4, "seed": 3}
    written = {
        (one.metric, str(one.protocol.get("layer", one.protocol.get("disabled")))): one.value
        for one in slots(str(workdir), **options)
    }
    opened = open_run(str(workdir), None)

    def entropy(run: Run, binarisation_seed: int, seed: int) -> float:
        mean = preferences_of(run, (0,), binarisation_seed, seed, batch_size=11)[0].mean(axis=0)
        return usage(mean / mean.sum())["entropy_posterior"]

    run = with_statistics(opened, batch_norm)[0]
    other = "moving_average" if batch_norm == "pass" else "pass"
    assert written["slot_entropy", "0"] == entropy(run, 4, 3)
    others = [(with_statistics(opened, other)[0], 4, 3), (run, 5, 3), (run, 4, 2)]
    assert written["slot_entropy", "0"] not in [entropy(*one) for one in others]


def test_preferences_are_of_binarised_images(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    split = run.dataset.splits["test"]
    key = training.stream(4, "evaluation_binarisation")
    index = jnp.arange(len(split))
    pixels = data.prepare_images(split.images, index, key, "fixed", run.dataset.maximum)
    assert set(np.unique(pixels)) == {0, 1}
    images = (np.asarray(pixels) * run.dataset.maximum).astype(np.uint8)
    black_and_white = dataclasses.replace(split, images=images)
    expected = activations_of(run, black_and_white, ["h_a.0"], "none", 0, 0, 250)["h_a.0"]
    found = preferences_of(run, (0,), 4, 0, batch_size=250)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    grey = activations_of(run, split, ["h_a.0"], "none", 0, 0, 250)["h_a.0"]
    assert not np.allclose(found, grey, rtol=1e-3)


def test_panels_are_of_the_same_samples_with_some_memory_disabled(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    found = panels_disabled(run, (0, 1), 5, num_images=9)
    titles = {
        "whole memory": (),
        "layer 0 disabled": (0,),
        "layer 1 disabled": (1,),
        "layers 0 and 1 disabled": (0, 1),
    }
    assert list(found) == list(titles)
    key = training.stream(5, "samples")
    for title, disabled in titles.items():
        model = run.model.clone(disabled=disabled)
        expected = sampling.generate(model, run.variables, key, 9).means
        np.testing.assert_allclose(found[title], expected, rtol=1e-4, atol=1e-6)
    for one, other in itertools.combinations(found.values(), 2):
        assert not np.allclose(one, other, rtol=1e-3)


def test_panels_of_three_layers_are_named() -> None:
    assert _title((0, 1, 2)) == "layers 0, 1 and 2 disabled"


def test_top_slots_are_drawn_of_their_layers(workdir: Path) -> None:
    run = open_run(str(workdir), None)
    by_class = {0: np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]]), 1: np.array([[0.3, 0.7]] * 2)}
    (axis,) = _top_slots(run, by_class, ["a", "b"]).axes
    first, second = (
        np.asarray(run.model.apply(run.variables, layer, method="slot_images")) for layer in (0, 1)
    )
    rows = [first[[1, 0]], first[[2, 2]], first[[0, 1]], second[[1, 1]], second[[0, 0]]]
    (shown,) = axis.get_images()
    np.testing.assert_array_equal(shown.get_array(), plots.tile(np.concatenate(rows), columns=2))
    titles = [text.get_text() for text in axis.get_yticklabels()]
    assert titles == ["layer 0, 1.", "layer 0, 2.", "layer 0, 3.", "layer 1, 1.", "layer 1, 2."]


def test_images_without_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = runs.write_images(tmp_path)
    workdir = tmp_path / "run"
    train.run(runs.experiment(images, num_epochs=1), str(workdir))
    with caplog.at_level(logging.INFO, "memjax"):
        written = slots(str(workdir), **OPTIONS)
    assert [one.metric for one in written] == ["slot_entropy", "dead_slots"] * 2 + ["nll_cost"] * 3
    assert len(records.load(epath.Path(workdir / "results.json"))) == len(written)
    made = {path.name for path in workdir.iterdir() if path.suffix in (".png", ".csv")}
    assert made == {"slots_disabled.png"}
    said = [one.getMessage() for one in caplog.records if "labels" in one.getMessage()]
    assert said == [f"{images} has no labels: no pictures and CSVs of its classes"]


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
    assert 2 * plots.RADIUS < near < np.linalg.norm(places["a"] - places["c"]) / 5
    assert len(graph.lines) == 1  # a and b alone are correlated


def test_circles_of_the_same_classes_do_not_cover_each_other() -> None:
    rows = np.repeat(np.random.default_rng(0).random((2, 7)), 5, axis=0)
    graph = plots.preferences({0: rows}, list("abcdefghij")).axes[1]
    places = np.array([text.get_position() for text in graph.texts])
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(10, 1)]
    assert gaps.min() > 2 * plots.RADIUS
    assert [circle.get_radius() for circle in graph.patches] == [plots.RADIUS] * 10
    for limits, along in zip((graph.get_xlim(), graph.get_ylim()), places.T, strict=True):
        assert limits[0] < along.min() - plots.RADIUS and along.max() + plots.RADIUS < limits[1]


@pytest.mark.parametrize("shape", [(1, 5), (4, 1), (1, 1), (2, 2)])
def test_few_classes_and_few_slots_are_drawn(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).random(shape)
    figure = plots.preferences({0: rows}, [str(one) for one in range(shape[0])])
    assert len(figure.axes[1].texts) == shape[0]
