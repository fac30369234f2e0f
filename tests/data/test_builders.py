"""Every data set from small files in its original format, from an .npz, and embedded."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from memjax.data import NAMES, load
from memjax.data.arrays import Split, join
from memjax.data.cache import prepared
from memjax.data.download import Source
from memjax.data.loading import RECIPES, load_recipe

from .conftest import Server
from .originals import PUBLISHED, assert_same_parts, labels_of, npz, small


def test_every_file_based_data_set_has_small_files() -> None:
    assert {*PUBLISHED, "digits", "strokes"} == set(NAMES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_originals_are_downloaded_once_and_read_exactly(name: str, server: Server) -> None:
    recipe, published = small(name, server.url)
    server.files = dict(published.files.values())
    assert_same_parts(prepared(recipe, None), published.parts)
    assert sorted(server.asked) == sorted(server.files)
    assert_same_parts(prepared(recipe, None), published.parts)
    assert len(server.asked) == len(server.files)


@pytest.mark.parametrize("name", PUBLISHED)
def test_npz_of_the_data_folder_comes_first(name: str, tmp_path: Path) -> None:
    recipe, published = small(name)  # nothing answers at its addresses
    (tmp_path / recipe.npz_filename).write_bytes(npz(**published.npz))
    assert_same_parts(prepared(recipe, tmp_path), published.parts)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_split_is_there(name: str, tmp_path: Path) -> None:
    recipe, published = small(name)
    (tmp_path / recipe.npz_filename).write_bytes(npz(**published.npz))
    dataset = load_recipe(recipe, tmp_path)
    assert dataset.image_shape == recipe.image_shape
    assert {"train", "test"} <= set(dataset.splits) <= {"train", "valid", "test"}
    assert ("valid" in dataset.splits) == (recipe.valid_size > 0)
    merged = load_recipe(recipe, tmp_path, merge_validation=True)
    assert set(merged.splits) == {"train", "test"}
    assert len(merged.splits["train"]) == sum(map(len, dataset.splits.values())) - len(
        dataset.splits["test"]
    )


def test_order_is_kept_over_blocks() -> None:
    count = 2_500  # two whole blocks and a half one
    images = np.zeros((count, 8, 8, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(count), 256)
    parts = {"pool": Split(images, np.arange(count, dtype=np.int32))}
    recipe = dataclasses.replace(RECIPES["digits"], read_originals=lambda _: parts, counts=None)
    assert_same_parts(prepared(recipe, None), parts)


def test_mirror_is_asked_when_the_first_address_fails(server: Server) -> None:
    recipe, published = small("frey_faces", server.url)
    source = recipe.sources["faces"]
    server.files = {"mirror.mat": published.files["faces"][1]}
    mirrored = dataclasses.replace(source, mirrors=(server.url + "mirror.mat",))
    recipe = dataclasses.replace(recipe, sources={"faces": mirrored})
    assert_same_parts(prepared(recipe, None), published.parts)
    assert server.asked == ["frey_rawface.mat", "mirror.mat"]


def test_git_checksum(server: Server) -> None:
    recipe, published = small("frey_faces", server.url)
    filename, contents = published.files["faces"]
    server.files = {filename: contents}
    blob = hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()
    source = Source(server.url + filename, f"git-blob:{blob}")
    recipe = dataclasses.replace(recipe, sources={"faces": source})
    assert_same_parts(prepared(recipe, None), published.parts)


def test_digits() -> None:
    dataset = load("digits")
    assert {name: split.images.shape for name, split in dataset.splits.items()} == {
        "train": (1297, 8, 8, 1),
        "valid": (250, 8, 8, 1),
        "test": (250, 8, 8, 1),
    }
    everything = join(list(dataset.splits.values()))
    assert everything.images.max() == dataset.maximum == 255
    assert len(np.unique(everything.images)) == 17
    counts = np.bincount(labels_of(everything))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(labels_of(dataset.splits["test"])).min() > 10  # mixed, not writer by writer
