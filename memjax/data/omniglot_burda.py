"""Omniglot in 28x28, grey, as of Burda, Grosse and Salakhutdinov (2016)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.download import Source
from memjax.data.files import Npz, describe, load_mat
from memjax.data.recipe import Parts, Recipe
from memjax.errors import InputError

_CLASSES = 1623
_BURDA = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"


def _read_burda(files: Mapping[str, Path]) -> Parts:
    path = files["chardata"]
    names = ("data", "target", "targetchar", "testdata", "testtarget", "testtargetchar")
    variables = load_mat(path, names)
    characters = {
        prefix: _characters(path, variables[f"{prefix}target"], variables[f"{prefix}targetchar"])
        for prefix in ("", "test")
    }
    # A class is an alphabet with a character's number in it; both halves count them alike.
    _, labels = np.unique(np.concatenate(list(characters.values())), return_inverse=True)
    train, test = _grey(path, variables["data"]), _grey(path, variables["testdata"])
    if (len(train), len(test)) != tuple(map(len, characters.values())):
        raise InputError(
            f"{path}: {len(train)} and {len(test)} images, expected as many as "
            f"{' and '.join(str(len(values)) for values in characters.values())} labels"
        )
    labels = labels.astype(np.int32)
    return {"train": Split(train, labels[: len(train)]), "test": Split(test, labels[len(train) :])}


def _characters(path: Path, alphabet: np.ndarray, character: np.ndarray) -> np.ndarray:
    """Returns one number for each column: alphabets are one-hot columns, characters numbers."""
    if alphabet.ndim != 2 or character.size != alphabet.shape[1]:
        raise InputError(
            f"{path}: labels are {list(alphabet.shape)} and {list(character.shape)}, "
            "expected [alphabets, N] and [1, N]"
        )
    if not (np.isin(alphabet, (0, 1)).all() and (alphabet.sum(axis=0) == 1).all()):
        raise InputError(f"{path}: alphabets are {describe(alphabet)}, expected columns of one 1")
    if not np.isin(character, np.arange(1000)).all():
        raise InputError(f"{path}: characters are {describe(character)}, expected 0..999")
    return alphabet.argmax(axis=0) * 1000 + character.reshape(-1).astype(np.int64)


def _grey(path: Path, columns: np.ndarray) -> np.ndarray:
    """Returns `[N, 28, 28, 1]` uint8 from columns of 784 values in [0, 1]."""
    if columns.ndim != 2 or columns.shape[0] != 784 or columns.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: images are {columns.dtype} {list(columns.shape)}, expected numbers [784, N]"
        )
    if not (np.isfinite(columns).all() and columns.min() >= 0 and columns.max() <= 1):
        raise InputError(f"{path}: pixels are {columns.min():g}..{columns.max():g}, expected 0..1")
    # MATLAB runs down the columns of an image first.
    images = columns.T.reshape(-1, 28, 28).transpose(0, 2, 1)
    return np.rint(images * 255.0).astype(np.uint8)[..., np.newaxis]


def _read_burda_npz(npz: Npz) -> Parts:
    def part(name: str) -> Split:
        if f"{name}_labels" not in npz:
            return Split(npz.images(f"{name}_images", 28, 28))
        return npz.split(f"{name}_images", f"{name}_labels", 28, 28, _CLASSES)

    return {"train": part("train"), "test": part("test")}


OMNIGLOT_BURDA28 = Recipe(
    name="omniglot_burda28",
    description="Omniglot in 28x28 as of IWAE. https://github.com/yburda/iwae",
    image_shape=(28, 28, 1),
    maximum=255,
    read_originals=_read_burda,
    read_npz=_read_burda_npz,
    sources={
        "chardata": Source(_BURDA, "git-blob:016a3536ffe5e1d38e42563a18d7a78bfaf643ec"),
    },
    counts={"train": 24_345, "test": 8_070},
)
