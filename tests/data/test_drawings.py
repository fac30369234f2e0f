"""Procedural characters."""

import numpy as np
import pytest

from memjax.data import load, strokes
from memjax.errors import InputError

from .originals import labels_of


def test_shapes_labels_and_ink() -> None:
    split = strokes(30, 5, seed=1)
    assert split.images.shape == (150, 28, 28, 1) and split.images.dtype == np.uint8
    assert set(np.unique(split.images)) == {0, 1}
    np.testing.assert_array_equal(split.labels, np.repeat(np.arange(30), 5))
    ink = split.images.mean(axis=(1, 2, 3))
    assert ink.min() > 0.02 and ink.max() < 0.5


def test_same_seed_same_drawings_whatever_their_number() -> None:
    few = strokes(4, 3, seed=2).images.reshape(4, 3, -1)
    many = strokes(7, 6, seed=2).images.reshape(7, 6, -1)
    np.testing.assert_array_equal(many[:4, :3], few)
    assert (strokes(4, 3, seed=3).images.reshape(4, 3, -1) != few).any(axis=-1).all()


def test_drawings_of_a_class_resemble_each_other() -> None:
    images = strokes(50, 20).images.reshape(50, 20, -1).astype(np.float32)
    first, second = images[:, :10].mean(axis=1), images[:, 10:]
    distance = ((second[:, :, None] - first) ** 2).sum(axis=-1)
    accuracy = (distance.argmin(axis=-1) == np.arange(50)[:, None]).mean()
    assert accuracy > 0.7
    assert len({image.tobytes() for image in images.reshape(1_000, -1)}) == 1_000


def test_splits_share_no_class() -> None:
    for dataset in (load("strokes"), load("strokes", split_order="random", split_seed=4)):
        classes = {name: set(labels_of(split)) for name, split in dataset.splits.items()}
        assert {name: len(found) for name, found in classes.items()} == {
            "train": 80,
            "valid": 10,
            "test": 10,
        }
        assert set.union(*classes.values()) == set(range(100))
        assert classes["test"] == set(range(90, 100))


@pytest.mark.parametrize(("classes", "drawings"), [(0, 20), (5, 0)])
def test_nothing_to_draw(classes: int, drawings: int) -> None:
    with pytest.raises(InputError, match="expected at least 1 of 1"):
        strokes(classes, drawings)
