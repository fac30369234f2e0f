"""Imputation: the Markov chain against a loop, masks, and eval imputation."""

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from eval import imputation, records
from eval.imputation import in_batches, read_mask
from eval.run import Run, evenly_spaced, open_run
from memjax import configs, data, plots, sampling, training
from memjax.configs import published
from memjax.errors import InputError
from memjax.evaluation.imputation import impute, missing_at_random
from memjax.types import Array, Batch, Variables
from tests import eval_runs, tiny
from tests.eval_records import record
from tests.mem_vae_by_hand import ByHand, Rows, wide

KEY = jax.random.key(3)
MODEL = tiny.mem_vae()
VARIABLES = tiny.variables(MODEL)
BATCH = tiny.batch(5)
MISSING = jnp.asarray(np.random.default_rng(1).random((5, *tiny.IMAGE_SHAPE)) < 0.5)

_impute = tiny.quick_jit(impute, static_argnums=(0, 5, 6))


# ---- the chain


@tiny.quick_jit
def in_training(batch: Batch, keys: Array) -> Array:
    """Reconstructions by a network that normalises its layers by this batch, as in training."""

    def means(module: Any, batch: Batch, keys: Array) -> Array:
        z = module._draw(module.encode(batch, True), keys)
        return module._image_distribution(module._decode(z, True)[0].output).mean()

    return MODEL.apply(VARIABLES, batch, keys, method=means, mutable=["batch_stats"])[0]


@pytest.mark.parametrize("of_batch", [False, True])
def test_chain_is_that_of_a_loop(of_batch: bool) -> None:
    last, errors = _impute(MODEL, VARIABLES, BATCH, MISSING, KEY, 4, of_batch)
    assert errors.shape == (4, 5)
    guess = _impute(MODEL, VARIABLES, BATCH, MISSING, KEY, 0, of_batch)[0]
    for number in range(1, 5):
        seen = Batch(guess, BATCH.index)
        key = jax.random.fold_in(KEY, number)
        if of_batch:
            means = in_training(seen, sampling.example_keys(key, BATCH.index))
        else:
            means = tiny.reconstruct(MODEL, VARIABLES, seen, key)
        guess = jnp.where(MISSING, means, BATCH.images)
        expected = [float(((guess[i] - BATCH.images[i])[MISSING[i]] ** 2).sum()) for i in range(5)]
        np.testing.assert_allclose(errors[number - 1], expected, rtol=1e-4)
    np.testing.assert_allclose(last, guess, rtol=1e-4, atol=1e-5)


def test_first_guess_is_noise_where_pixels_are_missing() -> None:
    first = _impute(MODEL, VARIABLES, BATCH, MISSING, KEY, 0)[0]
    np.testing.assert_array_equal(first[~MISSING], BATCH.images[~MISSING])
    noise = np.asarray(first[MISSING])
    assert len(np.unique(noise)) == len(noise)
    assert noise.min() > 0
    assert noise.max() < 1


