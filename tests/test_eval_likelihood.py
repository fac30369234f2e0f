"""eval likelihood: what it writes, what that depends on, and what it refuses."""

import dataclasses
import functools
import io
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memjax
from eval import likelihood
from eval.evaluator import Evaluator, Examples
from eval.partial import Found
from eval.run import evenly_spaced, open_run
from memjax import configs, data, provenance, training
from memjax.errors import InputError, WriteError
from memjax.evaluation import log_weights, pass_statistics
from memjax.types import Batch
from tests import eval_runs
from tests.eval_runs import IMAGES, K
from tests.runs import contents

SMALL = eval_runs.EVALUATION

METRICS = [
    *("log_likelihood", "elbo", "effective_sample_size", "kl_latent", "reconstruction_nll"),
    *("peak_memory_gib", "iwae_bound"),
]
SCHEMA = {
    *("experiment", "task", "dataset", "split", "metric", "value", "stderr", "stderr_seeds"),
    *("seeds", "num_samples", "num_images", "epochs", "steps", "protocol", "hardware"),
    *("versions", "commit", "dirty", "seconds", "paper"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> eval_runs.Trained:
    return eval_runs.trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def workdir(run: eval_runs.Trained, tmp_path: Path) -> Iterator[Path]:
    with eval_runs.one_device():
        yield eval_runs.copy(run, tmp_path / "run")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir in which `likelihood` has run once; not to be written to."""
    return eval_runs.evaluated(tmp_path_factory.getbasetemp())


def results(workdir: Path) -> list[dict[str, Any]]:
    return json.loads((workdir / "results.json").read_text())


def result(workdir: Path, metric: str, **protocol: Any) -> dict[str, Any]:
    """The one record of a metric with that protocol."""
    (found,) = [
        record
        for record in results(workdir)
        if record["metric"] == metric and record["protocol"].items() >= protocol.items()
    ]
    return found


def images_of(workdir: Path, split: str = "test", num_samples: int = K) -> dict[str, np.ndarray]:
    """The one file of per-image values."""
    (path,) = workdir.glob(f"likelihood_{split}_{num_samples}_*.npz")
    with np.load(path) as file:
        return dict(file)


# ---- what is written


def test_every_field_of_the_schema_is_written(evaluated: Path) -> None:
    written = results(evaluated)
    for record in written:
        assert set(record) >= SCHEMA
        assert record["experiment"] == "mem_vae_digits"
        assert (record["task"], record["dataset"], record["split"]) == (
            "likelihood",
            "digits",
            "test",
        )
        assert (record["num_samples"], record["num_images"]) == (K, IMAGES)
        assert (record["epochs"], record["steps"]) == (2, 2 * eval_runs.STEPS_PER_EPOCH)
        assert record["seeds"] == [0]
        assert record["stderr_seeds"] is record["paper"] is None  # one seed, nothing published
        assert record["seconds"] > 0
        assert record["hardware"]
        assert set(record["versions"]) >= {"python", "jax", "flax", "optax"}
        assert record["trained"]["seconds"] > 0
        assert record["protocol"] == {
            "batch_norm": "pass",
            "binarisation_seed": 0,
            "split_order": "contiguous",
            "split_seed": 0,
            "merge_validation": False,
            "precision": "float32",
            "image_size": [8, 8, 1],
            "images": "evenly spaced",
            "evaluation_seed": 0,
            "changed": {
                "model.hidden": [16, 12],
                "model.latent": 4,
                "model.slots": [3, 2],
                "train.batch_size": eval_runs.BATCH_SIZE,
            },
        }
    metrics = [record["metric"] for record in written]
    assert metrics == METRICS
    terms = {name: result(evaluated, name)["value"] for name in ("reconstruction_nll", "kl_latent")}
    # Means over all samples, where the ELBO is of the first.
    assert result(evaluated, "elbo")["value"] == pytest.approx(-sum(terms.values()), abs=1.0)
    assert 0.1 < result(evaluated, "peak_memory_gib")["value"] < 100


def test_values_and_errors_are_those_of_the_images(evaluated: Path) -> None:
    images = images_of(evaluated)
    assert json.loads(str(images["protocol"])) == result(evaluated, "elbo")["protocol"]
    assert images["log_likelihood"].shape == images["effective_sample_size"].shape == (IMAGES,)
    np.testing.assert_array_equal(images["num_samples"], [1, 5, K])
    assert images["iwae_bound"].shape == (3, IMAGES)
    for metric, values in {
        "log_likelihood": images["log_likelihood"],
        "elbo": images["iwae_bound"][0],
        "effective_sample_size": images["effective_sample_size"],
    }.items():
        record = result(evaluated, metric)
        values = np.float64(values)
        assert record["value"] == pytest.approx(values.mean(), rel=1e-9)
        squares = ((values - values.mean()) ** 2).sum()
        expected = np.sqrt(squares / (IMAGES - 1) / IMAGES)
        assert record["stderr"] == pytest.approx(expected, rel=1e-9)
    curve = result(evaluated, "iwae_bound")
    assert curve["x"] == [1, 5, K]
    np.testing.assert_allclose(curve["values"], np.float64(images["iwae_bound"]).mean(axis=1))
    assert np.all(np.diff(curve["values"]) > 0)
    assert curve["value"] is curve["stderr"] is None


def test_numbers_are_of_the_pass_over_the_training_set(evaluated: Path) -> None:
    # The same at once: training images as the last epoch saw them, test images binarised once.
    _, model, variables, _ = memjax.restore(str(evaluated))
    digits = data.load("digits")
    places = evenly_spaced(250, IMAGES)

    @jax.jit
    def evaluate(seen: jax.Array, unseen: jax.Array) -> jax.Array:
        key = training.binarisation_key(0, epoch=1)
        index = jnp.arange(len(seen))
        seen = data.prepare_images(seen, index, key, "every_epoch", digits.maximum)
        noise = training.stream(0, "statistics")
        passed = pass_statistics(model, variables, Batch(seen, index), noise)
        key = training.stream(0, "evaluation_binarisation")
        index = jnp.asarray(places)
        unseen = data.prepare_images(unseen, index, key, "fixed", digits.maximum)
        noise = training.stream(0, "evaluation")
        return log_weights(model, passed, Batch(unseen, index), noise, K, K)

    weights = evaluate(digits.splits["train"].images, digits.splits["test"].images[places])
    expected = np.log(np.mean(np.exp(np.float64(weights) + 40), axis=0)) - 40
    np.testing.assert_allclose(
        images_of(evaluated)["log_likelihood"], expected, rtol=1e-6, atol=1e-4
    )


# ---- what it depends on


def test_the_same_evaluation_replaces_and_another_adds(evaluated: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(evaluated, workdir)
    before = results(workdir)
    with eval_runs.one_device():
        # Batches and chunks of other sizes are no other protocol, and change no answer.
        likelihood(str(workdir), **(SMALL | {"batch_size": 100, "chunk_size": 50}))
        again = results(workdir)
        likelihood(str(workdir), **SMALL, batch_norm="moving_average")
    assert len(again) == len(before) == len(METRICS)
    for old, new in zip(before, again, strict=True):
        assert old["metric"] == new["metric"]
        if new["metric"] in ("log_likelihood", "elbo"):
            assert new["value"] == pytest.approx(old["value"], rel=1e-6)

    assert results(workdir)[: len(METRICS)] == again
    assert len(results(workdir)) == 2 * len(METRICS)
    passed = result(workdir, "log_likelihood", batch_norm="pass")["value"]
    averaged = result(workdir, "log_likelihood", batch_norm="moving_average")["value"]
    # After twenty steps the averages still hold most of their start.
    assert abs(passed - averaged) > 0.01


def test_an_image_does_not_depend_on_how_many_there_are(evaluated: Path, workdir: Path) -> None:
    likelihood(str(workdir), **(SMALL | {"max_images": 5}))
    fewer, more = images_of(workdir), images_of(evaluated)
    assert result(workdir, "log_likelihood")["num_images"] == 5
    # Both are evenly spaced over the split: five of 250, and thirty.
    np.testing.assert_allclose(fewer["log_likelihood"], more["log_likelihood"][::6], rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "most", "places"),
    [(10, 5, [0, 2, 4, 6, 8]), (7, 3, [0, 2, 4]), (3, 9, [0, 1, 2]), (2, None, [0, 1])],
)
def test_images_are_evenly_spaced(size: int, most: int | None, places: list[int]) -> None:
    assert evenly_spaced(size, most).tolist() == places


@pytest.mark.parametrize("sample_devices", [1, 2, 4])
def test_how_devices_share_the_work_does_not_matter(
    run: eval_runs.Trained, evaluated: Path, tmp_path: Path, sample_devices: int
) -> None:
    workdir = eval_runs.copy(run, tmp_path / "run")
    assert jax.local_device_count() == 4
    # Thirty images in batches of twelve: the last one is filled up.
    likelihood(str(workdir), **SMALL, sample_devices=sample_devices)
    one, four = images_of(evaluated), images_of(workdir)
    assert one.pop("protocol") == four.pop("protocol")
    assert set(one) == set(four)
    for name in one:
        np.testing.assert_allclose(four[name], one[name], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "recorded_as"),
    [
        ("binarisation_seed", 1, "binarisation_seed"),
        ("seed", 1, "evaluation_seed"),
        ("precision", "bfloat16", "precision"),
    ],
)
def test_what_the_protocol_names_changes_the_answer(
    evaluated: Path, workdir: Path, field: str, value: Any, recorded_as: str
) -> None:
    likelihood(str(workdir), **SMALL, **{field: value})
    before, after = result(evaluated, "log_likelihood"), result(workdir, "log_likelihood")
    assert after["value"] != before["value"]
    assert after["value"] == pytest.approx(before["value"], abs=1.5)
    assert after["protocol"] == before["protocol"] | {recorded_as: value}


def test_grey_levels_are_not_binarised_where_training_did_not(workdir: Path) -> None:
    eval_runs.edit_config(workdir, data={"binarisation": "none"})
    few = SMALL | {"max_images": 4, "batch_norm": "moving_average"}
    found = [likelihood(str(workdir), **few, binarisation_seed=seed)[0] for seed in (0, 1)]
    assert found[0].value == found[1].value
    assert found[0].protocol["binarisation_seed"] is None
    assert len(results(workdir)) == len(METRICS)


@pytest.mark.parametrize(("split", "size"), [("valid", 250), ("train", 1297)])
def test_whole_splits_of_other_names(workdir: Path, split: Any, size: int) -> None:
    few = {"num_samples": 2, "batch_size": 200, "batch_norm": "moving_average"}
    likelihood(str(workdir), split=split, max_images=5000, **few)
    images = images_of(workdir, split, 2)
    assert {key: value.shape for key, value in images.items()} == {
        "protocol": (),
        "log_likelihood": (size,),
        "effective_sample_size": (size,),
        "iwae_bound": (2, size),
        "num_samples": (2,),
    }
    record = result(workdir, "log_likelihood")
    assert (record["split"], record["num_images"]) == (split, size)


def test_published_values_are_of_the_test_split(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(str(workdir), None)
    published = dataclasses.replace(run.experiment.reference, metric="log_likelihood", value=-1.5)
    experiment = dataclasses.replace(run.experiment, reference=published)
    monkeypatch.setitem(configs.EXPERIMENTS, experiment.name, experiment)
    run = dataclasses.replace(run, experiment=experiment)
    papers = {
        (task, split, metric): run.record(task, split, metric).paper
        for task in ("likelihood", "memory")
        for split in ("train", "valid", "test")
        for metric in ("log_likelihood", "elbo")
    }
    assert {what for what, paper in papers.items() if paper == -1.5} == {
        ("likelihood", "test", "log_likelihood"),
        *(("memory", split, "log_likelihood") for split in ("train", "valid", "test")),
    }
    assert set(papers.values()) == {None, -1.5}


def test_one_sample_of_one_image(workdir: Path) -> None:
    written = likelihood(str(workdir), num_samples=1, max_images=1, batch_norm="moving_average")
    by_metric = {record.metric: record for record in written}
    assert by_metric["log_likelihood"].value == by_metric["elbo"].value
    assert by_metric["log_likelihood"].stderr is None
    assert by_metric["effective_sample_size"].value == pytest.approx(1)
    assert by_metric["iwae_bound"].x == [1]


def test_checkpoint_of_the_step_is_evaluated(workdir: Path) -> None:
    few = {"num_samples": 2, "max_images": 2, "batch_norm": "moving_average"}
    first, last = eval_runs.STEPS_PER_EPOCH, 2 * eval_runs.STEPS_PER_EPOCH
    found = [likelihood(str(workdir), step=step, **few)[0] for step in (first, last)]
    assert [(record.steps, record.epochs) for record in found] == [(first, 1), (last, 2)]
    assert found[0].value < found[1].value  # it has learnt something
    assert len(results(workdir)) == 2 * len(METRICS)
    assert len(list(workdir.glob("*.npz"))) == 2  # neither took the other's place


def test_statistics_of_a_part_of_the_training_set_are_said(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = sys.modules[likelihood.__module__]
    few = {"num_samples": 2, "max_images": 2}
    whole = likelihood(str(workdir), **few)[0]
    monkeypatch.setattr(module, "STATISTICS_PIXELS", 100 * 64 + 63)
    with caplog.at_level(logging.WARNING, logger="memjax"):
        part = likelihood(str(workdir), **few)[0]
    assert part.protocol == whole.protocol | {"statistics_images": 100}
    assert part.value != whole.value
    assert "batch statistics of the first 100 of 1297 images" in caplog.text


def test_an_experiment_of_ones_own(workdir: Path, run: eval_runs.Trained) -> None:
    eval_runs.edit_config(workdir, name="mine")
    few = {"num_samples": 2, "max_images": 2, "batch_norm": "moving_average"}
    with pytest.raises(InputError, match="experiment 'mine': unknown"):
        likelihood(str(workdir), **few)
    mine = dataclasses.replace(run.experiment, name="mine")
    found = likelihood(str(workdir), **few, experiment=mine)[0]
    assert found.experiment == "mine"
    assert "changed" not in found.protocol


# ---- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "--num-samples: found 0, expected at least 1"),
        ({"chunk_size": 0}, "--chunk-size: found 0, expected at least 1"),
        ({"batch_size": -2}, "--batch-size: found -2, expected at least 1"),
        ({"max_images": 0}, "--max-images: found 0, expected at least 1"),
        ({"batch_norm": "foo"}, "--batch-norm: found 'foo', expected one of"),
        ({"precision": "foo"}, "--precision: found 'foo', expected one of"),
        ({"step": 3}, "no checkpoint of step 3, expected one of"),
    ],
)
def test_bad_arguments_write_nothing(
    workdir: Path, arguments: dict[str, Any], message: str
) -> None:
    before = contents(workdir)
    with pytest.raises(InputError, match=message):
        likelihood(str(workdir), **arguments)
    assert contents(workdir) == before


def test_missing_split_names_those_that_are_there(workdir: Path) -> None:
    eval_runs.edit_config(workdir, data={"merge_validation": True})
    expected = "--split: digits has no valid split in this run, expected one of train, test$"
    with pytest.raises(InputError, match=expected):
        likelihood(str(workdir), split="valid")


def test_own_file_that_was_replaced_is_refused(workdir: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, images=np.zeros((40, 6, 5), np.uint8))
    eval_runs.edit_config(workdir, dataset=str(path))
    with pytest.raises(InputError, match=r"images are \(6, 5, 1\), expected \(8, 8, 1\) as in"):
        likelihood(str(workdir))


def test_own_file_of_other_images_is_refused(workdir: Path) -> None:
    path = workdir / "config.json"
    document = json.loads(path.read_text())
    sha256 = data.load("digits").digest()
    assert document["data_sha256"] == sha256
    path.write_text(json.dumps(document | {"data_sha256": "0" * 64}))
    with pytest.raises(
        InputError,
        match=rf"^digits: holds images with SHA-256 {sha256[:12]}, expected .* on, 0{{12}}$",
    ):
        likelihood(str(workdir))


def test_images_that_cannot_be_written_are_said(workdir: Path, evaluated: Path) -> None:
    (file,) = evaluated.glob("*.npz")
    (workdir / file.name).mkdir()
    with pytest.raises(WriteError, match=rf"{file.name}: cannot be written \(.*\)$"):
        likelihood(str(workdir), **SMALL)
    assert not (workdir / "results.json").exists()


def test_results_that_are_a_folder_are_said(workdir: Path) -> None:
    (workdir / "results.json").mkdir()
    with pytest.raises(InputError, match=r"results\.json: expected a JSON list of memjax records"):
        likelihood(str(workdir), num_samples=1, max_images=1)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"metric": "nll"}]', '[{"colour": "red"}]'])
def test_results_that_are_none_are_refused_and_kept(workdir: Path, text: str) -> None:
    (workdir / "results.json").write_text(text)
    few = {"num_samples": 1, "max_images": 1, "batch_norm": "moving_average"}
    with pytest.raises(InputError, match=r"results\.json: expected a JSON list of memjax records"):
        likelihood(str(workdir), **few)
    assert (workdir / "results.json").read_text() == text


# ---- what is interrupted goes on


HERE = functools.cache(provenance.describe)  # a commit beside the tests would be other code


def interrupted(
    monkeypatch: pytest.MonkeyPatch, workdir: Path, batches: int, **options: Any
) -> int:
    """Evaluate, broken off before the next batch after so many; returns how many were taken."""
    taken = 0

    class Counted(Evaluator):
        def __call__(self, examples: Examples) -> Found:
            nonlocal taken
            if taken == batches:
                raise KeyboardInterrupt
            taken += 1
            return super().__call__(examples)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["eval.likelihood"], "Evaluator", Counted)
        patch.setattr("eval.partial.SAVED_EVERY", 0)
        patch.setattr("eval.records.here", HERE)
        try:
            likelihood(str(workdir), **(SMALL | options))
        except KeyboardInterrupt:
            assert taken == batches
    return taken


ALL_BATCHES = 3  # of 12 images each, the last of six


def assert_same_values(workdir: Path, expected: Path) -> None:
    found = images_of(workdir)
    for name, values in images_of(expected).items():
        np.testing.assert_array_equal(found[name], values)
    for metric in METRICS[:5]:
        assert result(workdir, metric)["value"] == result(expected, metric)["value"]
    assert not list(workdir.glob("*.partial*"))


def test_an_interrupted_evaluation_goes_on_to_the_same_bits(
    evaluated: Path,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interrupted(monkeypatch, workdir, 1)
    interrupted(monkeypatch, workdir, 1)
    assert not list(workdir.glob("*.npz")) and not (workdir / "results.json").exists()
    (path,) = workdir.glob("*.partial")
    with np.load(path) as file:
        assert float(file["seconds"]) > 0
    with caplog.at_level(logging.INFO, logger="memjax"):
        assert interrupted(monkeypatch, workdir, 9) == ALL_BATCHES - 2
    assert "going on with an evaluation that has finished 24 images" in caplog.text
    assert_same_values(workdir, evaluated)


def test_what_the_values_depend_on_is_not_mixed(
    evaluated: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, workdir, 2)
    # Another seed, and another checkpoint.
    assert interrupted(monkeypatch, workdir, 9, seed=1) == ALL_BATCHES
    assert interrupted(monkeypatch, workdir, 9, step=eval_runs.STEPS_PER_EPOCH) == ALL_BATCHES
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "HERE", lambda: {**provenance.describe(), "commit": "another"})
        assert interrupted(patch, workdir, 9) == ALL_BATCHES
    for path in workdir.glob("*.npz"):
        path.unlink()
    (workdir / "results.json").unlink()
    # Batches of another size are no other evaluation: 24 images are done, six are left.
    assert interrupted(monkeypatch, workdir, 9, batch_size=4) == 2
    np.testing.assert_array_equal(
        images_of(workdir)["log_likelihood"][:24], images_of(evaluated)["log_likelihood"][:24]
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_part_is_said_and_left_out(
    damage: str,
    evaluated: Path,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interrupted(monkeypatch, workdir, 2)
    (path,) = workdir.glob("*.partial")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        place = content.index(np.load(io.BytesIO(content))["log_likelihood"].tobytes())
        content[place] ^= 1
    elif damage == "other":
        with np.load(io.BytesIO(content)) as file:
            values = {**file, "of": "another"}
        with path.open("wb") as opened:
            np.savez(opened, **values)
        content = bytearray(path.read_bytes())
    path.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(damage)])
    assert interrupted(monkeypatch, workdir, 9) == ALL_BATCHES
    assert "cannot be used" in caplog.text and "beginning anew" in caplog.text
    assert_same_values(workdir, evaluated)


def test_a_part_that_cannot_be_written_is_said(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, workdir, 1)
    (path,) = workdir.glob("*.partial")
    path.unlink()
    path.mkdir()
    with pytest.raises(WriteError, match=r"partial: cannot be written \(.*\)$"):
        interrupted(monkeypatch, workdir, 1)
