"""Omniglot: the original drawings (Lake, Salakhutdinov and Tenenbaum 2015)."""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.download import Source
from memjax.data.files import DAMAGE, Npz, one_line, read_bytes
from memjax.data.recipe import Parts, Recipe
from memjax.errors import InputError

_SIDE = 105
_ZIPS = "https://github.com/brendenlake/omniglot/raw/master/python/images_"
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
