"""What a user can get wrong: one line that names the file and what was expected."""

import dataclasses
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from memjax.data import NAMES, load
from memjax.data.cache import prepared
from memjax.data.loading import RECIPES

from .originals import npz, refusal, small

IMAGES = np.zeros((10, 4, 4), np.uint8)


class Trap:
    """Leaves a trace if it is ever unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("unpickled",)


def trapped(**arrays: np.ndarray) -> bytes:
    return npz(**arrays, images=np.array([Trap(), None], dtype=object))


OWN = {
    "no zip": (b"what is this", "not an .npz file, or truncated"),
    "empty": (b"", "not an .npz file, or truncated"),
    "truncated": (
        npz(images=np.arange(4000, dtype=np.uint8).reshape(10, 20, 20))[:-60],
        "truncated",
    ),
    "pickle": (pickle.dumps(Trap()), "not an .npz file"),
    "pickle inside": (trapped(), "'images' holds pickled objects, which are never opened"),
    "pickled labels": (
        npz(images=IMAGES, labels=np.array([Trap()] * 10, dtype=object)),
        "'labels' holds pickled objects",
    ),
    "no images": (npz(pictures=IMAGES), "no array 'images' inside, found pictures"),
    "float": (npz(images=IMAGES / 2.0 + 3), r"float64 \[10, 4, 4\] of 3..3, expected uint8"),
    "NaN": (npz(images=np.full((10, 4, 4), np.nan)), "with NaN, expected uint8"),
    "out of range": (npz(images=IMAGES + np.int64(300)), r"int64 .* of 300..300, expected uint8"),
    "bool": (npz(images=IMAGES > 0), "is bool .* expected uint8"),
    "flat": (npz(images=IMAGES.reshape(10, 16)), r"uint8 \[10, 16\], expected uint8 \[N, H, W\]"),
    "channels": (npz(images=np.zeros((10, 4, 4, 5), np.uint8)), r"\[10, 4, 4, 5\], .* 1 to 4 chan"),
    "no pixels": (npz(images=np.zeros((10, 0, 4), np.uint8)), r"\[10, 0, 4, 1\], expected uint8"),
    "none": (npz(images=IMAGES[:0]), "found 0 images, expected at least 3"),
    "two": (npz(images=IMAGES[:2]), "found 2 images, expected at least 3"),
    "few labels": (npz(images=IMAGES, labels=np.arange(9)), r"labels is int64 \[9\] .* \[10\]"),
    "float labels": (npz(images=IMAGES, labels=np.zeros(10)), "labels is float64 .* integers"),
    "negative": (npz(images=IMAGES, labels=np.arange(10) - 1), "labels holds -1..8, expected"),
    "huge": (npz(images=IMAGES, labels=np.arange(10) + 2**40), "labels holds 1099511627776..1"),
}


@pytest.mark.parametrize("case", OWN)
def test_own_file(case: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents, expected = OWN[case]
    file = tmp_path / "mine.npz"
    file.write_bytes(contents)
    message = refusal(lambda: load(str(file)))
    assert message.startswith(f"{file}: ") and re.search(expected, message), message
    # Nothing was written, lost or unpickled.
    assert list(tmp_path.iterdir()) == [file] and file.read_bytes() == contents


def test_damaged_member(tmp_path: Path) -> None:
    contents = bytearray(npz(images=np.random.default_rng(0).integers(0, 9, (9, 9, 9), np.uint8)))
    contents[300] ^= 1
    file = tmp_path / "mine.npz"
    file.write_bytes(contents)
    assert "array 'images' is damaged" in refusal(lambda: load(str(file)))


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(lambda: load(f"{tmp_path}/mine.npz")) == f"{tmp_path}/mine.npz: no such file"
    (tmp_path / "folder.npz").mkdir()
    assert "cannot be read" in refusal(lambda: load(f"{tmp_path}/folder.npz"))


GREY = np.zeros((5, 28, 28), np.uint8)
BITS = np.zeros((5, 16, 8), np.uint8)
FOLDER: dict[str, tuple[str, dict[str, np.ndarray], str]] = {
    "mnist shape": (
        "mnist",
        {"train_images": IMAGES},
        r"train_images is uint8 \[10, 4, 4\], expected uint8 \[N, 28, 28\] of 0..255",
    ),
    "mnist dtype": ("mnist", {"train_images": GREY / 255}, "float64 .* of 0..0, expected uint8"),
    "mnist labels": (
        "mnist",
        {"train_images": GREY, "train_labels": np.full(5, 10)},
        r"train_labels holds 10..10, expected integers \[5\] of 0..9",
    ),
    "mnist without labels": ("mnist", {"train_images": GREY}, "no array 'train_labels' inside"),
    "mnist without test": (
        "mnist",
        {"train_images": GREY, "train_labels": np.zeros(5, int)},
        "no array 'test_images' inside, found train_images, train_labels",
    ),
    "binarized values": ("binarized_mnist", {"train": GREY + 2}, "train holds 2, .* of 0..1"),
    "ocr values": ("ocr_letters", {"images": BITS + 2}, "images holds 2, expected .* of 0..1"),
    "ocr empty": ("ocr_letters", {"images": BITS[:0]}, "images is empty, expected uint8"),
    "frey values": (
        "frey_faces",
        {"images": np.full((5, 28, 20), 255, np.uint8)},
        "images holds 255, expected .* of 0..238",
    ),
    "omniglot bits": (
        "omniglot",
        {"images_packed": np.zeros((3, 2, 99), np.uint8)},
        r"images_packed is uint8 \[3, 2, 99\], expected uint8 \[classes, drawings, 1379\]",
    ),
    "omniglot halves": (
        "omniglot",
        {"images_packed": np.zeros((3, 2, 1379), np.uint8), "class_split": np.arange(3)},
        "class_split holds 0..2, expected",
    ),
    "omniglot without evaluation": (
        "omniglot",
        {"images_packed": np.zeros((3, 2, 1379), np.uint8), "class_split": np.zeros(3, int)},
        r"test images are uint8 \[0, 105, 105, 1\], expected uint8 \[N, 105, 105, 1\]",
    ),
    "omniglot26 bits": (
        "omniglot26",
        {"images_packed": np.zeros((3, 2, 1379))},
        r"images_packed is float64 \[3, 2, 1379\], expected uint8 \[classes, drawings, 1379\]",
    ),
    "omniglot26 without names": (
        "omniglot26",
        {"images_packed": np.zeros((3, 2, 1379), np.uint8)},
        "no array 'alphabet_names' inside, found .*images_packed",
    ),
    "omniglot26 names": (
        "omniglot26",
        {"images_packed": np.zeros((3, 2, 1379), np.uint8), "alphabet_names": np.arange(5)},
        r"alphabet_names is int64 \[5\] of 0..4, expected text \[alphabets\]",
    ),
    "omniglot26 alphabets": (
        "omniglot26",
        {
            "images_packed": np.zeros((3, 2, 1379), np.uint8),
            "alphabet_names": np.array(["Latin", "ULOG"]),
            "class_alphabet": np.arange(3),
        },
        r"class_alphabet holds 0..2, expected integers \[3\] of 0..1",
    ),
    "omniglot26 without test": (
        "omniglot26",
        {
            "images_packed": np.zeros((3, 2, 1379), np.uint8),
            "alphabet_names": np.array(["Latin"]),
            "class_alphabet": np.zeros(3, int),
        },
        r"test images are uint8 \[0, 26, 26, 1\], expected uint8 \[N, 26, 26, 1\]",
    ),
    "burda": ("omniglot_burda28", {"train_images": GREY[0]}, r"uint8 \[28, 28\], expected uint8"),
}


@pytest.mark.parametrize("case", FOLDER)
def test_file_of_the_data_folder(case: str, tmp_path: Path, cache: Path) -> None:
    name, arrays, expected = FOLDER[case]
    file = tmp_path / RECIPES[name].npz_filename
    file.write_bytes(npz(**arrays))
    message = refusal(lambda: load(name, str(tmp_path)))
    assert message.startswith(f"{file}: ") and re.search(expected, message), message
    assert not cache.exists()


def test_number_of_images(tmp_path: Path) -> None:
    labels = np.zeros(5, np.uint8)
    file = tmp_path / "mnist.npz"
    np.savez(file, train_images=GREY, train_labels=labels, test_images=GREY, test_labels=labels)
    message = refusal(lambda: load("mnist", str(tmp_path)))
    expected = "expected 60000 train, 10000 test"
    assert message == f"{file}: found 5 train, 5 test images, {expected}"


def test_count_of_a_letter(tmp_path: Path) -> None:
    recipe, published = small("ocr_letters")
    (tmp_path / "ocr_letters.npz").write_bytes(npz(**published.npz))
    counts = np.bincount(published.npz["labels"], minlength=26)
    counts[4] += 1
    recipe = dataclasses.replace(recipe, label_counts=tuple(counts))
    message = refusal(lambda: prepared(recipe, tmp_path))
    assert f"found {counts[4] - 1} images of class 4, expected {counts[4]}" in message


@pytest.mark.parametrize(
    ("name", "near"), [("mnits", "mnist"), ("ocr", "ocr_letters"), ("MNIST", "mnist")]
)
def test_unknown_name(name: str, near: str) -> None:
    message = refusal(lambda: load(name))
    assert message.startswith(f"unknown data set {name!r}, expected ") and near in message


def test_hopeless_name() -> None:
    message = refusal(lambda: load("zzz"))
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize("origin", ["--data-dir", "MEMJAX_DATA_DIR"])
def test_data_folder_does_not_exist(
    origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "nowhere")
    if origin == "MEMJAX_DATA_DIR":
        monkeypatch.setenv(origin, missing)
    message = refusal(lambda: load("mnist", missing if origin == "--data-dir" else None))
    assert message == f"{missing}: no such folder, expected the data folder ({origin})"
