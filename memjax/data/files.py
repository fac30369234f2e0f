"""Reading files that others wrote, with every failure said in one line."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.errors import InputError

# What the readers of zip, npy and PNG files raise for damaged input.
DAMAGE: tuple[type[Exception], ...] = (
    *(EOFError, KeyError, MemoryError, NotImplementedError, OSError, RuntimeError),
    *(SyntaxError, ValueError, zipfile.BadZipFile, zlib.error),
)


def one_line(error: BaseException) -> str:
    """Returns what an exception says, in one line and never empty."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__


def read_bytes(path: Path) -> bytes:
    """Returns the whole file. Raises InputError where it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from error


def gunzip(path: Path) -> bytes:
    """Returns the unpacked contents. Raises InputError for a damaged or truncated file."""
    try:
        return gzip.decompress(read_bytes(path))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: damaged or truncated ({one_line(error)}), expected a complete gzip file"
        ) from error


def load_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the named variables of a MATLAB file. Raises InputError where one is missing."""
    import scipy.io  # 0.2 s, and only two data sets need it

    data = read_bytes(path)
    try:
        found = scipy.io.loadmat(io.BytesIO(data), variable_names=list(names))
    except Exception as error:  # damaged headers surface as almost anything
        raise InputError(
            f"{path}: damaged ({one_line(error)}), expected a MATLAB file (version 4 to 7)"
        ) from error
    for name in names:
        if name not in found:
            raise InputError(f"{path}: no variable {name!r} inside, expected {', '.join(names)}")
    return {name: np.asarray(found[name]) for name in names}


class Npz:
    """An .npz file whose arrays are checked as they are taken out; pickles are never opened.

    Attributes:
        path: where the file lies, for messages.
        data: its bytes, read once, so that what is hashed is what is used.
    """

    def __init__(self, path: Path):
        """Opens the file. Raises InputError if it is missing, truncated or not an .npz file."""
        self.path = path
        self.data = read_bytes(path)
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(self.data))
        except DAMAGE as error:
            raise InputError(
                f"{path}: not an .npz file, or truncated ({one_line(error)}), "
                "expected what numpy.savez writes"
            ) from error

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._archive.namelist()

    def array(self, name: str) -> np.ndarray:
        """Returns one array. Raises InputError if it is missing, damaged or holds objects."""
        if name not in self:
            held = ", ".join(entry.removesuffix(".npy") for entry in self._archive.namelist())
            raise InputError(f"{self.path}: no array {name!r} inside, found {held or 'nothing'}")
        try:
            # read() checks the CRC of the member; numpy's own loader stops short of it.
            member = io.BytesIO(self._archive.read(f"{name}.npy"))
            return np.lib.format.read_array(member, allow_pickle=False)
        except DAMAGE as error:
            if "pickle" in str(error):
                raise InputError(
                    f"{self.path}: array {name!r} holds pickled objects, which are never opened; "
                    "expected numbers"
                ) from error
            raise InputError(
                f"{self.path}: array {name!r} is damaged ({one_line(error)})"
            ) from error

    def images(self, name: str, height: int, width: int, maximum: int = 255) -> np.ndarray:
        """Returns `[N, height, width, 1]` uint8 of 0..maximum. Raises InputError otherwise."""
        images = self.array(name)
        expected = f"expected uint8 [N, {height}, {width}] of 0..{maximum}"
        if images.dtype != np.uint8 or images.shape[1:] != (height, width):
            raise InputError(f"{self.path}: {name} is {describe(images)}, {expected}")
        if images.size == 0:
            raise InputError(f"{self.path}: {name} is empty, {expected}")
        if images.max() > maximum:
            raise InputError(f"{self.path}: {name} holds {images.max()}, {expected}")
        return images[..., np.newaxis]

    def labels(self, name: str, count: int, num_classes: int = 2**31) -> np.ndarray:
        """Returns `[count]` int32 of 0..num_classes-1. Raises InputError otherwise."""
        labels = self.array(name)
        expected = f"expected integers [{count}] of 0..{num_classes - 1}"
        if labels.dtype.kind not in "iu" or labels.shape != (count,):
            raise InputError(f"{self.path}: {name} is {describe(labels)}, {expected}")
        if count and not (labels.min() >= 0 and labels.max() < num_classes):
            found = f"{labels.min()}..{labels.max()}"
            raise InputError(f"{self.path}: {name} holds {found}, {expected}")
        return labels.astype(np.int32)

    def split(self, images: str, labels: str, height: int, width: int, classes: int) -> Split:
        """Returns grey images with their labels, checked as `images` and `labels` check them."""
        pixels = self.images(images, height, width)
        return Split(pixels, self.labels(labels, len(pixels), classes))


def describe(array: np.ndarray) -> str:
    """Returns type and shape of an array, and its range if that says more, for a message."""
    text = f"{array.dtype} {list(array.shape)}"
    if array.dtype.kind == "f" and np.isnan(array).any():
        return f"{text} with NaN"
    if array.dtype.kind in "iuf" and array.dtype != np.uint8 and array.size:
        return f"{text} of {array.min():g}..{array.max():g}"
    return text