def test_what_is_seen_stays_and_the_batch_is_not_part_of_the_answer() -> None:
    whole, errors = _impute(MODEL, VARIABLES, BATCH, MISSING, KEY, 3)
    np.testing.assert_array_equal(whole[~MISSING], BATCH.images[~MISSING])
    part = Batch(BATCH.images[2:], BATCH.index[2:])
    alone, alone_errors = _impute(MODEL, VARIABLES, part, MISSING[2:], KEY, 3)
    np.testing.assert_allclose(alone, whole[2:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone_errors, errors[:, 2:], rtol=1e-5)


def test_a_model_that_knows_the_image_makes_no_error() -> None:
    """p(x | z) of a decoder without input is the same whatever is seen."""
    params = jax.tree.map(jnp.zeros_like, VARIABLES["params"])
    silent = {**VARIABLES, "params": params}
    half = Batch(jnp.full_like(BATCH.images, 0.5), BATCH.index)
    last, errors = _impute(MODEL, silent, half, MISSING, KEY, 2)
    np.testing.assert_array_equal(last, 0.5)
    np.testing.assert_array_equal(errors, 0)


# ---- masks


def test_missing_at_random_is_of_the_place_and_all_channels() -> None:
    index = jnp.arange(500)
    missing = np.asarray(missing_at_random(KEY, index, (6, 5, 3), 0.6))
    assert missing.shape == (500, 6, 5, 3)
    assert (missing == missing[..., :1]).all()
    assert missing.mean() == pytest.approx(0.6, abs=0.02)  # four standard errors
    again = missing_at_random(KEY, index[100:110], (6, 5, 3), 0.6)
    np.testing.assert_array_equal(again, missing[100:110])


def test_masks_by_name() -> None:
    middle = read_mask("rect-12", (28, 28, 1))[1]
    assert isinstance(middle, np.ndarray)
    assert middle.shape == (28, 28, 1)
    assert middle.sum() == 144
    assert middle[8:20, 8:20].all()
    left = read_mask("half", (4, 6, 3))[1]
    assert isinstance(left, np.ndarray)
    assert left[:, :3].all()
    assert not left[:, 3:].any()
    assert read_mask("rand-.60", (28, 28, 1)) == ("rand-0.6", 0.6)
    assert read_mask("rand-1", (28, 28, 1)) == ("rand-1", 1)
    assert read_mask("rect-02", (28, 28, 1))[0] == "rect-2"


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_mask_of_ones_own(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    mask: np.ndarray = np.zeros(shape, dtype)
    mask[1, 2] = 1
    np.save(tmp_path / "own.npy", mask)
    found = read_mask(str(tmp_path / "own.npy"), (4, 3, 2))[1]
    assert isinstance(found, np.ndarray)
    expected = np.zeros((4, 3, 2), bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stem", ["k" * 200, "a\\b"])
def test_names_of_files_are_those_of_records(tmp_path: Path, stem: str) -> None:
    np.save(tmp_path / f"{stem}.npy", np.eye(8, dtype=bool))
    name = read_mask(str(tmp_path / f"{stem}.npy"), (8, 8, 1))[0]
    protocol = {"mask": name, "passes": 3, "batch_norm": "batch"}
    new = record(task="imputation", metric="mse", protocol=protocol)
    records.add(epath.Path(tmp_path / "results.json"), [new])
    assert records.load(epath.Path(tmp_path / "results.json")) == [new]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("rect-9", "--mask: found rect-9, expected rect-1 to rect-8 in images of 8x8"),
        ("rect-0", "--mask: found rect-0, expected rect-1 to rect-8"),
        (f"rect-{'1' * 5000}", "expected rect-N, rand-P, half or the path of an .npy file"),
        ("rand-0", "--mask: found rand-0, expected a probability above 0 and up to 1"),
        ("rand-1.5", "expected a probability above 0"),
        ("left", "--mask: found left, expected rect-N, rand-P, half or the path of an .npy file"),
        ("nowhere.npy", "nowhere.npy: no such file"),
    ],
)
def test_masks_that_cannot_be(mask: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        read_mask(mask, (8, 8, 1))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones((8, 9), bool), "found a mask of (8, 9), expected (8, 8) or (8, 8, 1)"),
        (np.full((8, 8), 2), "found the value 2, expected 0 and, where it is missing, 1"),
        (np.linspace(0, 1, 64).reshape(8, 8), "found the value 0.0158"),
        (np.full((8, 8), -1, np.int8), "found the value -1, expected 0"),
        (np.zeros((8, 8)), "leaves no pixel out, expected 1 where one is missing"),
        (np.full((8, 8), np.nan), "found the value nan, expected 0"),
        (np.full((8, 8), np.inf, np.float16), "found the value inf, expected 0"),
        (np.full((8, 8), "x"), "found values of type str32, expected 0"),
        (np.ones((8, 8), complex), "found values of type complex128, expected 0"),
    ],
)
def test_files_that_cannot_be_masks(tmp_path: Path, mask: np.ndarray, said: str) -> None:
    path = tmp_path / "own.npy"
    np.save(path, mask)
    with pytest.raises(InputError) as caught:
        read_mask(str(path), (8, 8, 1))
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize("content", [b"not an array", b"PK\x03\x04", b""])
def test_file_that_is_no_array(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as an \.npy file"):
        read_mask(str(path), (8, 8, 1))


# ---- batches


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [
        (1000, [250]),
        (250, [250]),
        (249, [125, 125]),
        (100, [84, 83, 83]),
        (125, [125, 125]),
        (1, [1] * 250),
    ],
)
def test_batches_are_as_even_as_can_be(batch_size: int, sizes: list[int]) -> None:
    batches = in_batches(250, None, batch_size)
    assert [len(one) for one in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(250))


def test_whole_batches_stay_as_they_are() -> None:
    for number, batch in enumerate(in_batches(10_000, None, 1000)):
        np.testing.assert_array_equal(batch, np.arange(1000 * number, 1000 * (number + 1)))


def test_batches_of_some_images_are_of_evenly_spaced_ones() -> None:
    batches = in_batches(250, 50, 30)
    assert [len(one) for one in batches] == [25, 25]
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(0, 250, 5))


