"""Omniglot: the original drawings (Lake et al. 2015), and smaller ones made from them.

The smaller ones are for few-shot learning: `omniglot26` as in Bornschein et al. (2017, section
4.2), `omniglot28` as in Bartunov and Vetrov (2016). `omniglot28_by_drawing` has all characters in
both splits and stands in for `omniglot_burda28`, with which its figures cannot be compared.
"""

import dataclasses
import io
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from memjax.data.arrays import Split, join
from memjax.data.download import Source
from memjax.data.files import (
    DAMAGE,
    Npz,
    describe,
    most_unpacked,
    one_line,
    open_zip,
    read_bytes,
    read_member,
)
from memjax.data.recipe import Parts, Recipe
from memjax.errors import InputError

_SIDE = 105
_LARGEST_PNG = 2**16  # bytes; they have about 250
_ZIPS = "https://github.com/brendenlake/omniglot/raw/master/python/images_"
# The last five of the 50, with 144 of the 1,623 classes.
_TEST_ALPHABETS = ("Syriac_(Serto)", "Sylheti", "Tengwar", "Tibetan", "ULOG")
# 0965_07.png is the seventh drawing of character 965; numbers run through both zips.
_DRAWING = re.compile(r"(?:^|/)(\d{4})_(\d{2})\.png$")


def read_zip(path: Path) -> tuple[Split, np.ndarray]:
    """Returns the drawings of a zip of PNGs by class and drawing, and the alphabet of each.

    The images are `[N, 105, 105, 1]` with ink 1, labels the official character numbers less one,
    alphabets `[N]` text: ALPHABET of ALPHABET/character01/0001_01.png, "" where there is no such
    folder. Raises InputError for a damaged zip, one without drawings, and a drawing of another
    size.
    """
    try:
        data = read_bytes(path)
        with open_zip(data) as archive:
            members = sorted(
                (int(match[1]), int(match[2]), name)
                for name in archive.namelist()
                if (match := _DRAWING.search(name)) and not name.startswith("__MACOSX")
            )
            _check_members(members, most_unpacked(len(data)))
            images = [
                _read_png(path, name, read_member(archive, name, _LARGEST_PNG))
                for _, _, name in members
            ]
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"{path}: damaged or truncated ({one_line(error)}), expected a zip of PNGs"
        ) from error
    if not images:
        raise InputError(f"{path}: no drawings inside, expected PNGs named like 0001_01.png")
    labels = np.array([character - 1 for character, _, _ in members], np.int32)
    alphabets = np.array([PurePosixPath(name).parent.parent.name for _, _, name in members])
    return Split(np.stack(images)[..., np.newaxis], labels), alphabets


def _check_members(members: list[tuple[int, int, str]], most: int) -> None:
    """Raises ValueError for a drawing that is there twice, and for more of them than may be."""
    if len(members) * _SIDE**2 > most:  # members may share their bytes
        raise ValueError(f"{len(members)} drawings")
    if len({(character, drawing) for character, drawing, _ in members}) < len(members):
        raise ValueError("two drawings of one number")


def _read_png(path: Path, name: str, data: bytes) -> np.ndarray:
    from PIL import Image

    # Known before Pillow warns of its size, or a single pixel is unpacked.
    width, height = struct.unpack(">II", data[16:24].ljust(8))
    found = f"{width}x{height}"
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        found = "damaged (no PNG)"
    elif (width, height) == (_SIDE, _SIDE):
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.size != (_SIDE, _SIDE):  # another header further on
                    raise ValueError("two sizes")
                return (np.asarray(image.convert("L")) < 128).astype(np.uint8)
        except Image.DecompressionBombError as error:  # by another header further on
            found = f"damaged ({one_line(error)})"
        except DAMAGE as error:
            found = f"damaged ({one_line(error)})"
    raise InputError(f"{path}: {name} is {found}, expected a PNG of {_SIDE}x{_SIDE}")


def max_pool(images: np.ndarray) -> np.ndarray:
    """Returns `[N, 26, 26, 1]` from `[N, 105, 105, 1]`: a pixel is ink where any of 4x4 is.

    The last row and the last column are dropped, which leaves 104x104. The paper (Bornschein et
    al. 2017, section 4.2) has images of 104x104 and does not say how they were made.
    """
    rows = np.maximum.reduce([images[:, start:104:4] for start in range(4)])
    return np.maximum.reduce([rows[:, :, start:104:4] for start in range(4)])


