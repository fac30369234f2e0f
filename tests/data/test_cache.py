"""Prepared data: made once, never stale, never half written."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memjax.data import load
from memjax.data.cache import prepared, publish
from memjax.data.loading import RECIPES
from memjax.data.recipe import Recipe
from memjax.errors import InputError

from .originals import labels_of, npz, small


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "prepared").iterdir())


def unreadable(recipe: Recipe) -> Recipe:
    """A recipe whose files cannot be read any more, so that only the cache can answer."""

    def fail(_: object) -> dict:
        raise AssertionError("read again")

    return dataclasses.replace(recipe, read_npz=fail, read_originals=fail)


def test_second_load_comes_from_the_cache(tmp_path: Path, cache: Path) -> None:
    recipe, published = small("frey_faces")
    (tmp_path / "frey_faces.npz").write_bytes(npz(**published.npz))
    first = prepared(recipe, tmp_path)
    again = prepared(unreadable(recipe), tmp_path)
    np.testing.assert_array_equal(again["pool"].images, first["pool"].images)
    assert len(folders(cache)) == 1


def test_changed_file_is_prepared_anew(tmp_path: Path, cache: Path) -> None:
    recipe, published = small("frey_faces")
    file = tmp_path / "frey_faces.npz"
    file.write_bytes(npz(**published.npz))
    prepared(recipe, tmp_path)
    changed = published.npz["images"][::-1].copy()
    file.write_bytes(npz(images=changed))
    np.testing.assert_array_equal(prepared(recipe, tmp_path)["pool"].images[..., 0], changed)
    assert len(folders(cache)) == 2


def test_new_version_of_a_recipe_is_prepared_anew(cache: Path) -> None:
    recipe = RECIPES["digits"]
    prepared(recipe, None)
    with pytest.raises(AssertionError, match="read again"):
        prepared(unreadable(dataclasses.replace(recipe, version="2.0.0")), None)


def test_data_folder_is_only_read(tmp_path: Path) -> None:
    recipe, published = small("ocr_letters")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "ocr_letters.npz").write_bytes(npz(**published.npz))
    prepared(recipe, folder)
    assert [path.name for path in folder.iterdir()] == ["ocr_letters.npz"]


def test_interrupted_preparation_leaves_nothing(cache: Path) -> None:
    part = prepared(RECIPES["digits"], None)["pool"]
    wrong = dataclasses.replace(part, labels=labels_of(part)[:, None])  # TFDS refuses this shape
    recipe = dataclasses.replace(
        RECIPES["digits"], read_originals=lambda _: {"pool": wrong}, version="2.0.0"
    )
    before = folders(cache)
    with pytest.raises(ValueError, match="does not match"):
        prepared(recipe, None)
    assert folders(cache) == before


def test_slower_of_two_processes_keeps_what_is_there(tmp_path: Path) -> None:
    written, folder = tmp_path / "written", tmp_path / "final"
    for place, text in ((written, "mine"), (folder, "theirs")):
        place.mkdir()
        (place / "file").write_text(text)
    publish(written, folder)
    assert (folder / "file").read_text() == "theirs"


def test_two_processes_at_once(cache: Path) -> None:
    program = "from memjax.data import load; print(load('strokes').splits['test'].images.sum())"
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    expected = f"{load('strokes').splits['test'].images.sum()}\n"
    assert answers == [expected, expected]
    assert len(folders(cache)) == 1


def test_damaged_cache_says_what_to_remove(cache: Path) -> None:
    load("digits")
    (record,) = cache.glob("prepared/*/*.array_record*")
    contents = bytearray(record.read_bytes())
    contents[1_000] ^= 1
    record.write_bytes(contents)
    with pytest.raises(
        InputError, match=r"prepared data are damaged .* remove this folder"
    ) as info:
        load("digits")
    assert str(record.parent) in str(info.value)


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("MEMJAX_CACHE_DIR", str(file))
    with pytest.raises(InputError, match=r"cannot be written .* MEMJAX_CACHE_DIR"):
        load("digits")
    recipe, _ = small("mnist")
    with pytest.raises(InputError, match=r"cannot be written .* MEMJAX_CACHE_DIR"):
        prepared(recipe, None)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    load("digits")
    load("digits")
    assert capfd.readouterr() == ("", "")


def test_tfds_is_imported_late() -> None:
    program = "import sys, memjax.data; sys.exit('tensorflow_datasets' in sys.modules)"
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
