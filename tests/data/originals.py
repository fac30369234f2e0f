"""Small files in the formats in which the data sets were published, and what is said of them."""

import dataclasses
import gzip
import hashlib
import io
import math
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import scipy.io
from PIL import Image

from memjax.data.arrays import Split, join
from memjax.data.download import Source
from memjax.data.loading import RECIPES
from memjax.data.recipe import Recipe
from memjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Published:
    """A small data set three times: as published, as an .npz of the data folder, and read."""

    files: dict[str, tuple[str, bytes]]  # key in Recipe.sources -> (file name, contents)
    npz: dict[str, np.ndarray]
    parts: dict[str, Split]


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def amat(images: np.ndarray) -> bytes:
    return b"".join(
        b" ".join(b"%d" % pixel for pixel in row) + b"\n" for row in images.reshape(len(images), -1)
    )


def mat(**variables: np.ndarray) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=True, **arrays)  # objects are what must be refused
    return file.getvalue()


def png(ink: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert("1").save(file, "PNG")
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return file.getvalue()


def _images(*shape: int, high: int = 255) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, high + 1, shape, dtype=np.uint8)


def _labels(count: int, classes: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, classes, count, dtype=np.int32)


def _mnist() -> Published:
    train, test = _images(9, 28, 28), _images(4, 28, 28)
    of_train, of_test = _labels(9, 10), _labels(4, 10)
    return Published(
        {
            "train_images": ("train-images-idx3-ubyte.gz", idx(train)),
            "train_labels": ("train-labels-idx1-ubyte.gz", idx(of_train)),
            "test_images": ("t10k-images-idx3-ubyte.gz", idx(test)),
            "test_labels": ("t10k-labels-idx1-ubyte.gz", idx(of_test)),
        },
        {
            "train_images": train,
            "train_labels": of_train.astype(np.uint8),
            "test_images": test,
            "test_labels": of_test.astype(np.uint8),
        },
        {"train": Split(train[..., None], of_train), "test": Split(test[..., None], of_test)},
    )


def _binarized_mnist() -> Published:
    arrays = {
        name: _images(count, 28, 28, high=1)
        for name, count in (("train", 6), ("valid", 3), ("test", 4))
    }
    return Published(
        {name: (f"binarized_mnist_{name}.amat", amat(array)) for name, array in arrays.items()},
        arrays,
        {name: Split(array[..., None]) for name, array in arrays.items()},
    )


# Each class of the small Omniglot: whether it is of the evaluation half, and its alphabet.
_OMNIGLOT = ((False, "Latin"), (False, "Greek"), (True, "Tengwar"), (True, "Ge_ez"))


def _drawings() -> np.ndarray:
    """Two drawings of each class, sparse, so that pooled images are not all ink."""
    return np.random.default_rng(0).random((len(_OMNIGLOT), 2, 105, 105)) < 0.04


def _omniglot_of(images: np.ndarray, test: list[bool]) -> Published:
    """The small Omniglot, whose classes `test` read as `images` `[4, 2, H, W]` are the test set."""
    ink = _drawings()

    def zip_of(folder: str, evaluation: bool) -> tuple[str, bytes]:
        # Written backwards: the order must come from the names.
        members = {
            f"{folder}/{alphabet}/character01/{number + 1:04d}_{drawing + 1:02d}.png": png(
                ink[number, drawing]
            )
            for number, (half, alphabet) in reversed([*enumerate(_OMNIGLOT)])
            if half == evaluation
            for drawing in (1, 0)
        }
        others = {f"{folder}/": b"", f"__MACOSX/{folder}/0001_01.png": b"not a picture"}
        return f"{folder}.zip", zipped(members | others)

    def part(is_test: bool) -> Split:
        labels = np.flatnonzero(np.array(test) == is_test).astype(np.int32)
        chosen = images[labels].astype(np.uint8)
        return Split(chosen.reshape(-1, *images.shape[2:], 1), np.repeat(labels, 2))

    halves, alphabets = zip(*_OMNIGLOT, strict=True)
    names, of_class = np.unique(alphabets, return_inverse=True)
    return Published(
        {
            "background": zip_of("images_background", evaluation=False),
            "evaluation": zip_of("images_evaluation", evaluation=True),
        },
        {
            "images_packed": np.packbits(ink.reshape(*ink.shape[:2], -1), axis=-1),
            "class_split": np.array(halves, np.uint8),
            "alphabet_names": names,
            "class_alphabet": of_class.astype(np.uint8),
        },
        {"train": part(False), "test": part(True)},
    )


def _omniglot() -> Published:
    return _omniglot_of(_drawings(), [half for half, _ in _OMNIGLOT])