# ---- eval imputation


@pytest.fixture
def workdirs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[list[str]]:
    base = tmp_path_factory.getbasetemp()
    with eval_runs.one_device():
        yield [
            str(eval_runs.copy(eval_runs.trained(base, seed), tmp_path / f"run_{seed}"))
            for seed in (0, 1)
        ]


def test_runs_are_measured_and_shown(workdirs: list[str]) -> None:
    written = imputation(tuple(workdirs), mask="half", num_passes=5, max_images=30)
    for workdir, (mean, curve) in zip(workdirs, (written[:2], written[2:]), strict=True):
        kept = records.load(open_run(workdir, None).workdir / "results.json")
        assert [one.identity for one in kept] == [mean.identity, curve.identity]
        assert (mean.task, mean.metric, mean.num_images) == ("imputation", "mse", 30)
        assert mean.protocol["mask"] == "half"
        assert (mean.protocol["batch_norm"], mean.protocol["batch_size"]) == ("batch", 30)
        assert (curve.metric, curve.x) == ("mse_by_pass", [1, 2, 3, 4, 5])
        assert curve.values is not None
        assert mean.value == pytest.approx(curve.values[-1], rel=1e-5)
        assert mean.value is not None
        assert mean.stderr is not None
        assert 0 < mean.stderr < mean.value
    assert written[0].value != written[2].value  # two seeds of training
    with Image.open(Path(workdirs[0]) / "imputation_half.png") as picture:
        assert picture.width > 3 * picture.height  # four panels


def chain_of(run: Run, variables: Variables, count: int, num_passes: int) -> tuple[Any, ...]:
    """Grey images whose left half is missing: themselves, the last guesses, `[P, B]` errors."""
    places = evenly_spaced(250, count)
    images = data.load("digits").splits["test"].images[places]
    batch = Batch(jnp.asarray(images, jnp.float32) / run.dataset.maximum, jnp.asarray(places))
    missing = jnp.zeros((8, 8, 1), bool).at[:, :4].set(True)
    key = jax.random.fold_in(training.stream(0, "imputation"), 1)
    last, errors = jax.jit(impute, static_argnums=(0, 5))(
        run.model, variables, batch, missing, key, num_passes
    )
    return np.asarray(batch.images), np.asarray(last), np.asarray(errors, np.float64)


def test_error_is_that_of_the_chain(workdirs: list[str]) -> None:
    """Of grey images whose left half is missing, with the statistics of training."""
    found = imputation(
        (workdirs[0],), mask="half", num_passes=3, max_images=20, batch_norm="moving_average"
    )
    run = open_run(workdirs[0], None)
    _, _, errors = chain_of(run, run.variables, 20, 3)
    per_image = errors[-1] / 32
    assert found[0].value == pytest.approx(per_image.mean(), rel=1e-4)
    assert found[0].stderr == pytest.approx(per_image.std(ddof=1) / np.sqrt(20), rel=1e-4)
    assert "batch_size" not in found[0].protocol


class Moments(ByHand):
    """Keeps the mean and variance of each hidden layer before it is normalised."""

    def __init__(self, run: Run):
        super().__init__(run.model, run.variables, train=True)
        self.found: dict[str, Any] = {}

    def hidden(self, name: str, h: Rows) -> tuple[Rows, Rows]:
        p = self.params[name]["dense"]
        before = (h @ p["kernel"] + p["bias"]).reshape(-1, len(p["bias"]))
        moments = {"mean": before.mean(axis=0), "variance": before.var(axis=0)}
        self.found[name] = {"norm": jax.tree.map(jnp.float32, moments)}
        return super().hidden(name, h)


def statistics_by_hand(run: Run) -> Variables:
    """The variables with the statistics of one pass over the training set of the last epoch."""
    images = run.dataset.splits["train"].images
    index, seed = jnp.arange(len(images)), run.experiment.seed
    drawn = training.binarisation_key(seed, eval_runs.EPOCHS - 1)
    pixels = data.prepare_images(
        jnp.asarray(images), index, drawn, "every_epoch", run.dataset.maximum
    )
    by_hand = Moments(run)
    mean, log_variance, _ = by_hand.encode(wide(pixels))
    keys = sampling.example_keys(training.stream(seed, "statistics"), index)[None]
    by_hand.decode(by_hand.draw(keys, mean, log_variance))
    return {**run.variables, "batch_stats": by_hand.found}


