"""Every broken input that is tried: what is put where, and who has to refuse it."""

import dataclasses
import functools
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from eval import record, tables
from eval.compare import values_of
from eval.imputation import read_mask
from eval.records import Record
from eval.tables import BEGIN, END, insert
from memjax import config, configs, data, restore, workdirs
from memjax.checkpoint import FOLDER, Checkpoints, newest_whole
from memjax.data.loading import RECIPES
from memjax.data.recipe import check
from memjax.errors import InputError
from train.command import main as train_main

from . import broken
from .broken import Trap, Writer

ROOT = Path(__file__).parent.parent
SECONDS = 500.0  # of a command in a process of its own


@dataclasses.dataclass(frozen=True)
class Case:
    """One broken input.

    Attributes:
        kind: of input.
        name: what is wrong with it.
        write: puts it into an empty folder.
        read: reads it from there; has to raise InputError.
        said: what the message has to name, a file or a field.
    """

    kind: str
    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    said: str


def corpus() -> list[Case]:
    """All of it, in the same order and with the same bytes every time."""
    return [
        *_own(),
        *_data_folder(),
        *_idx(),
        *_amat(),
        *_letters(),
        *_mat(),
        *_zip_of_pngs(),
        *_masks(),
        *_likelihoods(),
        *_configs(),
        *_metrics(),
        *_sessions(),
        *_results(),
        *_tables(),
        *_readmes(),
        *_checkpoints(),
        *_overrides(),
        *_commands(),
    ]


def _random(*shape: int, high: int = 255) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, high + 1, shape, dtype=np.uint8)


def _at(path: str, write: Writer) -> Callable[[Path], object]:
    return lambda folder: write(folder / path)


def _files(
    kind: str, path: str, found: Iterator[tuple[str, Writer]], read: Callable[[Path], object]
) -> Iterator[Case]:
    for name, write in found:
        yield Case(kind, name, _at(path, write), read, Path(path).name)


# ---------------------------------------------------------------------------- data sets


def _own() -> Iterator[Case]:
    """An .npz of one's own, `images` and `labels`."""
    images = _random(10, 4, 4)
    whole = broken.npz(images=images, labels=np.arange(10))
    members = {"images.npy": broken.npy(images), "labels.npy": broken.npy(np.arange(10))}

    def read(folder: Path) -> object:
        return data.load(str(folder / "mine.npz"))

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.no_files()
        yield from broken.truncated(whole, 25)
        yield from broken.flipped(whole, 25, *broken.payload(whole, "images.npy"))
        yield from broken.flipped(whole, 10, *broken.payload(whole, "labels.npy"), seed=1)
        for name, contents in broken.bad_headers():
            yield name, broken.holding(broken.zipped({"images.npy": contents}))
        yield from broken.bad_zips(members, "images.npy")
        yield from _arrays(images)

    yield from _files("npz", "mine.npz", found(), read)


def _arrays(images: np.ndarray) -> Iterator[tuple[str, Writer]]:
    """Whole .npz files with arrays of the wrong kind."""
    arrays: dict[str, dict[str, np.ndarray]] = {
        "no images": {"pictures": images},
        "nothing": {},
        "floats": {"images": images / 255.0},
        "NaN": {"images": np.full((10, 4, 4), np.nan)},
        "infinity": {"images": np.full((10, 4, 4), np.inf)},
        "complex": {"images": images * 1j},
        "big-endian": {"images": images.astype(">u2")},
        "signed": {"images": images.astype(np.int8)},
        "text": {"images": images.astype(str)},
        "bytes": {"images": images.astype("S3")},
        "void": {"images": images.view("V4")},
        "bool": {"images": images > 0},
        "no axes": {"images": images[0, 0, 0]},
        "two axes": {"images": images[0]},
        "five axes": {"images": images[..., None, None]},
        "five channels": {"images": np.repeat(images[..., None], 5, axis=3)},
        "no images in it": {"images": images[:0]},
        "no rows": {"images": images[:, :0]},
        "two images": {"images": images[:2]},
        "fewer labels": {"images": images, "labels": np.arange(9)},
        "labels of floats": {"images": images, "labels": np.zeros(10)},
        "labels of text": {"images": images, "labels": np.full(10, "a")},
        "labels in a square": {"images": images, "labels": np.zeros((10, 10), int)},
        "negative labels": {"images": images, "labels": np.arange(10) - 1},
        "huge labels": {"images": images, "labels": np.full(10, 2**63, np.uint64)},
        "swapped bytes of labels": {"images": images, "labels": np.arange(10).byteswap()},
    }
    for name, of in arrays.items():
        yield name, broken.holding(broken.npz(**of))
    for name in ("images", "labels"):

        def trapped(path: Path, name: str = name) -> None:
            pickled = np.array([broken.Trap(path.parent)] * 10, dtype=object)
            broken.put(path, broken.npz(**{"images": images, name: pickled}))

        yield f"pickled {name}", trapped


