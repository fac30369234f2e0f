"""MNIST, grey and in the fixed binarisation of Larochelle and Murray (2011)."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.download import Source
from memjax.data.files import Npz, gunzip, read_bytes
from memjax.data.recipe import Parts, Recipe
from memjax.errors import InputError

_SIDE = 28
_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_AMAT = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_"


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Returns the uint8 array of a gzipped idx file with this many dimensions.

    Raises InputError for a damaged or truncated file, a wrong magic number or a wrong length.
    """
    data = gunzip(path)
    magic = 0x0800 + dimensions  # 08 says unsigned bytes, the last byte how many dimensions
    header = 4 + 4 * dimensions
    if len(data) < header or int.from_bytes(data[:4], "big") != magic:
        raise InputError(f"{path}: magic number is {data[:4].hex()}, expected {magic:08x} (idx)")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, 4))
    if len(data) - header != math.prod(shape):
        raise InputError(
            f"{path}: truncated, holds {len(data) - header} bytes, expected {list(shape)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_amat(path: Path) -> np.ndarray:
    """Returns `[N, 28, 28, 1]` uint8 from lines of 784 zeros and ones, apart by spaces.

    Raises InputError naming the first line that is anything else.
    """
    text = np.frombuffer(read_bytes(path), np.uint8)
    if text.size == 0 or text[-1] != ord("\n"):
        text = np.append(text, np.uint8(ord("\n")))
    digit = (text == ord("0")) | (text == ord("1"))
    allowed = digit | np.isin(text, np.frombuffer(b" \t\r\n", np.uint8))
    allowed[1:] &= ~(digit[1:] & digit[:-1])  # "01" is not a pixel
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    per_line = np.add.reduceat(digit, starts, dtype=np.int64)
    broken = np.concatenate(
        [
            np.searchsorted(ends, np.flatnonzero(~allowed)[:1]),
            np.flatnonzero(per_line != _SIDE**2)[:1],
        ]
    )
    if broken.size:
        raise InputError(f"{path}: line {broken.min() + 1}: expected {_SIDE**2} values of 0 or 1")
    return (text[digit] - np.uint8(ord("0"))).reshape(-1, _SIDE, _SIDE, 1)


def _read_grey(files: Mapping[str, Path]) -> Parts:
    def part(name: str) -> Split:
        images = read_idx(files[f"{name}_images"], 3)[..., np.newaxis]
        labels = read_idx(files[f"{name}_labels"], 1).astype(np.int32)
        if len(labels) != len(images) or labels.max(initial=0) > 9:
            raise InputError(
                f"{files[f'{name}_labels']}: {len(labels)} labels of 0..{labels.max(initial=0)}, "
                f"expected {len(images)} of 0..9 as in {files[f'{name}_images'].name}"
            )
        return Split(images, labels)

    return {"train": part("train"), "test": part("test")}


def _read_grey_npz(npz: Npz) -> Parts:
    return {
        name: npz.split(f"{name}_images", f"{name}_labels", _SIDE, _SIDE, 10)
        for name in ("train", "test")
    }


def _read_binarised(files: Mapping[str, Path]) -> Parts:
    return {name: Split(read_amat(path)) for name, path in files.items()}


def _read_binarised_npz(npz: Npz) -> Parts:
    # Labels there may be, but inferred ones: the original has none.
    names = ("train", "valid", "test")
    return {name: Split(npz.images(name, _SIDE, _SIDE, maximum=1)) for name in names}


def _idx(filename: str, md5: str) -> Source:
    return Source(_ADDRESS + filename, f"md5:{md5}", (_MIRROR + filename,))


MNIST = Recipe(
    name="mnist",
    description="Handwritten digits, grey. https://yann.lecun.com/exdb/mnist",
    image_shape=(_SIDE, _SIDE, 1),
    maximum=255,
    read_originals=_read_grey,
    read_npz=_read_grey_npz,
    sources={
        "train_images": _idx("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        "train_labels": _idx("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        "test_images": _idx("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        "test_labels": _idx("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    },
    counts={"train": 60_000, "test": 10_000},
    valid_size=10_000,
)

BINARIZED_MNIST = Recipe(
    name="binarized_mnist",
    description="MNIST, each pixel drawn once. http://proceedings.mlr.press/v15/larochelle11a.html",
    image_shape=(_SIDE, _SIDE, 1),
    maximum=1,
    read_originals=_read_binarised,
    read_npz=_read_binarised_npz,
    sources={
        "train": Source(f"{_AMAT}train.amat", "md5:db28b1a6ae0fe70cbd3da91acf46e477"),
        "valid": Source(f"{_AMAT}valid.amat", "md5:bf37822a04e94123630de6a7dfd9c9ef"),
        "test": Source(f"{_AMAT}test.amat", "md5:14e41ae11040adba6ab8cb291eda0dd8"),
    },
    counts={"train": 50_000, "valid": 10_000, "test": 10_000},
    valid_size=10_000,
)
