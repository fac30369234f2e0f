"""OCR letters: the handwritten words of Rob Kassel, as prepared by Ben Taskar."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.download import Source
from memjax.data.files import Npz, gunzip
from memjax.data.recipe import Parts, Recipe
from memjax.errors import InputError

_HEIGHT, _WIDTH = 16, 8
_FIELDS = 6  # id, letter, next id, word id, position, fold; the pixels follow
_LONGEST = 1_000  # bytes of a line; they have about 290


def read_letters(path: Path) -> Split:
    """Returns the letters of letter.data.gz in file order, `[N, 16, 8, 1]` uint8 of 0/1.

    Labels are 0..25 for a..z. Raises InputError naming the first line that is not a letter.
    """
    pixels, labels = [], []
    # Line by line: lists of all of them, or of the fields of a very long one, would not fit.
    for number, line in enumerate(io.BytesIO(gunzip(path)), start=1):
        fields = line[:_LONGEST].split()
        bits = b"".join(fields[_FIELDS:])
        letter = fields[1] if len(fields) > 1 else b""
        right_length = len(fields) == _FIELDS + _HEIGHT * _WIDTH and len(bits) == _HEIGHT * _WIDTH
        if (
            len(line) > _LONGEST
            or not right_length
            or bits.strip(b"01")
            or not b"a" <= letter <= b"z"
            or len(letter) > 1
        ):
            raise InputError(
                f"{path}: line {number}: expected {_FIELDS} fields with a letter a..z, then "
                f"{_HEIGHT * _WIDTH} pixels of 0 or 1"
            )
        pixels.append(bits)
        labels.append(letter[0] - ord("a"))
    if not pixels:
        raise InputError(f"{path}: empty, expected one letter a line")
    images = np.frombuffer(b"".join(pixels), np.uint8) - np.uint8(ord("0"))
    return Split(images.reshape(-1, _HEIGHT, _WIDTH, 1), np.array(labels, np.int32))


def _read_originals(files: Mapping[str, Path]) -> Parts:
    return {"pool": read_letters(files["letters"])}


def _read_npz(npz: Npz) -> Parts:
    images = npz.images("images", _HEIGHT, _WIDTH, maximum=1)
    return {"pool": Split(images, npz.labels("labels", len(images), 26))}


OCR_LETTERS = Recipe(
    name="ocr_letters",
    description="Letters of handwritten words. https://ai.stanford.edu/~btaskar/ocr",
    image_shape=(_HEIGHT, _WIDTH, 1),
    maximum=1,
    read_originals=_read_originals,
    read_npz=_read_npz,
    # No checksum is published: the count of every letter is checked instead.
    sources={"letters": Source("https://ai.stanford.edu/~btaskar/ocr/letter.data.gz")},
    counts={"pool": 52_152},
    label_counts=(
        *(4034, 1284, 2114, 1442, 4955, 921, 2472, 861, 4913, 189, 909, 3140, 1602),
        *(5024, 3897, 1377, 341, 2673, 1394, 2136, 2562, 664, 520, 413, 1221, 1094),
    ),
    valid_size=10_000,
    test_size=10_000,
)
