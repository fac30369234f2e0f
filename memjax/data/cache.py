"""Prepared data sets on disk: made once, complete or absent, never those of another file.

    <cache>/prepared/<name>-<fingerprint>/   what TFDS wrote
    <cache>/downloads/<name>-<fingerprint>/  original files

The fingerprint is a hash of everything that the contents follow from: the .npz file itself, or the
addresses and checksums of the originals, with the version of the recipe.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from memjax.data.arrays import Split
from memjax.data.download import fetch
from memjax.data.files import Npz, one_line
from memjax.data.recipe import Parts, Recipe, check
from memjax.errors import InputError


def cache_folder() -> Path:
    """Returns where prepared data lie: MEMJAX_CACHE_DIR, else ~/.cache/memjax."""
    return Path(os.environ.get("MEMJAX_CACHE_DIR") or "~/.cache/memjax").expanduser()


def prepared(recipe: Recipe, data_folder: Path | None) -> dict[str, Split]:
    """Returns the parts of a data set, from the cache if they were prepared before.

    The files are `<name>.npz` of data_folder if it is there, else the originals, downloaded.
    Raises InputError if they cannot be had or are not what the recipe promises, or if the cache
    cannot be written or was damaged.
    """
    npz = None
    if data_folder is not None and recipe.read_npz is not None:
        path = data_folder / recipe.npz_filename
        npz = Npz(path) if path.exists() else None
    key = f"{recipe.name}-{_fingerprint(recipe, npz)}"
    folder = cache_folder() / "prepared" / key
    if not folder.is_dir():
        if npz is not None:
            assert recipe.read_npz is not None
            parts = recipe.read_npz(npz)
            check(recipe, parts, str(npz.path))
        else:
            parts = _from_originals(recipe, cache_folder() / "downloads" / key)
        _prepare(recipe, parts, folder)
    return _read(folder)


def _fingerprint(recipe: Recipe, npz: Npz | None) -> str:
    digest = hashlib.sha256(f"{recipe.name} {recipe.version}\n".encode())
    if npz is not None:
        digest.update(npz.data)
    else:
        for key, source in recipe.sources.items():
            digest.update(f"{key} {source.url} {source.checksum}\n".encode())
    return digest.hexdigest()[:16]


def _from_originals(recipe: Recipe, folder: Path) -> Parts:
    try:
        if recipe.sources:
            folder.mkdir(parents=True, exist_ok=True)
        files = {key: fetch(source, folder) for key, source in recipe.sources.items()}
    except OSError as error:
        raise _unwritable(folder, error) from error
    except InputError as error:
        raise InputError(
            f"{error}; {recipe.npz_filename} in a folder named with --data-dir is the other way"
        ) from error
    try:
        parts = recipe.read_originals(files)
        check(recipe, parts, ", ".join(source.url for source in recipe.sources.values()))
    except InputError:
        # Without a checksum this is the first sign of a bad download: fetch it anew next time.
        for key, source in recipe.sources.items():
            if source.checksum is None:
                files[key].unlink(missing_ok=True)
        raise
    return parts


def _prepare(recipe: Recipe, parts: Parts, folder: Path) -> None:
    from memjax.data import builder

    with _temporary_folder(folder.parent) as temporary:
        try:
            written = builder.write(recipe, parts, temporary)
        except OSError as error:
            raise _unwritable(folder.parent, error) from error
        publish(written, folder)


def publish(written: Path, folder: Path) -> None:
    """Renames a complete folder to its final name, unless another process was faster."""
    try:
        written.rename(folder)
    except OSError as error:
        if not folder.is_dir():
            raise _unwritable(folder.parent, error) from error


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".preparing-"))
    except OSError as error:
        raise _unwritable(parent, error) from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder}: cannot be written ({one_line(error)}), expected a folder for data; "
        "choose another with MEMJAX_CACHE_DIR"
    )


def _read(folder: Path) -> dict[str, Split]:
    from memjax.data import builder

    reader: Callable[[Path], dict[str, Split]] = builder.read
    try:
        return reader(folder)
    except Exception as error:  # array_record and protobuf have errors of their own
        raise InputError(
            f"{folder}: prepared data are damaged ({one_line(error)}); remove this folder, and "
            "they are prepared again"
        ) from error
