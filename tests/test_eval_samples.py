"""eval samples and eval compare: pictures and the table beside them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eval import compare, likelihood, samples
from eval.likelihood import with_statistics
from eval.run import open_run
from eval.samples import pictures
from memjax import data, training
from memjax.errors import InputError
from memjax.types import Batch
from tests import eval_records, eval_runs, tiny

LAST = 2 * eval_runs.STEPS_PER_EPOCH


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with eval_runs.one_device():
        yield


@pytest.fixture
def workdir(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return eval_runs.copy(eval_runs.trained(tmp_path_factory.getbasetemp()), tmp_path / "run")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with a likelihood; not to be written to."""
    return eval_runs.evaluated(tmp_path_factory.getbasetemp())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_samples_draws_three_panels(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = samples(str(workdir), num_images=9)
    assert str(path) == str(workdir / "samples.png") == capsys.readouterr().out.strip()
    shown = pixels(workdir / "samples.png")
    # Means of p(x | z) are grey, and each third of the picture has many of them.
    for third in np.array_split(shown, 3, axis=1):
        assert len(np.unique(third)) > 20

    samples(str(workdir), num_images=9, output=str(workdir / "deep" / "again.png"))
    assert (workdir / "deep" / "again.png").read_bytes() == Path(path).read_bytes()
    samples(str(workdir), num_images=9, output=str(workdir / "other.png"), seed=1)
    assert (workdir / "other.png").read_bytes() != Path(path).read_bytes()
    samples(str(workdir), num_images=9, output=str(workdir / "drawn.png"), draws=True)
    assert pixels(workdir / "drawn.png").shape[1] > shown.shape[1]


def test_pictures_are_of_the_model(workdir: Path) -> None:
    run, _ = with_statistics(open_run(str(workdir), None), "pass")
    found = pictures(run, num_images=300)
    assert list(found) == ["test images", "reconstructions", "samples"]
    images = data.load("digits").splits["test"].images
    grey = np.float32(images) / run.dataset.maximum
    np.testing.assert_allclose(found["test images"], grey, rtol=1e-6)
    # There are 250 test images, and as many samples as one likes.
    key, sample_key = jax.random.split(training.stream(0, "samples"))
    batch = Batch(jnp.asarray(found["test images"]), jnp.arange(250))
    again = tiny.reconstruct(run.model, run.variables, batch, key)
    np.testing.assert_allclose(found["reconstructions"], again, atol=1e-5)
    drawn = tiny.generate(run.model, run.variables, sample_key, 300).means
    np.testing.assert_allclose(found["samples"], drawn, atol=1e-5)
    assert again.shape == (250, 8, 8, 1)
    assert drawn.shape == (300, 8, 8, 1)


def test_draws_are_shown_where_asked_for(workdir: Path) -> None:
    run, _ = with_statistics(open_run(str(workdir), None), "pass")
    found = pictures(run, num_images=500, draws=True)
    assert list(found) == ["test images", "reconstructions", "samples", "draws"]
    assert set(np.unique(found["draws"])) == {0, 1}
    # Each draw is of the mean beside it: 32,000 pixels, with a variance of p (1 - p).
    p = np.float64(found["samples"])
    log_p = np.where(found["draws"] == 1, np.log(p), np.log1p(-p)).sum()
    expected = (p * np.log(p) + (1 - p) * np.log1p(-p)).sum()
    error = np.sqrt((p * (1 - p) * np.log(p / (1 - p)) ** 2).sum())
    assert abs(log_p - expected) < 5 * error


def test_samples_that_cannot_be_written_are_said(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules["eval.samples"], "pictures")  # refused before they are drawn
    (workdir / "file").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written \(.*\), expected a file in a writ"):
        samples(str(workdir), num_images=2, output=str(workdir / "file" / "samples.png"))
    assert (workdir / "file").read_text() == "a file"


def test_compare_prints_a_table_and_draws(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "comparison.png"
    table = compare((str(evaluated),), output=str(output), num_images=4)
    assert capsys.readouterr().out == f"{table}\n\npicture: {output}\n"
    found = eval_records.read(evaluated / "results.json")[0]
    head, row = table.splitlines()
    assert head.split() == [
        *("experiment", "log", "p(x),", "nats", "difference", "images", "samples"),
        *("parameters", "epochs", "training"),
    ]
    assert row.split() == [
        *("mem_vae_digits", f"{found.value:.2f}", "±", f"{found.stderr:.2f}"),
        *("-", f"{eval_runs.IMAGES}", f"{eval_runs.K}"),
        *(f"{eval_runs.NUM_PARAMETERS:,}", "2", f"{found.trained['seconds']:.0f}", "s"),
    ]
    for third in np.array_split(pixels(output), 3, axis=1):
        assert len(np.unique(third)) > 20


def test_compare_tells_runs_of_one_experiment_apart(evaluated: Path, tmp_path: Path) -> None:
    other = eval_runs.evaluated(evaluated.parent, seed=1)
    output = tmp_path / "comparison.png"
    table = compare((str(evaluated), str(other)), output=str(output), num_images=4)
    _, first, second = table.splitlines()
    assert [first.split()[0], second.split()[0]] == [evaluated.name, other.name]
    values = []
    for workdir in (evaluated, other):
        (path,) = workdir.glob("*.npz")
        values.append(np.load(path)["log_likelihood"].astype(float))
    difference = values[1] - values[0]
    error = difference.std(ddof=1) / np.sqrt(eval_runs.IMAGES)
    assert f"{difference.mean():+.2f} ± {error:.2f}" in second
    assert pixels(output).shape[1] > 1.5 * pixels(output).shape[0]


@pytest.mark.parametrize("other", [{"binarisation_seed": 1}, {"max_images": 12}])
def test_no_difference_is_of_other_images(
    evaluated: Path, workdir: Path, tmp_path: Path, other: dict[str, int]
) -> None:
    likelihood(str(workdir), **{**eval_runs.EVALUATION, **other})
    output = str(tmp_path / "comparison.png")
    table = compare((str(evaluated), str(workdir)), output=output, num_images=2)
    assert table.splitlines()[2].split()[4] == "-"


def test_compare_refuses_other_data(evaluated: Path, workdir: Path, tmp_path: Path) -> None:
    eval_runs.edit_config(workdir, data={"split_order": "random"})
    with pytest.raises(InputError, match=r"is of other images than .*, expected runs on the same"):
        compare((str(evaluated), str(workdir)), output=str(tmp_path / "comparison.png"))


def test_compare_without_a_likelihood_names_the_command(workdir: Path, tmp_path: Path) -> None:
    output = tmp_path / "comparison.png"
    with pytest.raises(InputError) as error:
        compare((str(workdir),), output=str(output))
    assert str(error.value) == (
        f"{workdir}: has no likelihood of the test split at step {LAST}, "
        f"expected `python -m eval likelihood --workdir {workdir}` before"
    )
    assert not output.exists()


def test_compare_shows_the_largest_evaluation_of_the_test_split(
    workdir: Path, tmp_path: Path
) -> None:
    # Of all that might be shown, one was evaluated as the others in the table are.
    others = [
        {"split": "train", "num_images": 60_000},
        {"metric": "elbo"},
        {"steps": eval_runs.STEPS_PER_EPOCH},
        {"num_samples": 50},
        {"num_images": 100},
        {"protocol": {**eval_records.PROTOCOL, "batch_norm": "moving_average"}},
        {"protocol": {**eval_records.PROTOCOL, "precision": "bfloat16"}},
    ]
    found = [
        eval_records.record("mem_vae_digits", value=float(-i), **{"steps": LAST, **fields})
        for i, fields in enumerate([*others, {}], start=1)
    ]
    eval_records.write(workdir / "results.json", found)
    table = compare((str(workdir),), output=str(tmp_path / "comparison.png"), num_images=2)
    assert table.splitlines()[1].split()[:4] == ["mem_vae_digits", "-8.00", "±", "0.25"]


def test_compare_wants_the_likelihood_of_that_step(evaluated: Path, tmp_path: Path) -> None:
    first = eval_runs.STEPS_PER_EPOCH
    with pytest.raises(InputError, match=f"has no likelihood .* at step {first}, expected"):
        compare((str(evaluated),), output=str(tmp_path / "comparison.png"), step=first)


def test_comparison_that_cannot_be_written_is_said(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules["eval.compare"], "open_run")  # refused before all else
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written \(.*\), expected a file in a writ"):
        compare((str(evaluated),), output=str(tmp_path / "file" / "c.png"), num_images=2)


def test_no_runs_are_refused() -> None:
    with pytest.raises(InputError, match="compare: found no workdirs, expected at least one"):
        compare(())


@pytest.mark.parametrize("number", [0, -1, 1001])
def test_pictures_of_no_images_or_too_many_are_refused(
    evaluated: Path, tmp_path: Path, number: int
) -> None:
    output = tmp_path / "comparison.png"
    with pytest.raises(InputError, match=f"--num-images: found {number}, expected 1 to 1,000"):
        compare((str(evaluated),), output=str(output), num_images=number)
    with pytest.raises(InputError, match=f"--num-images: found {number}, expected 1 to 1,000"):
        samples(str(evaluated), output=str(output), num_images=number)
    assert not output.exists()


@pytest.mark.parametrize("name", ["picture.pdf", "picture"])
def test_pictures_are_png(evaluated: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"^--output: found .*{name}, expected a name"):
        compare((str(evaluated),), output=str(tmp_path / name), num_images=2)
    assert not list(tmp_path.iterdir())