def test_pass_takes_the_statistics_of_the_training_set(workdirs: list[str]) -> None:
    found = imputation((workdirs[0],), "half", 3, max_images=20, batch_norm="pass")[0]
    run = open_run(workdirs[0], None)
    variables = statistics_by_hand(run)
    assert jax.tree.structure(variables["batch_stats"]) == jax.tree.structure(
        run.variables["batch_stats"]
    )
    _, _, errors = chain_of(run, variables, 20, 3)
    assert found.value == pytest.approx(errors[-1].mean() / 32, rel=1e-3)
    _, _, others = chain_of(run, run.variables, 20, 3)
    assert found.value != pytest.approx(others[-1].mean() / 32, rel=1e-2)
    assert found.protocol["batch_norm"] == "pass"


def test_picture_shows_the_first_images_and_their_guesses(
    workdirs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, np.ndarray] = {}

    def panels(titled: dict[str, np.ndarray]) -> Any:
        shown.update(titled)
        return drawn(titled)

    drawn = plots.panels
    monkeypatch.setattr(plots, "panels", panels)
    # Ten batches of seven: the last one that is shown is shown in part.
    imputation((workdirs[0],), "half", 2, 70, batch_norm="moving_average", batch_size=7)
    run = open_run(workdirs[0], None)
    images, last, _ = chain_of(run, run.variables, 70, 2)
    original, missing, guesses = shown.values()
    np.testing.assert_allclose(original, images[:64])
    np.testing.assert_allclose(missing[:, :, 4:], images[:64, :, 4:])
    np.testing.assert_allclose(missing[:, :, :4], 0.3, rtol=1e-6)
    np.testing.assert_allclose(guesses, last[:64], rtol=1e-3, atol=1e-4)
    assert np.abs(guesses - original)[:, :, :4].mean() > 0.05


def test_batches_matter_with_their_statistics_alone(workdirs: list[str]) -> None:
    def mse(**options: Any) -> float:
        found = imputation((workdirs[0],), "rand-0.5", 2, 30, **options)[0].value
        assert found is not None
        return found

    fixed = mse(batch_norm="pass", batch_size=7)
    assert fixed == pytest.approx(mse(batch_norm="pass", batch_size=30), rel=1e-5)
    halves = mse(batch_size=15)
    assert halves != pytest.approx(mse(batch_size=30), rel=1e-3)
    # Not 29 images together and one alone.
    assert mse(batch_size=29) == pytest.approx(halves, rel=1e-6)


@pytest.mark.parametrize(
    ("max_images", "batch_size", "said"),
    [
        (None, 1, "of 250, by --batch-size 1"),
        (1, 1000, "of 1, by --batch-size 1000"),
        (3, 2, "of 3, by --batch-size 2"),
    ],
)
def test_no_statistics_are_taken_of_one_image(
    workdirs: list[str],
    monkeypatch: pytest.MonkeyPatch,
    max_images: int | None,
    batch_size: int,
    said: str,
) -> None:
    monkeypatch.delattr(sys.modules["eval.imputation"], "Chain")
    with pytest.raises(InputError) as caught:
        imputation(tuple(workdirs), "half", 1, max_images, batch_size=batch_size)
    assert str(caught.value) == (
        f"--batch-norm: found batch with a batch of one image ({said}), expected at least 2 images "
        "in each, or pass or moving_average"
    )


@pytest.mark.parametrize("batch_norm", ["pass", "moving_average"])
def test_one_image_will_do_with_other_statistics(workdirs: list[str], batch_norm: Any) -> None:
    found = imputation((workdirs[0],), "half", 1, 3, batch_norm=batch_norm, batch_size=1)
    together = imputation((workdirs[0],), "half", 1, 3, batch_norm=batch_norm)
    assert found[0].value == pytest.approx(together[0].value, rel=1e-5)
    assert "batch_size" not in found[0].protocol