def _omniglot26() -> Published:
    number, drawing, row, column = np.nonzero(_drawings())
    images = np.zeros((len(_OMNIGLOT), 2, 27, 27), np.uint8)
    images[number, drawing, row // 4, column // 4] = 1
    return _omniglot_of(images[:, :, :26, :26], [name == "Tengwar" for _, name in _OMNIGLOT])


def _omniglot28() -> Published:
    place = [math.floor(3.75 * i) for i in range(28)]
    images = np.stack([_drawings()[..., row, place] for row in place], axis=2)
    return _omniglot_of(images, [half for half, _ in _OMNIGLOT])


def _omniglot28_by_drawing() -> Published:
    whole = _omniglot28()
    everything = join([whole.parts["train"], whole.parts["test"]])
    # Two drawings of each class: the second is for testing.
    parts = {
        "train": everything.take(slice(0, None, 2)),
        "test": everything.take(slice(1, None, 2)),
    }
    return dataclasses.replace(whole, parts=parts)


def _omniglot_burda28() -> Published:
    train, test = _images(6, 28, 28), _images(3, 28, 28)
    # Two alphabets of two and one characters: (0, 1), (0, 2), (1, 1) are the classes 0, 1, 2.
    of_train, of_test = np.array([2, 0, 1, 1, 0, 2], np.int32), np.array([1, 2, 0], np.int32)

    def columns(images: np.ndarray) -> np.ndarray:
        return images.transpose(0, 2, 1).reshape(len(images), -1).T / 255.0

    def labelled(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        alphabet, character = np.array([0, 0, 1])[labels], np.array([1, 2, 1])[labels]
        return np.eye(2)[:, alphabet], character[None].astype(float)

    (target, targetchar), (testtarget, testtargetchar) = labelled(of_train), labelled(of_test)
    contents = mat(
        data=columns(train),
        target=target,
        targetchar=targetchar,
        testdata=columns(test),
        testtarget=testtarget,
        testtargetchar=testtargetchar,
    )
    return Published(
        {"chardata": ("chardata.mat", contents)},
        {
            "train_images": train,
            "train_labels": of_train,
            "test_images": test,
            "test_labels": of_test,
        },
        {"train": Split(train[..., None], of_train), "test": Split(test[..., None], of_test)},
    )


def letter_line(number: int, letter: int, image: np.ndarray) -> bytes:
    fields = [number, chr(ord("a") + letter), number + 1, 1, number, 0, *image.reshape(-1)]
    return "\t".join(map(str, fields)).encode() + b"\t\n"


def _ocr_letters() -> Published:
    images, labels = _images(10, 16, 8, high=1), _labels(10, 26)
    lines = [letter_line(i + 1, int(labels[i]), images[i]) for i in range(10)]
    return Published(
        {"letters": ("letter.data.gz", gzip.compress(b"".join(lines)))},
        {"images": images, "labels": labels.astype(np.uint8)},
        {"pool": Split(images[..., None], labels)},
    )


def _frey_faces() -> Published:
    images = _images(10, 28, 20, high=238)
    return Published(
        {"faces": ("frey_rawface.mat", mat(ff=images.reshape(10, -1).T))},
        {"images": images},
        {"pool": Split(images[..., None])},
    )


PUBLISHED: dict[str, Callable[[], Published]] = {
    "mnist": _mnist,
    "binarized_mnist": _binarized_mnist,
    "omniglot": _omniglot,
    "omniglot26": _omniglot26,
    "omniglot28": _omniglot28,
    "omniglot28_by_drawing": _omniglot28_by_drawing,
    "omniglot_burda28": _omniglot_burda28,
    "ocr_letters": _ocr_letters,
    "frey_faces": _frey_faces,
}


def small(name: str, url: str = "http://127.0.0.1:9/") -> tuple[Recipe, Published]:
    """Returns the recipe of a data set for its small files at `url`, and these files."""
    published = PUBLISHED[name]()
    recipe = dataclasses.replace(
        RECIPES[name],
        sources={
            key: Source(url + filename, f"sha256:{hashlib.sha256(contents).hexdigest()}")
            for key, (filename, contents) in published.files.items()
        },
        counts=None,
        label_counts=None,
        valid_size=min(RECIPES[name].valid_size, 3),
        test_size=min(RECIPES[name].test_size, 2),
    )
    return recipe, published


def labels_of(split: Split) -> np.ndarray:
    assert split.labels is not None
    return split.labels


def assert_same(found: Split, expected: Split) -> None:
    assert found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.images, expected.images)
    assert (found.labels is None) == (expected.labels is None)
    if expected.labels is not None:
        assert labels_of(found).dtype == np.int32
        np.testing.assert_array_equal(labels_of(found), expected.labels)


def assert_same_parts(found: dict[str, Split], expected: dict[str, Split]) -> None:
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert_same(found[name], part)


def refusal(action: Callable[[], object]) -> str:
    """Returns the one line in which an action is refused."""
    with pytest.raises(InputError) as info:
        action()
    message = str(info.value)
    assert "\n" not in message
    return message
