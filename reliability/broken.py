"""Files in the formats that memjax reads, whole ones and ways to break them."""

import gzip
import io
import json
import os
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# What puts something at a path.
Writer = Callable[[Path], None]
BOMB = 5 * 2**26  # bytes that bombs unpack to


class Trap:
    """Leaves a folder behind if it is ever unpickled."""

    def __init__(self, folder: Path):
        """The folder `unpickled` in this one."""
        self._marker = str(folder / "unpickled")

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self._marker,)


def holding(contents: bytes) -> Writer:
    """A file with these contents."""
    return lambda path: put(path, contents)


def put(path: Path, contents: bytes) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)


def no_files() -> Iterator[tuple[str, Writer]]:
    """What may lie in the place of any file."""
    yield "a folder", lambda path: path.mkdir(parents=True)
    yield "a pipe", _in_folder(lambda path: os.mkfifo(path))
    yield "a link to itself", _in_folder(lambda path: path.symlink_to(path.name))
    yield "a device without end", _in_folder(lambda path: path.symlink_to("/dev/zero"))
    yield "empty", holding(b"")
    yield "a pickle", lambda path: put(path, pickle.dumps(Trap(path.parent)))
    for seed, size in enumerate((1, 7, 100, 5000)):
        yield f"{size} random bytes", holding(np.random.default_rng(seed).bytes(size))
    yield "null bytes", holding(bytes(4096))


def _in_folder(make: Writer) -> Writer:
    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return write


def truncated(whole: bytes, count: int, most: int | None = None) -> Iterator[tuple[str, Writer]]:
    """So many beginnings of a file, up to `most` bytes: all but the last if not given."""
    places = np.linspace(1, len(whole) - 1 if most is None else most, count).astype(int)
    for place in dict.fromkeys(places.tolist()):
        yield f"cut after {place} bytes", holding(whole[:place])


def flipped(
    whole: bytes, count: int, first: int, last: int, bits: int = 8, seed: int = 0
) -> Iterator[tuple[str, Writer]]:
    """So many files with one bit changed, of the bytes from `first` up to `last`."""
    generator = np.random.default_rng(seed)
    places = generator.choice(np.arange(first, last), min(count, last - first), replace=False)
    for place in sorted(places.tolist()):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(generator.integers(8 - bits, 8))
        yield f"a bit of byte {place} changed", holding(bytes(changed))