def sample(images: np.ndarray) -> np.ndarray:
    """Returns `[N, 28, 28, 1]` from `[N, 105, 105, 1]`: rows and columns floor(3.75 i), i = 0..27.

    This gives the images that Bartunov and Vetrov (2016) published, pixel by pixel, but for their
    ink, which is 0 on 255.
    """
    place = np.arange(28) * 15 // 4
    return images[:, place][:, :, place]


def _read_originals(files: Mapping[str, Path]) -> Parts:
    return {"train": read_zip(files["background"])[0], "test": read_zip(files["evaluation"])[0]}


def _read_npz(npz: Npz) -> Parts:
    packed = _packed(npz)
    half = npz.labels("class_split", len(packed), 2)
    return {"train": _unpack(packed, half == 0), "test": _unpack(packed, half == 1)}


def _read_originals_45_5(files: Mapping[str, Path]) -> Parts:
    halves = [read_zip(files[key]) for key in ("background", "evaluation")]
    everything = join([_shrink(split, max_pool) for split, _ in halves])
    test = np.isin(np.concatenate([alphabets for _, alphabets in halves]), _TEST_ALPHABETS)
    return {"train": everything.take(~test), "test": everything.take(test)}


def _read_npz_45_5(npz: Npz) -> Parts:
    packed, names = _packed(npz), npz.array("alphabet_names")
    if names.dtype.kind != "U" or names.ndim != 1:
        raise InputError(
            f"{npz.path}: alphabet_names is {describe(names)}, expected text [alphabets]"
        )
    alphabets = names[npz.labels("class_alphabet", len(packed), len(names))]
    test = np.isin(alphabets, _TEST_ALPHABETS)
    return {
        "train": _shrink(_unpack(packed, ~test), max_pool),
        "test": _shrink(_unpack(packed, test), max_pool),
    }


def _read_originals_28(files: Mapping[str, Path]) -> Parts:
    return {name: _shrink(part, sample) for name, part in _read_originals(files).items()}


def _read_npz_28(npz: Npz) -> Parts:
    return {name: _shrink(part, sample) for name, part in _read_npz(npz).items()}


def _divide_drawings(parts: Parts) -> Parts:
    """The last quarter of every class's drawings is the test split, so that both have all classes.

    That is 15 and 5 of 20, as many as Burda et al. (2016) have, whose own division is not published
    drawing by drawing.
    """
    everything = join([parts["train"], parts["test"]])
    assert everything.labels is not None
    _, first, of_class, count = np.unique(
        everything.labels, return_index=True, return_inverse=True, return_counts=True
    )
    number = np.arange(len(everything)) - first[of_class]  # the drawings of a class are together
    test = number >= (count - np.maximum(1, count // 4))[of_class]
    return {"train": everything.take(~test), "test": everything.take(test)}


def _shrink(split: Split, change: Callable[[np.ndarray], np.ndarray]) -> Split:
    return Split(change(split.images), split.labels)


def _packed(npz: Npz) -> np.ndarray:
    packed = npz.array("images_packed")
    row = (_SIDE**2 + 7) // 8
    if packed.dtype != np.uint8 or packed.ndim != 3 or packed.shape[2] != row:
        raise InputError(
            f"{npz.path}: images_packed is {packed.dtype} {list(packed.shape)}, expected uint8 "
            f"[classes, drawings, {row}], the bits of {_SIDE}x{_SIDE} images"
        )
    return packed


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

OMNIGLOT26 = dataclasses.replace(
    OMNIGLOT,
    name="omniglot26",
    description="Omniglot in 26x26, 45 alphabets and 5. https://arxiv.org/abs/1709.07116",
    image_shape=(26, 26, 1),
    read_originals=_read_originals_45_5,
    read_npz=_read_npz_45_5,
    counts={"train": 1479 * 20, "test": 144 * 20},
)

OMNIGLOT28 = dataclasses.replace(
    OMNIGLOT,
    name="omniglot28",
    description="Omniglot in 28x28 as of GMN. https://github.com/sbos/gmn",
    image_shape=(28, 28, 1),
    read_originals=_read_originals_28,
    read_npz=_read_npz_28,
)

OMNIGLOT28_BY_DRAWING = dataclasses.replace(
    OMNIGLOT28,
    name="omniglot28_by_drawing",
    description="Omniglot in 28x28, 15 and 5 drawings of every character.",
    read_originals=lambda files: _divide_drawings(_read_originals_28(files)),
    read_npz=lambda npz: _divide_drawings(_read_npz_28(npz)),
    counts={"train": 1623 * 15, "test": 1623 * 5},
    by_class=False,
)
