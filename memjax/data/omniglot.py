"""Omniglot: the original drawings (Lake et al. 2015), and those of Burda et al. (2016)."""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.download import Source
from memjax.data.files import DAMAGE, Npz, load_mat, one_line, read_bytes
from memjax.data.recipe import Parts, Recipe
from memjax.errors import InputError

_SIDE = 105
_CLASSES = 1623
_ZIPS = "https://github.com/brendenlake/omniglot/raw/master/python/images_"
_BURDA = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
# 0965_07.png is the seventh drawing of character 965; numbers run through both zips.
_DRAWING = re.compile(r"(?:^|/)(\d{4})_(\d{2})\.png$")


def read_zip(path: Path) -> Split:
    """Returns the drawings of a zip of PNGs, `[N, 105, 105, 1]` with ink 1, by class and drawing.

    Labels are the official character numbers less one. Raises InputError for a damaged zip, one
    without drawings, and a drawing of another size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
            members = sorted(
                (int(match[1]), int(match[2]), name)
                for name in archive.namelist()
                if (match := _DRAWING.search(name)) and not name.startswith("__MACOSX")
            )
            images = [_read_png(path, name, archive.read(name)) for _, _, name in members]
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"{path}: damaged or truncated ({one_line(error)}), expected a zip of PNGs"
        ) from error
    if not images:
        raise InputError(f"{path}: no drawings inside, expected PNGs named like 0001_01.png")
    labels = np.array([character - 1 for character, _, _ in members], np.int32)
    return Split(np.stack(images)[..., np.newaxis], labels)


def _read_png(path: Path, name: str, data: bytes) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size == (_SIDE, _SIDE):  # known before a single pixel is unpacked
                return (np.asarray(image.convert("L")) < 128).astype(np.uint8)
            found = f"{image.size[0]}x{image.size[1]}"
    except DAMAGE as error:
        found = f"damaged ({one_line(error)})"
    raise InputError(f"{path}: {name} is {found}, expected a PNG of {_SIDE}x{_SIDE}")


def _read_originals(files: Mapping[str, Path]) -> Parts:
    return {"train": read_zip(files["background"]), "test": read_zip(files["evaluation"])}


def _read_npz(npz: Npz) -> Parts:
    packed = npz.array("images_packed")
    row = (_SIDE**2 + 7) // 8
    if packed.dtype != np.uint8 or packed.ndim != 3 or packed.shape[2] != row:
        raise InputError(
            f"{npz.path}: images_packed is {packed.dtype} {list(packed.shape)}, expected uint8 "
            f"[classes, drawings, {row}], the bits of {_SIDE}x{_SIDE} images"
        )
    half = npz.labels("class_split", len(packed), 2)
    return {"train": _unpack(packed, half == 0), "test": _unpack(packed, half == 1)}


def _unpack(packed: np.ndarray, chosen: np.ndarray) -> Split:
    bits = np.unpackbits(packed[chosen], axis=-1, count=_SIDE**2)
    labels = np.repeat(np.flatnonzero(chosen).astype(np.int32), packed.shape[1])
    return Split(bits.reshape(-1, _SIDE, _SIDE, 1), labels)


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


OMNIGLOT = Recipe(
    name="omniglot",
    description="1,623 characters of 50 alphabets. https://github.com/brendenlake/omniglot",
    image_shape=(_SIDE, _SIDE, 1),
    maximum=1,
    read_originals=_read_originals,
    read_npz=_read_npz,
    npz="omniglot105.npz",
    sources={
        "background": Source(f"{_ZIPS}background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718"),
        "evaluation": Source(f"{_ZIPS}evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811"),
    },
    counts={"train": 964 * 20, "test": 659 * 20},
    by_class=True,
)

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
