"""What is known of the real data; only where the data folder is."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from memjax.data import Dataset, load
from memjax.data.arrays import join
from memjax.data.cache import prepared
from memjax.data.download import Source
from memjax.data.loading import RECIPES

from .conftest import Server
from .originals import PUBLISHED, amat, assert_same_parts, labels_of


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(autouse=True)
def _cache(shared_cache: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMJAX_CACHE_DIR", str(shared_cache))


def load_real(name: str, folder: Path, **options) -> Dataset:
    file = folder / RECIPES[name].npz_filename
    if not file.exists():
        pytest.skip(f"no {file.name} in the data folder")
    return load(name, str(folder), **options)


def test_mnist(real_folder: Path) -> None:
    dataset = load_real("mnist", real_folder)
    assert [len(dataset.splits[name]) for name in ("train", "valid", "test")] == [
        50_000,
        10_000,
        10_000,
    ]
    # In published order the pixels have the published checksum.
    train = join([dataset.splits["train"], dataset.splits["valid"]])
    test = dataset.splits["test"]
    for array, md5 in (
        (train.images[..., 0], "6bbc9ace898e44ae57da46a324031adb"),
        (labels_of(train), "a25bea736e30d166cdddb491f175f624"),
        (test.images[..., 0], "2646ac647ad5339dbf082846283269ea"),
        (labels_of(test), "27ae3e4e09519cfbb04c329615203637"),
    ):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        assert hashlib.md5(header + array.astype(np.uint8).tobytes()).hexdigest() == md5
    counts = np.bincount(labels_of(test)).tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_merged(real_folder: Path) -> None:
    dataset = load_real("mnist", real_folder, merge_validation=True)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 60_000,
        "test": 10_000,
    }


def test_binarized_mnist(real_folder: Path, server: Server) -> None:
    dataset = load_real("binarized_mnist", real_folder)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 50_000, "valid": 10_000, "test": 10_000}
    assert dataset.maximum == 1 and dataset.splits["train"].labels is None
    # Written out as text the test set has the published checksum, and reads back.
    recipe = RECIPES["binarized_mnist"]
    test = dataset.splits["test"]
    server.files = {"test.amat": amat_fast(test.images)}
    source = Source(server.url + "test.amat", recipe.sources["test"].checksum)
    recipe = dataclasses.replace(recipe, sources={"test": source}, counts={"test": 10_000})
    assert_same_parts(prepared(recipe, None), {"test": test})


def test_omniglot(real_folder: Path) -> None:
    dataset = load_real("omniglot", real_folder)
    for name, classes in (("train", range(964)), ("test", range(964, 1623))):
        split = dataset.splits[name]
        assert split.images.shape == (20 * len(classes), 105, 105, 1)
        np.testing.assert_array_equal(split.labels, np.repeat(classes, 20))


def test_omniglot26(real_folder: Path) -> None:
    dataset = load_real("omniglot26", real_folder)
    assert (dataset.image_shape, dataset.maximum) == ((26, 26, 1), 1)
    original = join(list(load_real("omniglot", real_folder).splits.values()))
    for name, classes in (("train", range(1479)), ("test", range(1479, 1623))):
        split = dataset.splits[name]
        np.testing.assert_array_equal(split.labels, np.repeat(classes, 20))
        drawings = original.images[20 * classes.start : 20 * classes.stop : 77, :104, :104]
        pooled = drawings.reshape(-1, 26, 4, 26, 4, 1).any(axis=(2, 4))
        np.testing.assert_array_equal(split.images[::77], pooled)
    assert set(dataset.splits) == {"train", "test"}


def test_omniglot28(real_folder: Path) -> None:
    dataset = load_real("omniglot28", real_folder)
    for name, classes in (("train", range(964)), ("test", range(964, 1623))):
        np.testing.assert_array_equal(dataset.splits[name].labels, np.repeat(classes, 20))
    other = real_folder / "omniglot_gmn28.npz"
    if not other.exists():
        pytest.skip("no omniglot_gmn28.npz to compare with")
    # As Bartunov and Vetrov published them, but for ink 0 on 255; drawings in official order.
    with np.load(other, allow_pickle=False) as file:
        order = np.lexsort((file["drawing"], file["labels"]))
        expected = (file["images"] == 0)[order]
    everything = join([dataset.splits["train"], dataset.splits["test"]])
    np.testing.assert_array_equal(everything.images[..., 0], expected)


def test_omniglot28_by_drawing(real_folder: Path) -> None:
    dataset = load_real("omniglot28_by_drawing", real_folder)
    whole = join(list(load_real("omniglot28", real_folder).splits.values()))
    images = whole.images.reshape(1623, 20, 28, 28, 1)
    for name, drawings in (("train", slice(15)), ("test", slice(15, 20))):
        split = dataset.splits[name]
        expected = images[:, drawings].reshape(-1, 28, 28, 1)
        np.testing.assert_array_equal(split.images, expected)
        np.testing.assert_array_equal(labels_of(split).reshape(1623, -1).std(axis=1), 0)


def test_ocr_letters(real_folder: Path) -> None:
    dataset = load_real("ocr_letters", real_folder)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 32_152, "valid": 10_000, "test": 10_000}
    everything = join(list(dataset.splits.values()))
    with np.load(real_folder / "ocr_letters.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(everything.images[..., 0], file["images"])
        np.testing.assert_array_equal(everything.labels, file["labels"])
    first_word = "".join(chr(ord("a") + label) for label in labels_of(everything)[:9])
    assert first_word == "ommanding"
    assert tuple(np.bincount(labels_of(everything))) == RECIPES["ocr_letters"].label_counts


def test_ocr_letters_at_random(real_folder: Path) -> None:
    dataset = load_real("ocr_letters", real_folder, split_order="random", split_seed=1)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 32_152, "valid": 10_000, "test": 10_000}
    counts = np.bincount(labels_of(join(list(dataset.splits.values()))))
    assert tuple(counts) == RECIPES["ocr_letters"].label_counts


def test_frey_faces(real_folder: Path) -> None:
    dataset = load_real("frey_faces", real_folder)
    with np.load(real_folder / "frey_faces.npz", allow_pickle=False) as file:
        frames = file["images"][..., None]
    assert set(dataset.splits) == {"train", "test"}
    np.testing.assert_array_equal(dataset.splits["train"].images, frames[:1_865])
    np.testing.assert_array_equal(dataset.splits["test"].images, frames[1_865:])
    assert (frames.min(), frames.max(), dataset.maximum) == (8, 238, 238)
    shuffled = load_real("frey_faces", real_folder, split_order="random")
    assert len(shuffled.splits["test"]) == 100
    assert sorted(map(bytes, join(list(shuffled.splits.values())).images)) == sorted(
        map(bytes, frames)
    )


def amat_fast(images: np.ndarray) -> bytes:
    """`amat` for many images: every pixel is one digit and one separator."""
    text = np.full((len(images), images[0].size, 2), ord(" "), np.uint8)
    text[..., 0] = images.reshape(len(images), -1) + ord("0")
    text[:, -1, 1] = ord("\n")
    return text.tobytes()


def test_amat_fast_is_amat() -> None:
    images = PUBLISHED["binarized_mnist"]().npz["train"]
    assert amat_fast(images) == amat(images)