def test_one_image_will_do_without_batch_norm(
    workdirs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = without_batch_norm(open_run(workdirs[0], None))
    monkeypatch.setattr(sys.modules["eval.imputation"], "open_run", lambda *_: run)
    (found, _) = imputation((workdirs[0],), "half", 1, 3, batch_size=1)
    assert found.protocol["batch_norm"] == "none"
    assert "batch_size" not in found.protocol


def without_batch_norm(run: Run) -> Run:
    model = run.model.clone(batch_norm=False)
    variables = tiny.initialise(
        model, jax.random.key(0), Batch(jnp.zeros((2, 8, 8, 1)), jnp.arange(2))
    )
    return dataclasses.replace(run, model=model, variables=variables)


def test_a_memory_that_is_given_is_refused(
    workdirs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dataclasses.replace(open_run(workdirs[0], None), model=configs.get("vma_few_shot").model)
    monkeypatch.setattr(sys.modules["eval.imputation"], "open_run", lambda *_: run)
    with pytest.raises(InputError, match="is given its memory with each batch, expected a model"):
        imputation((workdirs[0],), "half", 1, 4)


def test_mask_that_leaves_nothing_out(workdirs: list[str]) -> None:
    with pytest.raises(InputError, match=r"--mask: rand-1e-05 left no pixel out"):
        imputation((workdirs[0],), "rand-0.00001", 1, 2)


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    workdirs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(sys.modules["eval.imputation"], "Chain")
    with pytest.raises(InputError, match=r"^/dev/null/a.png: cannot be written \(Not a dir"):
        imputation((workdirs[0],), "half", 1, 2, output="/dev/null/a.png")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workdirs": ()}, "imputation: found no workdirs, expected at least one"),
        ({"num_passes": 0}, "--num-passes: found 0, expected at least 1"),
        ({"batch_size": 0}, "--batch-size: found 0, expected at least 1"),
        ({"batch_norm": "none"}, "--batch-norm: found 'none', expected one of"),
        ({"output": "a.jpg"}, "--output: found a.jpg, expected a name that ends in .png"),
    ],
)
def test_options_that_cannot_be(workdirs: list[str], options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        imputation(**{"workdirs": (workdirs[0],), **options})
    assert str(caught.value).startswith(said)


def test_published_values_are_those_of_table_2() -> None:
    protocol = {"mask": "rect-12", "passes": 100, "batch_norm": "batch", "batch_size": 1000}
    assert published.imputation_mse("mem_vae_mnist", protocol) == 0.1362
    assert published.imputation_mse("vae_ocr", protocol) is None
    for other in (
        {"mask": "rect-11"},
        {"passes": 10},
        {"batch_norm": "pass"},
        {"batch_size": 7},
        {"images": "evenly spaced"},
    ):
        assert published.imputation_mse("mem_vae_mnist", {**protocol, **other}) is None
    del protocol["batch_size"]  # batch norm with other statistics, or none
    assert published.imputation_mse("mem_vae_mnist", protocol) is None


def test_recorded_results_keep_their_published_values() -> None:
    folder = Path(__file__).parent.parent / "results"
    for name, values in published.IMPUTATION.items():
        found = {
            str(one.protocol["mask"]): one
            for one in records.load(folder / f"{name}.json")
            if (one.task, one.metric) == ("imputation", "mse")
        }
        assert {mask: one.paper for mask, one in found.items()} == values
        for one in found.values():
            assert published.imputation_mse(name, one.protocol) == one.paper


def test_the_papers_error_is_recorded_where_it_belongs(
    workdirs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the paper had evaluated this very experiment, all 250 images in one batch.
    name = "mem_vae_digits"
    monkeypatch.setitem(configs.EXPERIMENTS, name, eval_runs.experiment())
    monkeypatch.setitem(published.IMPUTATION, name, {"half": 0.25})
    monkeypatch.setitem(published.IMPUTATION_PROTOCOL, "passes", 2)
    monkeypatch.setitem(published.IMPUTATION_PROTOCOL, "batch_size", 250)

    def papers(**options: Any) -> list[float | None]:
        return [one.paper for one in imputation((workdirs[0],), "half", 2, **options)]

    assert papers() == [0.25, None]  # the error, and its curve over passes
    assert papers(batch_size=125) == [None, None]
    monkeypatch.setitem(published.IMPUTATION_PROTOCOL, "batch_size", 30)
    assert papers(max_images=30) == [None, None]  # batches of that size, but not all images


def test_masks_of_one_name_are_two_results(workdirs: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.npy"
    for place in (0, 1):
        mask = np.zeros((8, 8))
        mask[place] = 1
        np.save(path, mask)
        imputation((workdirs[0],), str(path), num_passes=1, max_images=4)
    kept = records.load(open_run(workdirs[0], None).workdir / "results.json")
    masks = {str(one.protocol["mask"]) for one in kept}
    assert len(masks) == 2
    for name in masks:
        assert name.startswith("own-")
        assert (Path(workdirs[0]) / f"imputation_{name}.png").exists()


def test_runs_on_other_images_are_refused(workdirs: list[str]) -> None:
    other = Path(shutil.copytree(workdirs[1], f"{workdirs[1]}_other"))
    eval_runs.edit_config(other, data={"split_order": "random"})
    with pytest.raises(InputError, match="is of other images than"):
        imputation((workdirs[0], str(other)), "half", 1, 4)
