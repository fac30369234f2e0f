"""Damaged original files and failing downloads: one line that names the file."""

import dataclasses
import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from memjax.data.cache import prepared
from memjax.data.download import Source

from .conftest import Server
from .originals import amat, idx, letter_line, mat, png, refusal, small, zipped

IMAGES = np.zeros((10, 4, 4), np.uint8)
GREY = np.zeros((5, 28, 28), np.uint8)
LETTER = letter_line(1, 0, np.zeros((16, 8), np.uint8))
CHARDATA = {
    "data": np.zeros((784, 2)),
    "target": np.eye(3)[:, :2],
    "targetchar": np.ones((1, 2)),
    "testdata": np.zeros((784, 2)),
    "testtarget": np.eye(3)[:, :2],
    "testtargetchar": np.ones((1, 2)),
}


def packed(data: bytes) -> bytes:
    """As a compressed element of a MATLAB file."""
    content = zlib.compress(data)
    return struct.pack("<ii", 15, len(content)) + content


def second_header(image: bytes, side: int) -> bytes:
    """A PNG with another header after its own."""
    header = b"IHDR" + struct.pack(">II", side, side) + image[24:29]
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return image[:33] + chunk + image[33:]


ORIGINALS = {
    "idx no gzip": ("mnist", "train_images", b"no gzip", "damaged or truncated"),
    "idx truncated gzip": ("mnist", "train_images", idx(GREY)[:-9], "damaged or truncated"),
    "idx magic": (
        "mnist",
        "train_images",
        idx(np.zeros(5)),
        "magic number is 00000801, .*00000803",
    ),
    "idx empty": ("mnist", "train_labels", gzip.compress(b""), "expected 00000801"),
    "idx truncated": (
        "mnist",
        "train_images",
        gzip.compress(gzip.decompress(idx(GREY))[:-1]),
        r"truncated, holds 3919 bytes, expected \[5, 28, 28\]",
    ),
    "idx shape": (
        "mnist",
        "train_images",
        idx(IMAGES[:9]),
        r"\[9, 4, 4, 1\], expected uint8 \[N, 28",
    ),
    "idx labels": ("mnist", "train_labels", idx(np.zeros(4)), "4 labels of 0..0, expected 9 of"),
    "amat digit": (
        "binarized_mnist",
        "train",
        amat(GREY + 2),
        "line 1: expected 784 values of 0 or",
    ),
    "amat columns": (
        "binarized_mnist",
        "test",
        amat(GREY) + b"0 1\n",
        "line 6: expected 784 values",
    ),
    "amat run together": (
        "binarized_mnist",
        "valid",
        amat(GREY) + amat(GREY).replace(b"0 0\n", b"00 \n", 1),
        "line 6: expected 784",
    ),
    "amat empty": ("binarized_mnist", "test", b"", "line 1: expected 784"),
    "letters": ("ocr_letters", "letters", b"a", "damaged or truncated"),
    "letters empty": ("ocr_letters", "letters", gzip.compress(b""), "empty, expected one letter"),
    "letter pixel": (
        "ocr_letters",
        "letters",
        gzip.compress(LETTER + LETTER.replace(b"0\t\n", b"2\t\n")),
        "line 2: expected 6 fields with a letter a..z, then 128 pixels of 0 or 1",
    ),
    "letter missing": (
        "ocr_letters",
        "letters",
        gzip.compress(LETTER.replace(b"a", b"A")),
        "line 1: expected 6 fields with a letter a..z",
    ),
    "letter short": ("ocr_letters", "letters", gzip.compress(LETTER[:-4]), "line 1: expected 6"),
    "mat": ("frey_faces", "faces", b"no MATLAB file" * 20, "damaged .* expected a MATLAB file"),
    "mat negative size": (
        "frey_faces",
        "faces",
        struct.pack("<5i", 0, -3, 1, 0, 4) + bytes(80),
        "damaged .a negative size., expected a MATLAB file",
    ),
    "mat compressed twice": (
        "frey_faces",
        "faces",
        bytes(124) + b"\0\1IM" + packed(packed(bytes(8))),
        "damaged .*, expected a MATLAB file",
    ),
    "png of two sizes": (
        "omniglot",
        "evaluation",
        zipped({"a/0001_01.png": second_header(png(np.zeros((105, 105))), 60_000)}),
        "0001_01.png is damaged",
    ),
    "mat empty": ("frey_faces", "faces", b"", "damaged .* expected a MATLAB file"),
    "mat variable": ("frey_faces", "faces", mat(gg=GREY[0]), "no variable 'ff' inside"),
    "mat shape": ("frey_faces", "faces", mat(ff=GREY[0]), r"ff is uint8 \[28, 28\], .*\[560, N\]"),
    "mat values": (
        "frey_faces",
        "faces",
        mat(ff=np.full((560, 4), 255, np.uint8)),
        "pool images hold 255, expected 0..238",
    ),
    "chardata missing": ("omniglot_burda28", "chardata", mat(data=GREY[0]), "no variable 'target'"),
    "chardata shape": (
        "omniglot_burda28",
        "chardata",
        mat(**{**CHARDATA, "data": np.zeros((783, 2))}),
        r"images are float64 \[783, 2\], expected numbers \[784, N\]",
    ),
    "chardata range": (
        "omniglot_burda28",
        "chardata",
        mat(**{**CHARDATA, "testdata": np.full((784, 2), 1.5)}),
        "pixels are 1.5..1.5, expected 0..1",
    ),
    "chardata NaN": (
        "omniglot_burda28",
        "chardata",
        mat(**{**CHARDATA, "data": np.full((784, 2), np.nan)}),
        "pixels are nan..nan, expected 0..1",
    ),
    "chardata labels": (
        "omniglot_burda28",
        "chardata",
        mat(**{**CHARDATA, "targetchar": np.ones((1, 3))}),
        r"labels are \[3, 2\] and \[1, 3\], expected",
    ),
    "chardata count": (
        "omniglot_burda28",
        "chardata",
        mat(**{**CHARDATA, "data": np.zeros((784, 3))}),
        "3 and 2 images, expected as many as 2 and 2 labels",
    ),
    "zip": ("omniglot", "background", b"no zip", "damaged or truncated .* expected a zip of PNGs"),
    "zip empty": ("omniglot", "evaluation", zipped({"a.txt": b"a"}), "no drawings inside"),
    "png": ("omniglot", "evaluation", zipped({"a/0001_01.png": b"a"}), "0001_01.png is damaged"),
    "png truncated": (
        "omniglot",
        "background",
        zipped({"a/0001_01.png": png(np.eye(105))[:-30]}),
        "0001_01.png is damaged .* expected a PNG of 105x105",
    ),
    "png size": (
        "omniglot",
        "background",
        zipped({"a/0001_01.png": png(np.eye(28))}),
        "0001_01.png is 28x28, expected a PNG of 105x105",
    ),
}


