"""Original files from their published addresses."""

import dataclasses
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from memjax.data.files import one_line
from memjax.errors import InputError

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Source:
    """A file on the network.

    Attributes:
        url: its published address; the last part names the file here.
        checksum: "md5:...", "sha256:..." or whatever hashlib knows, "git-blob:..." for git's own
            sum of a file, or None where none is published and the contents are checked instead.
        mirrors: other addresses of the same file, tried in turn.
    """

    url: str
    checksum: str | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def fetch(source: Source, folder: Path) -> Path:
    """Returns the file's place in `folder` (there already), downloading it if it is not in it.

    Whatever has its final name is complete: a download has a temporary name until its length and
    checksum are right. Raises InputError naming the address if none of the addresses gives it.
    """
    path = folder / source.filename
    if path.exists() and (source.checksum is None or _sum(path, source.checksum) is None):
        return path
    first_error: InputError | None = None
    for url in (source.url, *source.mirrors):
        try:
            return _download(url, source.checksum, path)
        except InputError as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


def _download(url: str, checksum: str | None, path: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _copy(url, file, path.name)
        mismatch = checksum and _sum(partial, checksum)
        if mismatch:
            raise InputError(f"{url}: checksum is {mismatch}, expected {checksum}")
        partial.replace(path)
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        error.close()  # the error holds the connection
        raise InputError(f"{url}: cannot be downloaded ({error.code} {error.reason})") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        # urllib wraps what it met: "<urlopen error [Errno -2] ...>".
        reason = getattr(error, "reason", None)
        cause = reason if isinstance(reason, Exception) else error
        raise InputError(f"{url}: cannot be downloaded ({one_line(cause)})") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _copy(url: str, file: BinaryIO, name: str) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "memjax"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
        length = reply.headers.get("Content-Length")
        total = int(length) if length else None
        # disable=None: no bar where nobody watches.
        bar = tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None)
        received = 0
        with bar:
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    if total is not None and received != total:
        raise InputError(f"{url}: the connection ended after {received} of {total} bytes")


def _sum(path: Path, checksum: str) -> str | None:
    """Returns None if the file has this checksum, else the one that it has."""
    algorithm = checksum.partition(":")[0]
    if algorithm == "git-blob":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    found = f"{algorithm}:{digest.hexdigest()}"
    return None if found == checksum else found
