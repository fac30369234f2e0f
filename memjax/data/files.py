"""Reading files that others wrote, with every failure said in one line."""

import ast
import gzip
import io
import math
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from memjax.data.arrays import Split
from memjax.errors import InputError

# What the readers of zip, npy and PNG files raise for damaged input.
DAMAGE: tuple[type[Exception], ...] = (
    *(EOFError, KeyError, MemoryError, NotImplementedError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)
# A packed file may give so much, or so many times its size. Images pack to a tenth; a bomb, to a
# thousandth.
_ALWAYS, _TIMES = 2**28, 100
# The header of an array of numbers, as numpy writes it. Its own reader raises almost anything for
# others, and makes records of them.
_HEADER = re.compile(
    r"\{'descr': '[<>|=]?[biufcSUVO]\d{0,9}', 'fortran_order': (?:False|True), "
    r"'shape': \((?:\d{1,18}(?:, ?|(?=\))))*\),? ?\}\s*"
)
_LONGEST = 10_000  # bytes of it, as in numpy
_NUMBERS = {"double", "single", "logical"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_COMPRESSED = 15  # an element of a MATLAB file


def one_line(error: BaseException) -> str:
    """Returns what an exception says, in one line and never empty."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__


def user_path(name: str) -> Path:
    """Returns a path that a user wrote, `~` expanded. Raises InputError where it cannot be."""
    try:
        path = Path(name).expanduser()
        path.exists()  # looks whether the name is too long
        if "\0" in name:
            raise ValueError("null character")
        return path
    except (OSError, RuntimeError, ValueError) as error:  # the second: nobody has this `~name`
        raise InputError(f"{name[:200]!r}: {one_line(error)}, expected a path") from error


def read_bytes(path: Path) -> bytes:
    """Returns the whole file. Raises InputError where it is missing or cannot be read."""
    try:
        # A pipe or a device may never end; etils takes them for files.
        if Path(path).exists() and not Path(path).is_file():
            raise InputError(f"{path}: cannot be read, expected a file")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a name that cannot be is a ValueError
        raise InputError(f"{str(path)!r}: cannot be read ({one_line(error)})") from error


def most_unpacked(size: int) -> int:
    """Returns how many bytes a packed file of this size may give; what gives more is a bomb."""
    return max(_ALWAYS, _TIMES * size)


def gunzip(path: Path) -> bytes:
    """Returns the unpacked contents. Raises InputError for a damaged or truncated file, or a bomb.

    No more is unpacked than `most_unpacked` says.
    """
    packed = read_bytes(path)
    most = most_unpacked(len(packed))
    try:
        if not packed:  # which gzip takes for no parts
            raise EOFError("empty")
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            data = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: damaged or truncated ({one_line(error)}), expected a complete gzip file"
        ) from error
    if len(data) > most:
        raise InputError(f"{path}: unpacks to more than {most} bytes, expected images")
    return data


def load_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the named variables of a MATLAB file, all of numbers.

    Raises InputError for a damaged file or a bomb, and where a variable is missing, there twice,
    empty or no matrix of numbers.
    """
    import scipy.io  # 0.2 s, and only two data sets need it

    data = read_bytes(path)
    try:
        # A variable that cannot be read would be a warning.
        with warnings.catch_warnings(action="error"):
            file = io.BytesIO(_inflated(data))
            held = scipy.io.whosmat(file)
            for name, shape, kind in held:
                # Cells in cells overflow the stack of scipy's reader.
                if name in names and (kind not in _NUMBERS or min(shape, default=0) < 1):
                    raise ValueError(f"{name} is {kind} {list(shape)}")
            _once([name for name, _, _ in held])
            found = scipy.io.loadmat(file, variable_names=list(names))
    except Exception as error:  # damaged headers surface as almost anything
        raise InputError(
            f"{path}: damaged ({one_line(error)}), expected a MATLAB file (version 4 to 7)"
        ) from error
    for name in names:
        if name not in found:
            raise InputError(f"{path}: no variable {name!r} inside, expected {', '.join(names)}")
    return {name: np.asarray(found[name]) for name in names}


def _check_version_4(data: bytes) -> None:
    """Raises ValueError for a negative size, with which scipy would read the same for ever."""
    place = 0
    while place < len(data):
        order = "<" if struct.unpack_from("<i", data, place)[0] in range(5000) else ">"
        kind, *sizes, length = struct.unpack_from(f"{order}5i", data, place)
        if min(length, *sizes) < 0:
            raise ValueError("a negative size")
        rows, columns, imaginary = sizes
        width = (8, 4, 4, 2, 2, 1)[kind // 10 % 10]
        place += 20 + length + rows * columns * width * (1 + bool(imaginary))


def _inflated(data: bytes) -> bytes:
    """Returns a MATLAB file with its compressed variables unpacked, as far as they may.

    scipy itself would reserve what their headers promise. Raises ValueError for a bomb.
    """
    if 0 in data[:4]:  # version 4, which has none
        _check_version_4(data)
        return data
    order: Literal["little", "big"] = "little" if data[126:128] == b"IM" else "big"
    left, place, parts = most_unpacked(len(data)), 128, [data[:128]]
    while place < len(data):
        kind, size = (int.from_bytes(data[at : at + 4], order) for at in (place, place + 4))
        end = place + 8 + size
        if end > len(data):
            raise ValueError("truncated")
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            parts.append(unpacker.decompress(data[place + 8 : end], left + 1))
            left -= len(parts[-1])
            if left < 0:
                raise ValueError("unpacks to more than images do")
            if not unpacker.eof:
                raise ValueError("truncated")
            if int.from_bytes(parts[-1][:4], order) == _COMPRESSED:
                raise ValueError("compressed twice")
        else:
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def open_zip(data: bytes) -> zipfile.ZipFile:
    """Opens a zip whose members may be read by `read_member`.

    Raises ValueError, or another of `DAMAGE`, for members twice of one name, for links, and for
    names that lead out of a folder: nothing is unpacked to disk here, but whoever sends such a
    file means no good.
    """
    archive = zipfile.ZipFile(io.BytesIO(data))
    _once(archive.namelist())
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{member.filename!r} leads out of the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{member.filename!r} is a link")
    return archive


def _once(names: list[str]) -> None:
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise ValueError(f"{name!r} is there {count} times")


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Returns a member of at most so many bytes, its CRC checked.

    Raises ValueError, or another of `DAMAGE`, for a longer one, before it is unpacked, and for a
    damaged one.
    """
    member = archive.getinfo(name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("packed by another method than deflate")  # these unpack without a limit
    if member.file_size > most:
        raise ValueError(f"unpacks to {member.file_size} bytes, expected at most {most}")
    with archive.open(member) as file:
        return file.read(member.file_size + 1)  # with the end comes the check of the CRC


def read_npy(data: bytes) -> np.ndarray:
    """Returns the array of an .npy file, a view of `data`; pickles are never opened.

    Raises ValueError, or another of `DAMAGE`, where the header is not that of an array of numbers
    or text, or says another size than there is.
    """
    version, length = data[6:8], {1: 2, 2: 4, 3: 4}.get(data[6] if len(data) > 6 else 0)
    if not data.startswith(np.lib.format.MAGIC_PREFIX) or length is None or version[1:] != b"\0":
        raise ValueError("no .npy file")
    start = 8 + length
    end = start + int.from_bytes(data[8:start], "little")
    text = data[start:end].decode("latin1")
    if end - start > _LONGEST or not _HEADER.fullmatch(text):
        raise ValueError(f"header {text[:60]!r}, expected that of an array of numbers")
    header = ast.literal_eval(text.strip())
    dtype, shape = np.dtype(header["descr"]), header["shape"]
    if dtype.hasobject:
        raise ValueError("holds pickled objects, which are never opened; expected numbers")
    if len(data) - end != math.prod(shape) * dtype.itemsize or not dtype.itemsize:
        raise ValueError(f"{len(data) - end} bytes, expected {dtype} {list(shape)}")
    order: Literal["F", "C"] = "F" if header["fortran_order"] else "C"
    return np.frombuffer(data, dtype, offset=end).reshape(shape, order=order)


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
            self._archive = open_zip(self.data)
        except DAMAGE as error:
            raise InputError(
                f"{path}: not an .npz file, or truncated ({one_line(error)}), "
                "expected what numpy.savez writes"
            ) from error

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._archive.namelist()

    def names(self) -> list[str]:
        """Returns the names of all arrays."""
        return [entry.removesuffix(".npy") for entry in self._archive.namelist()]

    def array(self, name: str) -> np.ndarray:
        """Returns one array. Raises InputError if it is missing, damaged or holds objects."""
        if name not in self:
            held = ", ".join(ascii(entry)[1:-1] for entry in self.names()) or "nothing"
            raise InputError(f"{self.path}: no array {name!r} inside, found {held}")
        try:
            most = most_unpacked(len(self.data))
            return read_npy(read_member(self._archive, f"{name}.npy", most))
        except DAMAGE as error:
            if "pickle" in str(error):
                raise InputError(f"{self.path}: array {name!r} {one_line(error)}") from error
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