def npy(array: np.ndarray) -> bytes:
    """An .npy file; pickled where the array holds objects, which must be refused."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def npy_header(text: str, version: tuple[int, int] = (1, 0), data: bytes = b"") -> bytes:
    """An .npy file with any text for a header."""
    header = (text + "\n").encode("latin1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return np.lib.format.MAGIC_PREFIX + bytes(version) + length + header + data


def shape_header(shape: str, descr: str = "'|u1'", order: str = "False") -> str:
    """A header as numpy writes it."""
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def bad_headers() -> Iterator[tuple[str, bytes]]:
    """.npy files whose headers lie, or are none."""
    texts = {
        "negative shape": shape_header("(-10, 4, 4)"),
        "two negative sizes": shape_header("(-10, -4, 4)"),
        "huge shape": shape_header(f"({2**62}, 4, 4)"),
        "shape that overflows": shape_header(f"({2**32}, {2**32}, 1)"),
        "shape of 3000 digits": shape_header("(" + "9" * 3000 + ",)"),
        "more bytes than there are": shape_header("(1000000, 4, 4)"),
        "shape of floats": shape_header("(10.0, 4.0, 4.0)"),
        "shape of text": shape_header("('10', 4, 4)"),
        "shape is a number": shape_header("160"),
        "no shape": "{'descr': '|u1', 'fortran_order': False}",
        "a call": shape_header("__import__('os').mkdir('unpickled')"),
        "objects": shape_header("(10, 4, 4)", "'|O'"),
        "records with objects": shape_header("(10, 4, 4)", "[('a', '|O')]"),
        "records": shape_header("(10, 4, 4)", "[('a', '|u1')]"),
        "unknown dtype": shape_header("(10, 4, 4)", "'|q9'"),
        "dtype is a list": shape_header("(10, 4, 4)", "[]"),
        "dtype without size": shape_header("(10, 4, 4)", "'|S0'"),
        "dtype of 4 GiB": shape_header("(10, 4, 4)", f"'<U{2**30}'"),
        "order is text": shape_header("(10, 4, 4)", order="'no'"),
        "many brackets": "(" * 5000,
        "a header without end": "{'descr': '''",
        "no dictionary": "None",
        "a long header": " " * 60000 + shape_header("(10, 4, 4)"),
    }
    for name, text in texts.items():
        yield f"header: {name}", npy_header(text, data=bytes(160))
    yield "version 9", npy_header(shape_header("(10, 4, 4)"), (9, 0), bytes(160))
    yield "header of 4 GiB", np.lib.format.MAGIC_PREFIX + b"\2\0" + b"\xff" * 4 + bytes(160)


def npz(**arrays: np.ndarray) -> bytes:
    """As numpy.savez_compressed writes it."""
    return zipped({f"{name}.npy": npy(array) for name, array in arrays.items()})


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, contents in members.items():
            archive.writestr(zipfile.ZipInfo(name), contents, method)
    return file.getvalue()


def payload(archive: bytes, name: str) -> tuple[int, int]:
    """Where the packed bytes of a member begin and end."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        member = opened.getinfo(name)
    first = member.header_offset + 30 + len(name)
    return first, first + member.compress_size


def bad_zips(whole: dict[str, bytes], name: str) -> Iterator[tuple[str, Writer]]:
    """Archives that mean harm, though the member of this name is whole."""
    for title, contents in _bad_zips(whole, name):
        yield title, holding(contents)

    def absolute(path: Path) -> None:
        put(path, zipped({**whole, str(path.parent / "escaped.npy"): b"escaped"}))

    yield "an absolute member", absolute
    yield "a bomb", lambda path: put(path, zip_bomb(whole, name))
    yield "a bomb that lies", lambda path: put(path, _lying(zip_bomb(whole, name), name, 200))