def _data_folder() -> Iterator[Case]:
    """The .npz files of the data sets' own names."""
    grey, ten = _random(12, 28, 28), np.arange(12) % 10
    packed, row = _random(4, 2, 1379), np.zeros(4, np.uint8)
    ocr = _random(10, 16, 8, high=1)
    mnist = {"train_images": grey, "train_labels": ten, "test_images": grey, "test_labels": ten}
    arrays: dict[str, list[dict[str, np.ndarray]]] = {
        "mnist": [
            {**mnist, "train_images": grey[0]},
            {**mnist, "train_images": grey / 255},
            {**mnist, "train_labels": ten + 5},
            {**mnist, "test_labels": ten[:5]},
            {**mnist, "test_images": grey[:0]},
            {"train_images": grey},
            mnist,  # too few
        ],
        "binarized_mnist": [
            {"train": grey, "valid": grey, "test": grey},
            {"train": grey // 255, "valid": grey // 255},
            dict.fromkeys(("train", "valid", "test"), grey // 128),
        ],
        "omniglot": [
            {"images_packed": packed[0]},
            {"images_packed": packed},
            {"images_packed": packed[:, :0], "class_split": row},
            {"images_packed": packed[:0], "class_split": row[:0]},
            {"images_packed": packed, "class_split": row + 2},
            {"images_packed": packed, "class_split": row},
            {"images_packed": packed, "class_split": np.arange(4) % 2},
        ],
        "omniglot26": [
            {"images_packed": packed, "alphabet_names": row, "class_alphabet": row},
            {
                "images_packed": packed,
                "alphabet_names": np.array([["a", "b"]]),
                "class_alphabet": row,
            },
            {
                "images_packed": packed,
                "alphabet_names": np.array(["a"]),
                "class_alphabet": row + 1,
            },
        ],
        "omniglot28_by_drawing": [
            {"images_packed": packed[:, :0], "class_split": np.arange(4) % 2},
            {"images_packed": packed, "class_split": np.arange(4) % 2},
        ],
        "omniglot_burda28": [{"train_images": grey, "test_images": grey[0]}, mnist],
        "ocr_letters": [
            {"images": ocr, "labels": ten[:10] + 20},
            {"images": ocr + 1, "labels": ten[:10]},
            {"images": ocr, "labels": ten[:10]},
        ],
        "frey_faces": [
            {"images": np.full((10, 28, 20), 250, np.uint8)},
            {"images": _random(10, 20, 28, high=200)},
            {"images": _random(10, 28, 20, high=200)},
        ],
    }
    for name, several in arrays.items():
        path = RECIPES[name].npz_filename

        def read(folder: Path, name: str = name) -> object:
            return data.load(name, str(folder))

        found = ((f"{name} {i}", broken.npz(**of)) for i, of in enumerate(several))
        writers = ((title, broken.holding(contents)) for title, contents in found)
        yield from _files("npz of a data set", path, writers, read)


def _originals(
    kind: str,
    name: str,
    files: dict[str, bytes],
    key: str,
    filename: str,
    found: Iterator[tuple[str, Writer]],
) -> Iterator[Case]:
    """The files of a data set as they were published, one of them broken."""
    recipe = dataclasses.replace(RECIPES[name], counts=None, label_counts=None)
    others = {other: contents for other, contents in files.items() if other != key}

    def read(folder: Path) -> object:
        whole = {other: folder / "whole" / other for other in others}
        parts = recipe.read_originals({**{key: folder / filename}, **whole})
        check(recipe, parts, filename)
        return parts

    for title, write_broken in found:

        def write(folder: Path, write_broken: Writer = write_broken) -> None:
            for other, contents in others.items():
                broken.put(folder / "whole" / other, contents)
            write_broken(folder / filename)

        yield Case(kind, title, write, read, filename)


def _idx() -> Iterator[Case]:
    images, labels = _random(9, 28, 28), np.arange(9)
    whole = broken.idx(images)
    files = {
        "train_images": whole,
        "train_labels": broken.idx(labels),
        "test_images": whole,
        "test_labels": broken.idx(labels),
    }
    pixels, header = images.tobytes(), broken.idx_header
    contents = {
        "little endian": header((9, 28, 28), pixels, order="<"),
        "magic of labels": header((9, 28, 28), pixels, bytes([0, 0, 8, 1])),
        "magic of floats": header((9, 28, 28), pixels, bytes([0, 0, 13, 3])),
        "no magic": header((9, 28, 28), pixels, b""),
        "huge shape": header((2**32 - 1,) * 3, pixels),
        # Of 2^64 bytes, which are 0 in 64 bits.
        "shape that overflows": header((2**31, 2**31, 4), b""),
        "fewer images": header((8, 28, 28), pixels),
        "more images": header((10, 28, 28), pixels),
        "no images": header((0, 28, 28), b""),
        "no rows": header((9, 0, 28), b""),
        "other size": header((9, 14, 56), pixels),
        "half a header": gzip.compress(bytes([0, 0, 8, 3, 0, 0]), mtime=0),
        "no gzip": gzip.decompress(whole),
        "gzip in gzip": gzip.compress(whole, mtime=0),
        "bytes behind the end": whole + b"more",
        "a second part": whole + gzip.compress(b"more", mtime=0),
    }
    path = "train-images-idx3-ubyte.gz"

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.no_files()
        yield from broken.truncated(whole, 15)
        yield from broken.flipped(whole, 15, 10, len(whole))
        yield "a bomb", lambda at: broken.put(at, broken.gzip_bomb(gzip.decompress(whole)))
        yield from ((name, broken.holding(of)) for name, of in contents.items())

    yield from _originals("idx.gz", "mnist", files, "train_images", path, found())
    path = "train-labels-idx1-ubyte.gz"
    of_labels = {
        "labels above 9": broken.idx(labels + 2),
        "fewer labels": broken.idx(labels[:-1]),
        "labels of images": whole,
        "labels of two axes": broken.idx(labels[None]),
    }
    writers = ((name, broken.holding(of)) for name, of in of_labels.items())
    yield from _originals("idx.gz", "mnist", files, "train_labels", path, writers)


def _amat() -> Iterator[Case]:
    lines = [b" ".join(b"%d" % bit for bit in row) for row in _random(5, 784, high=1)]
    whole = b"\n".join(lines) + b"\n"
    files = dict.fromkeys(("train", "valid", "test"), whole)
    contents = {
        "an empty line": whole + b"\n",
        "a line too short": whole + lines[0][:-2] + b"\n",
        "a line too long": whole + lines[0] + b" 1\n",
        "digits run together": whole + lines[0].replace(b" ", b"", 1) + b"\n",
        "a two": whole.replace(b"1", b"2", 1),
        "negative": whole.replace(b"1", b"-1", 1),
        "floats": whole.replace(b"1", b"1.0", 1),
        "NaN": whole.replace(b"1", b"nan", 1),
        "commas": whole.replace(b" ", b","),
        "UTF-16": whole.decode().encode("utf-16"),
        "no lines": whole.replace(b"\n", b" "),
        "a gzip": gzip.compress(whole, mtime=0),
    }
    path = "binarized_mnist_train.amat"

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.no_files()
        yield from broken.truncated(whole, 15, len(whole) - 3)
        yield from broken.flipped(whole, 15, 0, len(whole), bits=7)
        yield from ((name, broken.holding(of)) for name, of in contents.items())

    yield from _originals("amat", "binarized_mnist", files, "train", path, found())


def _letters() -> Iterator[Case]:
    def line(*fields: object) -> bytes:
        return "\t".join(map(str, fields)).encode() + b"\t\n"

    bits = _random(128, high=1).tolist()
    head = (1, "a", 2, 1, 1, 0)
    text = b"".join(line(*head, *bits) for _ in range(10))
    whole = gzip.compress(text, mtime=0)
    texts = {
        "a capital letter": line(1, "A", *head[2:], *bits),
        "two letters": line(1, "ab", *head[2:], *bits),
        "no letter": line(1, "", *head[2:], *bits),
        "a letter of another script": line(1, "ä", *head[2:], *bits),
        "a pixel too few": line(*head, *bits[1:]),
        "a pixel too many": line(*head, *bits, 1),
        "a two": line(*head, 2, *bits[1:]),
        "two pixels run together": line(*head, "01", *bits[1:]),
        "a negative pixel": line(*head, -1, *bits[1:]),
        "an empty line": b"\n",
        "a very long line": b"1 " * 10**6,
        "many empty lines": b"\n" * 10**6,
    }
    contents = {name: gzip.compress(text + of, mtime=0) for name, of in texts.items()}
    contents |= {
        "no lines": gzip.compress(b"", mtime=0),
        "no gzip": text,
    }

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.no_files()
        yield from broken.truncated(whole, 10)
        yield from broken.flipped(whole, 10, 10, len(whole))
        yield "a bomb", lambda at: broken.put(at, broken.gzip_bomb(text))
        yield from ((name, broken.holding(of)) for name, of in contents.items())

    path = "letter.data.gz"
    yield from _originals("letter.data.gz", "ocr_letters", {}, "letters", path, found())


def _mat() -> Iterator[Case]:
    faces = _random(560, 6, high=238)
    whole, packed = broken.mat({"ff": faces}), broken.mat({"ff": faces}, compress=True)

    def with_dimensions(rows: int, columns: int) -> bytes:
        sizes = [np.array(of, "<i4").tobytes() for of in ((560, 6), (rows, columns))]
        return whole.replace(sizes[0], sizes[1], 1)

    compressed = broken.mat_compressed
    nested: Any = 0
    for _ in range(200):
        cell = np.empty(1, object)
        cell[0] = nested
        nested = cell
    contents = {
        "no variable": broken.mat({"gg": faces}),
        "floats": broken.mat({"ff": faces / 255}),
        "NaN": broken.mat({"ff": np.full((560, 6), np.nan)}),
        "text": broken.mat({"ff": "faces"}),
        "a cell": broken.mat({"ff": np.array([faces, "b"], dtype=object)}),
        "cells in cells": broken.mat({"ff": nested}),
        "a structure": broken.mat({"ff": {"a": faces}}),
        "sparse": broken.mat({"ff": _sparse(faces)}),
        "complex": broken.mat({"ff": faces * 1j}),
        "no faces": broken.mat({"ff": faces[:, :0]}),
        "other size": broken.mat({"ff": faces[1:]}),
        "too bright": broken.mat({"ff": np.full((560, 6), 255, np.uint8)}),
        "huge": with_dimensions(2**31 - 1, 2**31 - 1),
        "negative": with_dimensions(560, -1),
        "more columns": with_dimensions(560, 7),
        "other byte order": whole[:126] + b"MI" + whole[128:],
        "version 7.3": whole[:124] + b"\0\2IM" + whole[128:],
        "the variable twice": whole + whole[128:],
        "a length of 4 GiB": whole[:132] + b"\xff" * 4 + whole[136:],
        "a length of nothing": whole[:132] + bytes(4) + whole[136:],
        "version 4, huge": np.array([0, 2**31 - 1, 2**31 - 1, 0, 3], "<i4").tobytes() + b"ff\0",
        "compressed twice": whole[:128] + compressed(compressed(whole[128:])),
        # With which a reader comes back to where it was.
        "version 4, minus its own size": np.array([0, -3, 1, 0, 4], "<i4").tobytes() + bytes(80),
        "version 4, negative name": np.array([0, 2, 3, 0, -20], "<i4").tobytes() + bytes(80),
        "version 4, negative": np.array([50, -5, 6, 0, 3], "<i4").tobytes() + b"ff\0" + bytes(99),
    }
    path = "frey_rawface.mat"

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.no_files()
        yield from broken.truncated(whole, 10)
        for name, write in broken.truncated(packed, 10):
            yield f"compressed, {name}", write
        yield from broken.flipped(packed, 15, 136, len(packed))
        yield "a bomb", lambda at: broken.put(at, broken.mat_bomb(whole))
        yield from ((name, broken.holding(of)) for name, of in contents.items())

    yield from _originals("mat", "frey_faces", {}, "faces", path, found())
    yield from _chardata()


def _sparse(array: np.ndarray) -> Any:
    import scipy.sparse

    return scipy.sparse.csc_matrix(array.astype(float))


def _chardata() -> Iterator[Case]:
    images = {"data": _random(784, 3) / 255, "testdata": _random(784, 2) / 255}
    labels = {
        "target": np.eye(3),
        "targetchar": np.ones((1, 3)),
        "testtarget": np.eye(3)[:, :2],
        "testtargetchar": np.ones((1, 2)),
    }
    variables: dict[str, dict[str, np.ndarray]] = {
        "no labels": {"target": np.zeros((3, 0))},
        "no alphabets": {"target": np.zeros((0, 3))},
        "alphabets that are none": {"target": np.zeros((3, 3))},
        "two alphabets": {"target": np.ones((3, 3))},
        "NaN alphabets": {"target": np.full((3, 3), np.nan)},
        "NaN characters": {"targetchar": np.full((1, 3), np.nan)},
        "infinite characters": {"targetchar": np.full((1, 3), np.inf)},
        "negative characters": {"targetchar": np.full((1, 3), -1.0)},
        "half characters": {"targetchar": np.full((1, 3), 0.5)},
        "text for characters": {"targetchar": np.array(["abc"])},
        "fewer characters": {"targetchar": np.ones((1, 2))},
        "fewer images": {"data": images["data"][:, :2]},
        "no images": {"data": images["data"][:, :0]},
        "no test images": {"testdata": images["testdata"][:, :0]},
        "other size": {"data": images["data"][1:]},
        "too bright": {"data": images["data"] + 1},
        "negative": {"data": images["data"] - 1},
        "NaN": {"data": np.full((784, 3), np.nan)},
        "complex": {"data": images["data"] * 1j},
    }
    path = "chardata.mat"
    writers = (
        (f"chardata: {name}", broken.holding(broken.mat({**images, **labels, **of})))
        for name, of in variables.items()
    )
    yield from _originals("mat", "omniglot_burda28", {}, "chardata", path, writers)


def _zip_of_pngs() -> Iterator[Case]:
    first = "images_background/Latin/character01/0001_01.png"
    drawing = broken.png(_random(105, 105, high=1) > 0)
    members = {first: drawing, first.replace("_01.png", "_02.png"): drawing}
    whole = broken.zipped(members)
    start = 8 + 25  # behind the header of the PNG
    pngs = {
        "no PNG": b"no PNG",
        "a GIF": b"GIF89a" + bytes(100),
        "half a header": drawing[:20],
        "a header alone": drawing[:start],
        "cut": drawing[:-40],
        "no pixels": broken.png_of_size(105, 105),
        "fewer pixels": broken.png_of_size(105, 105, bytes(105 * 106 - 50)),
        "0x0": broken.png_of_size(0, 0),
        "28x28": broken.png_of_size(28, 28, bytes(28 * 29)),
        "of 4 gigapixels": broken.png_of_size(2**16, 2**16),
        "as large as can be": broken.png_of_size(2**31 - 1, 2**31 - 1),
        "larger than can be": broken.png_of_size(2**32 - 1, 2**32 - 1),
        "a bomb in its text": broken.with_chunk(
            drawing, b"zTXt", b"a\0\0" + broken._deflated_zeros(b"", 2**26, 15)
        ),
        "a colour profile that is none": broken.with_chunk(drawing, b"iCCP", b"a\0\1no profile"),
        # The first is checked; a reader may take the last.
        "two headers": broken.with_chunk(drawing, b"IHDR", broken.png_header(60_000, 60_000)),
        "two headers, one of 28x28": broken.with_chunk(drawing, b"IHDR", broken.png_header(28, 28)),
        "a chunk that is cut": drawing[:start] + b"\0\0\1\0IDATx",
        "a wrong sum": drawing[:29] + bytes(4) + drawing[start:],
        "more than a drawing": drawing + bytes(2**20),
    }
    names = {
        "no drawings": "images_background/readme.txt",
        "no numbers": "images_background/a_b.png",
        "a third digit": "a/0001_001.png",
    }
    path = "images_background.zip"

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.no_files()
        yield from broken.truncated(whole, 15)
        yield from broken.flipped(whole, 15, *broken.payload(whole, first))
        for name, contents in pngs.items():
            yield f"PNG: {name}", broken.holding(broken.zipped({**members, first: contents}))
        for name, other in names.items():
            yield name, broken.holding(broken.zipped({other: drawing}))
        yield (
            "a drawing in two folders",
            broken.holding(broken.zipped({**members, "b/0001_01.png": drawing})),
        )
        yield from broken.bad_zips(members, first)

    def read(folder: Path) -> object:
        from memjax.data.omniglot import read_zip

        return read_zip(folder / path)

    yield from _files("zip of PNGs", path, found(), read)


# ------------------------------------------------------------------- files of evaluation


def _masks() -> Iterator[Case]:
    mask = np.eye(4, 3)
    whole = broken.npy(mask)
    arrays = {
        "another shape": np.eye(3),
        "a batch of masks": mask[None],
        "five channels": np.repeat(mask[..., None], 5, axis=2),
        "greys": mask / 2,
        "NaN": np.full((4, 3), np.nan),
        "text": mask.astype(str),
        "complex": mask * 1j,
        "nothing missing": mask * 0,
        "no axes": mask[0, 0],
    }

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.no_files()
        yield from broken.truncated(whole, 10)
        yield from broken.flipped(whole, 10, 0, 128)
        yield from ((name, broken.holding(of)) for name, of in broken.bad_headers())
        yield from ((name, broken.holding(broken.npy(of))) for name, of in arrays.items())

        def trapped(path: Path) -> None:
            traps = [[broken.Trap(path.parent)] * 3] * 4
            broken.put(path, broken.npy(np.array(traps, dtype=object)))

        yield "pickled", trapped
        yield "an .npz", broken.holding(broken.npz(mask=mask))
        yield "bytes behind the end", broken.holding(whole + b"more")

    def read(folder: Path) -> object:
        return read_mask(str(folder / "mask.npy"), (4, 3, 1))

    yield from _files("mask", "mask.npy", found(), read)


def _likelihoods() -> Iterator[Case]:
    """What `eval likelihood` writes of each image and `eval compare` reads."""
    values = np.linspace(-9, -1, 20, dtype=np.float32)
    whole = broken.npz(log_likelihood=values)
    arrays = {
        "fewer images": values[:5],
        "NaN": values * np.nan,
        "whole numbers": values.astype(int),
        "text": values.astype(str),
    }

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.no_files()
        yield from broken.truncated(whole, 5)
        yield from broken.flipped(whole, 5, *broken.payload(whole, "log_likelihood.npy"))
        for name, of in arrays.items():
            yield name, broken.holding(broken.npz(log_likelihood=of))
        yield "another array", broken.holding(broken.npz(other=values))

        def trapped(path: Path) -> None:
            traps = np.array([broken.Trap(path.parent)] * 20, dtype=object)
            broken.put(path, broken.npz(log_likelihood=traps))

        yield "pickled", trapped

    def read(folder: Path) -> object:
        return values_of(epath.Path(folder / "likelihood.npz"), 20)

    yield from _files("likelihood.npz", "likelihood.npz", found(), read)


# ------------------------------------------------------------------------ workdirs


def _config() -> dict[str, Any]:
    """A whole config.json."""
    experiment = configs.get("mem_vae_digits")
    model = experiment.model.clone(image_shape=(8, 8, 1))
    fields = config.fields_of(dataclasses.replace(experiment, model=model))
    return json.loads(
        json.dumps(
            {
                "format_version": workdirs.FORMAT_VERSION,
                "data_sha256": "0" * 64,
                "fields": fields,
            }
        )
    )


def _session() -> dict[str, Any]:
    return {
        **{"first_step": 0, "last_step": 9, "seconds": 1.0},
        **{"commit": None, "dirty": None, "hardware": "a machine"},
    }


def _record(**fields: Any) -> dict[str, Any]:
    of_run = {
        **{"experiment": "mem_vae_digits", "task": "likelihood", "dataset": "digits"},
        **{"split": "test", "metric": "log_likelihood", "value": -9.0, "seeds": [0]},
        **{"num_samples": 5, "num_images": 9, "epochs": 3, "steps": 9},
        "protocol": {"batch_norm": "pass", "split_order": "contiguous", "precision": "float32"},
    }
    return vars(Record(**{**of_run, **fields}))


def _workdir(folder: Path) -> Path:
    """A workdir with whole files, but for checkpoints."""
    workdir = folder / "run"
    texts = {
        "config.json": json.dumps(_config()),
        "sessions.json": json.dumps([_session()]),
        "results.json": json.dumps([_record()]),
        "metrics.jsonl": '{"step": 9, "epoch": 1, "iwae_bound": -9.0}\n',
    }
    for name, text in texts.items():
        broken.put(workdir / name, text.encode())
    return workdir


def _in_workdir(
    kind: str, name: str, found: Iterator[tuple[str, Writer]], read: Callable[[Path], object]
) -> Iterator[Case]:
    for title, write in found:

        def broken_one(folder: Path, write: Writer = write) -> None:
            path = _workdir(folder) / name
            path.unlink()
            write(path)

        yield Case(kind, title, broken_one, read, name)


def _configs() -> Iterator[Case]:
    yield from _in_workdir("config.json", "config.json", _bad_configs(), _restore)


def _restore(folder: Path) -> object:
    return restore(str(folder / "run"))


def _bad_configs() -> Iterator[tuple[str, Writer]]:
    document = _config()
    yield from broken.bad_json(document)
    tops: dict[str, dict[str, Any]] = {
        "no version": {**document, "format_version": None},
        "version true": {**document, "format_version": True},
        "a newer version": {**document, "format_version": 99},
        "version as text": {**document, "format_version": "1"},
        "no fields": {**document, "fields": None},
        "fields in a list": {**document, "fields": [document["fields"]]},
        "a sum that is none": {**document, "data_sha256": 5},
    }
    for name, top in tops.items():
        yield name, broken.holding(json.dumps(top).encode())
    for place, value in _bad_fields():
        changed = json.loads(json.dumps(document))
        *path, last = place.split(".")
        node = changed["fields"]
        for part in path:
            node = node[part]
        node[last] = value
        yield f"{place} = {value!r:.40}", broken.holding(json.dumps(changed).encode())


def _bad_fields() -> Iterator[tuple[str, Any]]:
    """Fields of an experiment and values that no run can have."""
    nan, inf = float("nan"), float("inf")
    wrong: dict[str, list[Any]] = {
        "name": [5, None, "", "nobody", "../../escaped", "/escaped", "a" * 500, "\ud800", "\0"],
        "unknown": [1],
        "dataset": [5, None, ["digits"]],
        "seed": ["0", 0.5, -1, 2**32, 10**30, nan, None],
        "model": [5, None, [], "MemVAE"],
        "model.hidden": [[0], [-5, 3], ["a", "b"], 5, None, [1.5, 2], [nan, 1], [[1], [2]], []],
        "model.latent": [0, -1, 10**30, "2", inf, None],
        "model.slots": [[1, 2, 3], [-1, 1], [nan, 1], {"a": 1}],
        "model.image_shape": [None, [8, 8], [8, -8, 1], [0, 8, 1], "8x8", [8.5, 8, 1], [2**40] * 3],
        "model.likelihood": ["other", 5, None],
        "model.unknown": [1],
        "objective": [5, None],
        "objective.num_samples": [0, -1, "5", nan],
        "sampler": [5, [1]],
        "data": [None, "random"],
        "data.split_order": ["sorted", 5],
        "data.split_seed": [-1, 2**40],
        "data.binarisation": ["sometimes"],
        "data.merge_validation": ["yes", 2, None],
        "optimizer": [[], 1],
        "optimizer.learning_rate": [0, -1, nan, inf, "1e-3", None],
        "optimizer.later_rates": [[0], [nan], 5],
        "optimizer.b1": [1, -0.1, 2],
        "optimizer.clip_element": [-1, inf],
        "train": [None, 7],
        "train.batch_size": [0, -5, "100", 0.5],
        "train.num_epochs": [0, -1],
        "train.num_seeds": [0, -2, "1", None],
        "train.precision": ["float8", 32],
        "train.call_seconds": [0, -1, nan],
    }
    for place, values in wrong.items():
        for value in values:
            yield place, value


def _record_run(folder: Path) -> object:
    return record((str(folder / "run"),), results=str(folder / "results"))


def _metrics() -> Iterator[Case]:
    whole = '{"step": 9, "epoch": 1, "iwae_bound": -9.0}\n'
    lines = {
        "no JSON": "nothing\n",
        "half a line before another": whole[:20] + "\n" + whole,
        "two lines run together": whole.strip() + whole,
        "an empty line": "\n" + whole,
        "a list": "[1, 2]\n",
        "a number": "5\n",
        "no step": '{"epoch": 1, "iwae_bound": -9.0}\n',
        "no epoch": '{"step": 1, "iwae_bound": -9.0}\n',
        "step is text": whole.replace("9,", '"9",'),
        "step is true": whole.replace("9,", "true,"),
        "step is NaN": whole.replace("9,", "NaN,"),
        "bound is text": whole.replace("-9.0", '"-9.0"'),
        "bound is null": whole.replace("-9.0", "null"),
        "bound is a list": whole.replace("-9.0", "[-9.0]"),
        "a number of 5000 digits": whole.replace("9,", "9" * 5000 + ","),
        "nested too deep": "[" * 100_000 + "\n",
    }

    def found() -> Iterator[tuple[str, Writer]]:
        # An empty file has no line that could be wrong, and a cut one is what a kill leaves.
        for name, write in broken.no_files():
            if name not in ("empty", "1 random bytes", "7 random bytes", "null bytes"):
                yield name, write
        for name, text in lines.items():
            yield name, broken.holding(text.encode())
        yield "no UTF-8", broken.holding(b"\xff" + whole.encode())
        yield "null bytes and a line", broken.holding(bytes(99) + b"\n")

    yield from _in_workdir("metrics.jsonl", "metrics.jsonl", found(), _record_run)


def _sessions() -> Iterator[Case]:
    document = [_session()]

    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.bad_json(document)
        for name in document[0]:
            values: tuple[Any, ...] = ({}, [1], 5 if name in ("commit", "hardware") else "x")
            for value in values:
                changed = [{**document[0], name: value}]
                yield f"{name} = {value!r}", broken.holding(json.dumps(changed).encode())
            left = {other: value for other, value in document[0].items() if other != name}
            yield f"no {name}", broken.holding(json.dumps([left]).encode())
        for title, text in {"no list": "{}", "of numbers": "[5]", "of lists": "[[]]"}.items():
            yield title, broken.holding(text.encode())

    yield from _in_workdir("sessions.json", "sessions.json", found(), _record_run)


def _results() -> Iterator[Case]:
    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.bad_json([_record()])
        for name, one in _bad_records():
            yield name, broken.holding(json.dumps([one]).encode())
        yield "no list", broken.holding(json.dumps(_record()).encode())

    yield from _in_workdir("results.json", "results.json", found(), _record_run)


def _bad_records() -> Iterator[tuple[str, Any]]:
    """Records of other kinds, and such that lack what a table shows."""
    nan = float("nan")
    wrong: dict[str, list[Any]] = {
        "experiment": [5, None, "\ud800"],
        "task": [None, ["likelihood"]],
        "split": ["../../escaped", 5, ""],
        "metric": [5],
        "value": ["9", nan, float("inf"), None, [9], 10**400],
        "stderr": ["0.1", nan],
        "seeds": [0, None, ["0"], [nan]],
        "num_samples": ["5", None, -5, 1.5],
        "num_images": [None, -1, "all"],
        "epochs": [None, "3", nan, -1],
        "steps": [None, "9", -9],
        "protocol": [None, [], "pass"],
        "versions": [5, {"jax": 1}],
        "trained": [5, {"seconds": "long"}, {"commit": 5}],
        "dirty": ["yes"],
        "unknown": [1],
    }
    for name, values in wrong.items():
        for value in values:
            yield f"{name} = {value!r:.40}", {**_record(), name: value}
    yield "x without values", _record(x=[1.0])
    yield "fewer values than x", _record(x=[1.0, 2.0], values=[1.0])
    yield "an empty curve", _record(x=[], values=[])
    yield "no list of numbers", _record(x=["a"], values=["b"])
    protocols: dict[str, tuple[str, dict[str, Any]]] = {
        "changed is a list": ("log_likelihood", {"changed": [1]}),
        "batch norm is a number": ("log_likelihood", {"batch_norm": 5}),
    }
    for name, (metric, protocol) in protocols.items():
        yield name, _record(metric=metric, protocol=protocol)
    episodes = {
        **{"ways": 2, "shots": 1, "shots_counted": "total", "replacement": True},
        **{"image_size": [28, 28, 1], "memory_size": 2, "episodes": 5},
    }
    ratio = {
        **{"job": "mem_vae_mnist", "rival": "limit", "device": "a core", "precision": "float32"},
        **{"ours_seconds": 1.0, "rival_seconds": 2.0},
    }
    of_tasks: dict[tuple[str, str], list[dict[str, Any]]] = {
        ("recall", "nll"): [{}, {"memory_size": 0}, {"memory_size": "256"}, {"memory_size": -1}],
        ("memory", "kl_address"): [{}, {"memory": "learned"}, {"memory": 5, "memory_size": 2}],
        ("few_shot", "nll"): [
            {},
            {**episodes, "ways": "two"},
            {**episodes, "shots": 0},
            {**episodes, "image_size": 28},
            {**episodes, "replacement": "no"},
        ],
        ("classification", "accuracy_q"): [{}, {**episodes, "episodes": None}],
        ("imputation", "mse"): [
            {},
            {"mask": "../../../escaped", "passes": 5, "batch_norm": "batch"},
            {"mask": "a" * 300, "passes": 5, "batch_norm": "batch"},
            {"mask": 5, "passes": 5, "batch_norm": "batch"},
        ],
        ("features", "accuracy"): [{}, {"batch_norm": "pass", "regularisation": "much"}],
        ("slots", "slot_entropy"): [{}, {"batch_norm": "pass"}],
        ("slots", "nll_cost"): [{"batch_norm": "pass", "disabled": 1}],
        ("benchmark", "step_seconds_by_memory"): [{}, {"curve": 5}],
        ("benchmark", "gradient_gib_by_steps"): [{}, {"changed": "all"}],
        ("benchmark", "ratio"): [
            {},
            {**ratio, "rival": 5},
            {**ratio, "ours_seconds": "few"},
            {name: of for name, of in ratio.items() if name != "job"},
        ],
    }
    for (task, metric), several in of_tasks.items():
        for i, protocol in enumerate(several):
            yield f"{task}, {metric} {i}", _record(task=task, metric=metric, protocol=protocol)
    yield "benchmark of no seconds", _record(task="benchmark", x=[1.0], values=[0.0])


def _tables() -> Iterator[Case]:
    def found() -> Iterator[tuple[str, Writer]]:
        yield from broken.bad_json([_record()])
        for name, one in _bad_records():
            yield name, broken.holding(json.dumps([_record(), one]).encode())

    def read(folder: Path) -> object:
        return tables(results=str(folder / "results"))

    yield from _files("results/*.json", "results/mem_vae_digits.json", found(), read)


def _readmes() -> Iterator[Case]:
    """Pages that `eval tables --readme` would put its tables into."""

    def found() -> Iterator[tuple[str, Writer]]:
        yield from (of for of in broken.no_files() if of[0] != "a device without end")
        yield "one mark", broken.holding(BEGIN.encode())
        yield "marks in the other order", broken.holding(f"{END}\n{BEGIN}".encode())

    def read(folder: Path) -> None:
        insert(epath.Path(folder / "page.md"), "tables")

    yield from _files("page of tables", "page.md", found(), read)


# ------------------------------------------------------------------------ checkpoints

_STEP = 5
_STATE = {"params": {"weights": np.arange(1000, dtype=np.float32)}}
_FIELDS = {"name": "mem_vae_digits", "seed": 0}
# Files of a checkpoint, by what is common to their names.
_PARTS = {
    "the manifest": "manifest.json",
    "what Orbax says of the step": "_CHECKPOINT_METADATA",
    "metrics": "metrics/metrics",
    "what Orbax says of the arrays": "default/_METADATA",
    "the index": "default/manifest.ocdbt",
    "an index of a process": "default/*/manifest.ocdbt",
    "the values": "default/*/d/*",
}


_JSON = ("the manifest", "what Orbax says of the step")


@functools.cache
def _saved() -> dict[str, bytes]:
    """A checkpoint, the only one of its run: path -> contents."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, fields=_FIELDS)
        checkpoints.save(_STATE, _STEP, -1.0)
        checkpoints.close()
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file()
        }


def _checkpoints() -> Iterator[Case]:
    """Checkpoints of a run that has no other, which might be taken instead."""
    for title, pattern in _PARTS.items():
        for name, change in _changes(title).items():

            def write(folder: Path, pattern: str = pattern, change: Any = change) -> None:
                for place, contents in _saved().items():
                    broken.put(folder / place, contents)
                step = folder / FOLDER / str(_STEP)
                path = max(step.glob(pattern), key=lambda path: path.stat().st_size)
                contents = path.read_bytes()
                path.unlink()
                change(path, contents)

            yield Case("checkpoint", f"{title}: {name}", write, _restore_state, FOLDER)


def _changes(title: str) -> dict[str, Callable[[Path, bytes], object]]:
    def flip(path: Path, contents: bytes) -> None:
        middle = len(contents) // 2
        changed = bytes([contents[middle] ^ 1])
        path.write_bytes(contents[:middle] + changed + contents[middle + 1 :])

    return {
        "missing": lambda path, contents: None,
        "empty": lambda path, contents: path.touch(),
        "half": lambda path, contents: path.write_bytes(contents[: len(contents) // 2]),
        "a bit changed": flip,
        "more": lambda path, contents: path.write_bytes(contents + b"more"),
        "a folder": lambda path, contents: path.mkdir(),
        "a pipe": lambda path, contents: os.mkfifo(path),
        "a device without end": lambda path, contents: path.symlink_to("/dev/zero"),
        "a pickle": lambda path, contents: path.write_bytes(pickle.dumps(Trap(path.parent))),
        # The same JSON, which ends in spaces.
        **({"more than 64 MiB": _padded} if title in _JSON else {}),
    }


def _padded(path: Path, contents: bytes) -> None:
    path.write_bytes(contents.ljust(2**26 + 1))


def _restore_state(folder: Path) -> object:
    checkpoints = Checkpoints(str(folder), create=False, fields=_FIELDS)
    try:
        step = newest_whole([checkpoints], reversed(checkpoints.steps()))
        return checkpoints.restore(_STATE, step)
    finally:
        checkpoints.close()


# --------------------------------------------------------------------- command lines


def _overrides() -> Iterator[Case]:
    """Fields on the command line of training."""
    wrong = {
        "--model.latent": ["0", "-1", "many", "1e3", "99999999999999999999", "1.5"],
        "--model.hidden": ["0", "-5", "nan"],
        "--model.slots": ["1", "-1"],
        "--model.likelihood": ["other"],
        "--objective.num-samples": ["0", "-7", "inf", "True"],
        "--train.batch-size": ["0", "-1", "1000000000000", "ten"],
        "--train.num-epochs": ["0", "-3", "1e9"],
        "--train.num-seeds": ["0", "5000000000"],
        "--train.precision": ["float8"],
        "--train.call-seconds": ["0", "nan", "-inf"],
        "--optimizer.learning-rate": ["0", "-1", "nan", "inf", "fast"],
        "--optimizer.b1": ["1", "nan"],
        "--optimizer.epsilon": ["0", "nan"],
        "--optimizer.later-rates": ["0", "nan"],
        "--data.binarisation": ["sometimes"],
        "--data.split-order": ["sorted"],
        "--data.split-seed": ["-1", "7"],
        "--seed": ["-1", "4294967296", "0x10"],
        "--dataset": ["nothing", "../../etc/passwd", "/dev/zero.npz", "~nobody/x.npz", "a" * 5000],
        "--data-dir": ["nowhere", "/dev/null", "~nobody", "a" * 5000],
        "--unknown": ["1"],
        "--model.unknown": ["1"],
        "--train": ["5"],
    }
    for option, values in wrong.items():
        for value in values:

            def read(folder: Path, option: str = option, value: str = value) -> object:
                given = f"{option}={value}"
                return _command(
                    train_main, "mem_vae_digits", "--workdir", str(folder / "run"), given
                )

            name = f"{option} {value:.40}"
            yield Case("override", name, lambda folder: folder, read, "")


def _command(main: Callable[[list[str]], int], *arguments: str) -> object:
    """A command line in this process; what it exits with 2 for is raised again."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    if code == 2 and "Traceback" not in said.getvalue():
        raise InputError(" ".join(said.getvalue().split()))
    return code


def _commands() -> Iterator[Case]:
    """A sample of all of it, by the real command lines in processes of their own."""
    workdir, rest = "{}/run", ("--data-dir", "{}")
    digits = ("-m", "train", "mem_vae_digits", "--workdir", workdir)
    commands: dict[str, tuple[str, ...]] = {
        "npz": (*digits, "--dataset", "{}/mine.npz"),
        "npz of a data set": (*digits, "--dataset", "mnist", *rest),
        "config.json": ("-m", "eval", "likelihood", "--workdir", workdir),
        "metrics.jsonl": ("-m", "eval", "record", workdir, "--results", "{}/results"),
        "sessions.json": ("-m", "eval", "record", workdir, "--results", "{}/results"),
        "results.json": ("-m", "eval", "record", workdir, "--results", "{}/results"),
        "results/*.json": ("-m", "eval", "tables", "--results", "{}/results"),
    }
    made = {
        "npz": _own,
        "npz of a data set": _data_folder,
        "config.json": _configs,
        "metrics.jsonl": _metrics,
        "sessions.json": _sessions,
        "results.json": _results,
        "results/*.json": _tables,
    }
    for kind, command in commands.items():
        # The data set of the command is mnist.
        every = [
            case for case in made[kind]() if kind != "npz of a data set" or "mnist" in case.said
        ]
        every = [case for case in every if "binarized" not in case.said]
        for case in (every[0], every[len(every) // 2]):
            read = _in_a_process(command)
            yield dataclasses.replace(
                case, kind="command line", name=f"{kind}: {case.name}", read=read
            )
    for command in (
        (*digits, "--model.latent", "-1"),
        (*digits, "--optimizer.learning-rate", "nan"),
        ("-m", "eval", "likelihood", "--workdir", "{}", "--num-samples", "0"),
        ("-m", "eval", "imputation", "{}", "--mask", "rect-99"),
    ):
        name = " ".join(command[1:])
        yield Case("command line", name, lambda folder: folder, _in_a_process(command), "")


def _in_a_process(command: tuple[str, ...]) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        done = subprocess.run(
            [sys.executable, *(part.format(folder) for part in command)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        said = done.stderr.strip()
        if done.returncode == 2 and "Traceback" not in said:
            raise InputError(said.splitlines()[-1])
        return done

    return read