@pytest.mark.parametrize("case", ORIGINALS)
def test_original_file(case: str, server: Server, cache: Path) -> None:
    name, key, contents, expected = ORIGINALS[case]
    recipe, published = small(name, server.url)
    filename, _ = published.files[key]
    server.files = dict(published.files.values()) | {filename: contents}
    sources = {**recipe.sources, key: Source(server.url + filename)}
    message = refusal(lambda: prepared(dataclasses.replace(recipe, sources=sources), None))
    assert filename in message and re.search(expected, message), message
    # Without a checksum this is the first sign of a bad download, which must not stay.
    assert not (cache / "prepared").exists() and not list(cache.rglob(filename))


def test_checksum(server: Server, cache: Path) -> None:
    recipe, published = small("frey_faces", server.url)
    filename, contents = published.files["faces"]
    server.files = {filename: contents + b"!"}
    message = refusal(lambda: prepared(recipe, None))
    assert re.match(
        rf"{server.url}{filename}: checksum is sha256:\w+, expected sha256:\w+", message
    )
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("trouble", ["missing", "cut off", "no answer"])
def test_download_fails(trouble: str, server: Server, cache: Path) -> None:
    recipe, published = small("mnist", server.url)
    filename, contents = published.files["train_labels"]
    server.files = dict(published.files.values())
    if trouble == "missing":
        del server.files[filename]
    elif trouble == "cut off":
        server.promised = {filename: len(contents) + 10}
    else:
        server.stop()
        filename, _ = published.files["train_images"]
    message = refusal(lambda: prepared(recipe, None))
    assert server.url + filename in message
    assert "mnist.npz in a folder named with --data-dir" in message
    assert not list(cache.rglob(f"*{filename}*"))  # an interrupted download never looks complete


def test_download_resumes_with_the_missing_file(server: Server) -> None:
    recipe, published = small("mnist", server.url)
    filename, contents = published.files["test_labels"]
    server.files = dict(published.files.values())
    del server.files[filename]
    refusal(lambda: prepared(recipe, None))
    server.files[filename] = contents
    server.asked.clear()
    prepared(recipe, None)
    assert server.asked == [filename]