def _bad_zips(whole: dict[str, bytes], name: str) -> Iterator[tuple[str, bytes]]:
    for other in ("../../escaped.npy", "..\\..\\escaped.npy"):
        yield f"a member {other}", zipped({**whole, other: b"escaped"})
    for title, target in (("out", "../../../etc/passwd"), ("absolute", "/etc/passwd")):
        yield f"a link {title}", _with_link(whole, target)
    yield "a member twice", _twice(whole, name)
    for title, method in (("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)):
        yield f"packed by {title}", zipped(whole, method)
    yield "a lie about the length", _lying(zipped(whole), name, 10)
    yield "4 GiB promised", _lying(zipped(whole), name, 2**32 - 2)


def _with_link(whole: dict[str, bytes], target: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, contents in whole.items():
            archive.writestr(zipfile.ZipInfo(name), contents)
        link = zipfile.ZipInfo("link.npy")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, target)
    return file.getvalue()


def _twice(whole: dict[str, bytes], name: str) -> bytes:
    # zipfile warns of a name that is there already, so the second is renamed afterwards.
    other = "~" * len(name)
    return zipped({**whole, other: whole[name]}).replace(other.encode(), name.encode())


def _lying(archive: bytes, name: str, size: int) -> bytes:
    """The archive with another length of a member, in both of its headers."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        member = opened.getinfo(name)
        entry = opened.start_dir
    changed = bytearray(archive)
    changed[member.header_offset + 22 : member.header_offset + 26] = struct.pack("<I", size)
    while archive[entry + 46 :][: len(name)] != name.encode():
        lengths = struct.unpack("<HHH", archive[entry + 28 : entry + 34])
        entry += 46 + sum(lengths)
    changed[entry + 24 : entry + 28] = struct.pack("<I", size)
    return bytes(changed)


def _deflated_zeros(begin: bytes, size: int, wbits: int) -> bytes:
    """`begin` and then so many null bytes, packed; zlib is asked for one part alone."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    part = bytes(2**20)
    packed = [packer.compress(begin)]
    packed += [packer.compress(part) for _ in range(size // len(part))]
    return b"".join([*packed, packer.flush()])


def gzip_bomb(begin: bytes, size: int = BOMB) -> bytes:
    """A gzip file of `begin` and then null bytes."""
    return _deflated_zeros(begin, size, 31)


def zip_bomb(whole: dict[str, bytes], name: str, size: int = BOMB) -> bytes:
    """An archive with a member that begins as it should and goes on with null bytes."""
    file = io.BytesIO()
    part = bytes(2**20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, contents in whole.items():
            if other != name:
                archive.writestr(zipfile.ZipInfo(other), contents, zipfile.ZIP_DEFLATED)
        with archive.open(name, "w") as member:
            member.write(whole[name])
            for _ in range(size // len(part)):
                member.write(part)
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    """A gzipped idx file."""
    return idx_header(array.shape, array.astype(np.uint8).tobytes())


def idx_header(
    shape: tuple[int, ...], data: bytes, magic: bytes | None = None, order: str = ">"
) -> bytes:
    """A gzipped idx file with any header."""
    kind = bytes([0, 0, 8, len(shape)]) if magic is None else magic
    return gzip.compress(kind + struct.pack(f"{order}{len(shape)}I", *shape) + data, mtime=0)


def mat(variables: dict[str, Any], compress: bool = False) -> bytes:
    """A MATLAB file, version 5."""
    import scipy.io

    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compress)
    # Without the time, so that the same files are made every time.
    return b"MATLAB 5.0 MAT-file".ljust(116) + file.getvalue()[116:]


def mat_bomb(whole: bytes, size: int = BOMB) -> bytes:
    """The header of a MATLAB file and a compressed variable that unpacks to null bytes."""
    begin = whole[128:184]  # tag, flags, dimensions, name
    packed = _deflated_zeros(begin, size, 15)
    return whole[:128] + struct.pack("<II", 15, len(packed)) + packed


def mat_compressed(elements: bytes) -> bytes:
    """An element of a MATLAB file that holds others, compressed."""
    packed = zlib.compress(elements)
    return struct.pack("<II", 15, len(packed)) + packed


def png(ink: np.ndarray) -> bytes:
    """A PNG of black and white."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert("1").save(file, "PNG")
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """What the header of a grey PNG says."""
    return struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)


def png_of_size(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header says so, whatever its pixels are."""
    chunks = ((b"IHDR", png_header(width, height)), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_chunk(image: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with a chunk behind its header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return image[:33] + chunk + image[33:]


def bad_json(document: Any) -> Iterator[tuple[str, Writer]]:
    """JSON that is none, or of other kinds than the document."""
    whole = json.dumps(document)
    texts = {
        "null": "null",
        "a number": "5",
        "a text": '"text"',
        "true": "true",
        "NaN": "NaN",
        "nested too deep": "[" * 100_000 + "]" * 100_000,
        "objects nested too deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "two documents": whole + whole,
        "a number of 5000 digits": "[" + "9" * 5000 + "]",
        "single quotes": whole.replace('"', "'"),
        "a comment": f"// {whole}",
        "code": "__import__('os').mkdir('unpickled')",
    }
    for name, text in texts.items():
        yield name, holding(text.encode())
    yield "UTF-16", holding(whole.encode("utf-16"))
    yield "no UTF-8", holding(whole.encode().replace(b'"', b'"\xff', 1))
    yield from no_files()
    yield from truncated(whole.encode(), 10)
