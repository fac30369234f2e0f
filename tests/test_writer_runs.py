"""Training, evaluating and drawing with the recurrent writer."""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

import train
from eval import canvas, few_shot, likelihood, samples
from eval.__main__ import main
from eval.canvas import draw
from eval.evaluator import Evaluator, evaluate_split
from eval.run import open_run
from memjax import configs, data, plots
from memjax.config import Experiment
from memjax.data import Recall
from memjax.errors import InputError
from tests import eval_runs, runs

CLASSES = 10


def experiment(name: str, num_epochs: int = 2, **fields: Any) -> Experiment:
    base = configs.get(name)
    few = {"num_epochs": num_epochs, "batch_size": 100, "save_every": 1, "log_every": 1}
    sizes = {"steps": 3, "latent": 2, "encoder_units": 6, "decoder_units": 6, **fields}
    return dataclasses.replace(
        base,
        dataset="digits",
        model=base.model.clone(**sizes),
        train=dataclasses.replace(base.train, **few),
    )


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough that labels mean something; not to be written to."""
    workdir = tmp_path_factory.mktemp("conditional") / "run"
    given = experiment("avme_digits_conditional", num_epochs=30, steps=4, latent=8)
    units = {"encoder_units": 60, "decoder_units": 60}
    with eval_runs.one_device():
        train.run(dataclasses.replace(given, model=given.model.clone(**units)), str(workdir))
    return workdir


@pytest.fixture
def workdir(conditional: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(conditional, tmp_path / "run"))


@pytest.mark.parametrize("name", ["avme_digits_conditional", "draw_mnist"])
def test_a_run_resumes_in_the_same_bits(name: str, tmp_path: Path) -> None:
    given = experiment(name)
    whole = train.run(given, str(tmp_path / "whole"))
    train.run(given, str(tmp_path / "parts"), stop_at_step=5)
    runs.assert_same_bits(train.run(given, str(tmp_path / "parts")), whole)
    for line in runs.metrics(tmp_path / "whole"):
        np.testing.assert_allclose(
            line["objective"], -line["reconstruction_nll"] - line["kl_latent"], rtol=1e-5
        )


def test_samples_are_of_the_class_asked_for(conditional: Path) -> None:
    digits = data.load("digits").splits["train"]
    assert digits.labels is not None
    reader = LogisticRegression(max_iter=500).fit(
        digits.images.reshape(-1, 64) / 255, digits.labels
    )
    labels = np.repeat(np.arange(CLASSES), 20)
    with eval_runs.one_device():
        drawn = draw(open_run(str(conditional), None), len(labels), labels, seed=0)
    found = reader.predict(np.asarray(drawn.means).reshape(-1, 64))
    # By chance it would be a tenth.
    assert (found == labels).mean() > 0.5


def test_pictures_of_the_canvas(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = canvas(str(workdir), num_images=3)
    assert [path.name for path in written] == ["canvas.png", "canvas.gif"]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    with Image.open(workdir / "canvas.gif") as animation:
        assert (animation.format, animation.n_frames) == ("GIF", 4)
        frames = []
        for number in range(4):
            animation.seek(number)
            frames.append(np.asarray(animation.convert("L"), np.float64))
    # What grows is what the prior writes: the canvas after t steps, three digits side by side.
    with eval_runs.one_device():
        drawn = draw(open_run(str(workdir), None), 3, None, seed=0)
    assert drawn.canvases is not None
    np.testing.assert_array_equal(drawn.canvases[-1], drawn.means)
    for frame, canvases in zip(frames, np.asarray(drawn.canvases), strict=True):
        first = frame[3 : 3 + 8 * 3 : 3, 3 : 3 + 8 * 3 : 3]
        np.testing.assert_allclose(first / 255, canvases[0, ..., 0], atol=0.03)

    grids: list[np.ndarray] = []
    original = plots.grid

    def grid(images: np.ndarray, *names: Any) -> Any:
        grids.append(images)
        return original(images, *names)

    monkeypatch.setattr(plots, "grid", grid)
    output = str(workdir / "deep" / "one.png")
    other = canvas(str(workdir), labels=(3, 5), num_images=2, output=output, seed=1)
    assert [path.name for path in other] == ["one.png", "one.gif", "one_samples.png"]
    assert all(path.exists() for path in other)
    # Unrolled the first sample of each label, and then all of them, a row for each label.
    with eval_runs.one_device():
        drawn = draw(open_run(str(workdir), None), 4, np.array([3, 3, 5, 5]), seed=1)
    unrolled, by_label = grids
    np.testing.assert_array_equal(unrolled, np.swapaxes(drawn.canvases[:, ::2], 0, 1))
    np.testing.assert_array_equal(by_label, np.reshape(drawn.means, (2, 2, 8, 8, 1)))
    with eval_runs.one_device():
        unasked = draw(open_run(str(workdir), None), 4, None, seed=1)
    assert not np.allclose(unasked.means, drawn.means)


def test_evaluation_knows_the_labels(workdir: Path) -> None:
    found = {one.metric: one for one in likelihood(str(workdir), num_samples=20, max_images=25)}
    gap = -found["reconstruction_nll"].value - found["kl_latent"].value - found["elbo"].value
    # The ELBO of one sample each, and its two terms, of all samples.
    assert abs(gap) < 1.0
    assert found["log_likelihood"].value > found["elbo"].value

    # Under any other labels the images are much less likely.
    run = open_run(str(workdir), None)
    split = run.dataset.splits["test"]
    assert split.labels is not None
    wrong = data.Split(split.images, (split.labels + 1) % CLASSES)
    splits = {**run.dataset.splits, "test": wrong}
    other = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, splits=splits))
    evaluate = Evaluator(other, 20, [1], 0, 0, 20)
    of_wrong, _ = evaluate_split(other, evaluate, "test", 25, 25)
    assert of_wrong.log_likelihood.mean() < found["log_likelihood"].value - 1
    assert samples(str(workdir), num_images=4).exists()


def test_chunks_and_batches_do_not_change_the_estimate(workdir: Path) -> None:
    values = [
        likelihood(str(workdir), num_samples=6, max_images=8, batch_size=size, chunk_size=chunk)[0]
        for size, chunk in ((8, 6), (3, 4))
    ]
    np.testing.assert_allclose(values[0].value, values[1].value, rtol=1e-5)


@pytest.mark.parametrize("name", ["avme_digits_conditional", "draw_mnist"])
def test_devices_do_not_change_a_run(name: str, tmp_path: Path) -> None:
    given = experiment(name, num_epochs=1)
    four = train.run(given, str(tmp_path / "four"), stop_at_step=10)
    estimates = [likelihood(str(tmp_path / "four"), num_samples=6, max_images=8)[0].value]
    with eval_runs.one_device():
        one = train.run(given, str(tmp_path / "one"), stop_at_step=10)
        estimates.append(likelihood(str(tmp_path / "four"), num_samples=6, max_images=8)[0].value)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4), one.params, four.params
    )
    np.testing.assert_allclose(*estimates, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": (3, 10)}, "--labels: found 10, expected 0 to 9"),
        ({"labels": (-1,)}, "--labels: found -1, expected 0 to 9"),
        ({"num_images": 0}, "--num-images: found 0, expected 1 to 1,000"),
        ({"labels": ()}, "--labels: found none, expected at least one"),
        ({"output": "one.jpg"}, "--output: found one.jpg, expected a name that ends in .png"),
        ({"output": "/dev/null/c.png"}, r"^/dev/null/c.png: cannot be written \(Not a directory"),
    ],
)
def test_bad_options(
    conditional: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules["eval.canvas"], "draw")  # refused before it
    with pytest.raises(InputError, match=message):
        canvas(str(conditional), **options)


def test_models_without_canvas_or_classes(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with eval_runs.one_device():
        other = eval_runs.trained(tmp_path_factory.getbasetemp()).workdir
    with pytest.raises(InputError, match="mem_vae_digits has no canvas, expected a recurrent"):
        canvas(str(other))
    with eval_runs.one_device():
        train.run(experiment("avme_digits", num_epochs=1), str(tmp_path / "run"))
        with pytest.raises(InputError, match="avme_digits was trained without, expected none"):
            canvas(str(tmp_path / "run"), labels=(1,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 9}, "model.num_classes: found 9, expected 0, or at least 10"),
        ({"steps": 0}, "model.steps: found 0, expected at least 1"),
        ({"attention": "gaussian", "read_size": 9}, "model.read_size: found 9, expected 1 to 8"),
    ],
)
def test_what_is_refused_leaves_nothing(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train.run(experiment("avme_digits", **fields), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_labels_that_a_data_set_does_not_have(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 2, (300, 4, 4), np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    given = dataclasses.replace(
        experiment("avme_digits_conditional"), dataset=str(tmp_path / "own.npz")
    )
    with pytest.raises(
        InputError, match=r"model.num_classes: found 10 with .*, which has no labels"
    ):
        train.run(given, str(tmp_path / "run"))


def test_classes_are_not_numbers_within_an_episode(conditional: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sees the classes of its images, expected a model that"):
        few_shot(str(conditional), (2,), (1,), num_episodes=1, num_samples=2)
    given = dataclasses.replace(experiment("avme_digits_conditional"), sampler=Recall(150))
    with pytest.raises(InputError, match="found 10 with Recall, whose labels are numbers within"):
        train.run(given, str(tmp_path / "run"))


def test_the_command_line_says_it_in_one_line(
    conditional: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["canvas", "--workdir", str(conditional), "--labels", "12"]) == 2
    assert capsys.readouterr().err == "error: --labels: found 12, expected 0 to 9\n"


def test_colour_and_grey_levels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    given = experiment("avme_digits", likelihood="gaussian")
    given = dataclasses.replace(
        given,
        dataset=str(tmp_path / "own.npz"),
        data=dataclasses.replace(given.data, binarisation="none"),
    )
    with eval_runs.one_device():
        state = train.run(given, str(tmp_path / "run"))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert canvas(str(tmp_path / "run"), num_images=2)[0].exists()
