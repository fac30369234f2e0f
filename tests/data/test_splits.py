"""Splits are disjoint, cover everything, and are the same again for the same seed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from memjax.data import load
from memjax.data.arrays import Split, join
from memjax.data.splits import divide
from memjax.errors import InputError

from .originals import labels_of


def numbered(start: int, count: int, drawings: int = 1) -> Split:
    """Images that are told apart by their labels."""
    labels = np.arange(start, start + count, dtype=np.int32)
    return Split(np.zeros((count, 2, 2, 1), np.uint8), labels // drawings)


def labels(splits: Mapping[str, Split]) -> dict[str, list[int]]:
    return {name: labels_of(split).tolist() for name, split in splits.items()}


def test_contiguous_pool() -> None:
    found = labels(divide({"pool": numbered(0, 10)}, valid_size=3, test_size=2))
    assert found == {"train": [0, 1, 2, 3, 4], "valid": [5, 6, 7], "test": [8, 9]}


def test_contiguous_official() -> None:
    parts = {"train": numbered(0, 5), "test": numbered(5, 2)}
    found = labels(divide(parts, valid_size=2, test_size=0))
    assert found == {"train": [0, 1, 2], "valid": [3, 4], "test": [5, 6]}
    merged = labels(divide(parts, valid_size=2, test_size=0, merge_validation=True))
    assert merged == {"train": [0, 1, 2, 3, 4], "test": [5, 6]}


def test_official_validation_set() -> None:
    parts = {"train": numbered(0, 3), "valid": numbered(3, 2), "test": numbered(5, 1)}
    found = labels(divide(parts, valid_size=2, test_size=0))
    assert found == {"train": [0, 1, 2], "valid": [3, 4], "test": [5]}


@pytest.mark.parametrize("merge", [False, True])
def test_random_pool_covers_and_repeats(merge: bool) -> None:
    def found(seed: int) -> dict[str, list[int]]:
        pool = {"pool": numbered(0, 1_000)}
        return labels(
            divide(
                pool,
                valid_size=100,
                test_size=50,
                order="random",
                seed=seed,
                merge_validation=merge,
            )
        )

    first = found(0)
    sizes = {name: len(split) for name, split in first.items()}
    assert sizes == ({"train": 950} if merge else {"train": 850, "valid": 100}) | {"test": 50}
    assert sorted(label for split in first.values() for label in split) == list(range(1_000))
    assert first == found(0) and first != found(1)


def test_merging_leaves_the_random_test_set_alone() -> None:
    pool = {"pool": numbered(0, 100)}
    apart = labels(divide(pool, valid_size=10, test_size=10, order="random"))
    merged = labels(
        divide(pool, valid_size=10, test_size=10, order="random", merge_validation=True)
    )
    assert merged == {"train": apart["train"] + apart["valid"], "test": apart["test"]}


def test_random_order_leaves_an_official_test_set_alone() -> None:
    parts = {"train": numbered(0, 50), "test": numbered(50, 5)}
    found = labels(divide(parts, valid_size=10, test_size=0, order="random"))
    assert found["test"] == [50, 51, 52, 53, 54]
    assert sorted(found["train"] + found["valid"]) == list(range(50))
    assert found["valid"] != list(range(40, 50))


def test_random_order_by_class() -> None:
    parts = {"train": numbered(0, 40, drawings=4)}
    found = labels(divide(parts, valid_size=8, test_size=0, by_class=True, order="random"))
    assert len(set(found["valid"])) == 2 and not set(found["valid"]) & set(found["train"])
    assert all(found["train"][i : i + 4] == [found["train"][i]] * 4 for i in range(0, 32, 4))
    assert found["train"] != sorted(found["train"])


def test_seeds_of_any_size() -> None:
    for seed in (-1, 2**70):
        divide({"pool": numbered(0, 10)}, valid_size=1, test_size=1, order="random", seed=seed)


def test_splits_are_the_same_everywhere_and_for_ever() -> None:
    found = labels(divide({"pool": numbered(0, 8)}, valid_size=2, test_size=2, order="random"))
    assert found == {"train": [6, 7, 5, 1], "valid": [4, 3], "test": [0, 2]}


def test_empty_split() -> None:
    with pytest.raises(
        InputError, match=r"found 5 images to divide, expected more than 3 .* 2 for"
    ):
        divide({"pool": numbered(0, 5)}, valid_size=3, test_size=2)


def test_unknown_order() -> None:
    with pytest.raises(InputError, match="split_order: found 'sorted', expected 'contiguous' or"):
        load("digits", split_order="sorted")  # type: ignore[arg-type]


def test_own_images(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    images = np.random.default_rng(0).integers(0, 256, (57, 6, 5, 3), dtype=np.uint8)
    np.savez(file, images=images, labels=np.arange(57))
    dataset = load(str(file))
    assert (dataset.name, dataset.image_shape, dataset.maximum) == (str(file), (6, 5, 3), 255)
    assert labels(dataset.splits) == {  # 80 / 10 / 10 per cent, in file order
        "train": list(range(47)),
        "valid": list(range(47, 52)),
        "test": list(range(52, 57)),
    }
    shuffled = load(str(file), split_order="random", split_seed=3)
    everything = join(list(shuffled.splits.values()))
    np.testing.assert_array_equal(everything.images, images[labels_of(everything)])
    assert sorted(labels_of(everything)) == list(range(57))
    assert labels(shuffled.splits) != labels(load(str(file), split_order="random").splits)


def test_own_binary_images_without_channels_or_labels(tmp_path: Path) -> None:
    file = tmp_path / "bits.npz"
    np.savez(file, images=np.eye(6, dtype=np.uint8).reshape(3, 4, 3))
    dataset = load(str(file), merge_validation=True)
    assert (dataset.image_shape, dataset.maximum) == ((4, 3, 1), 1)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 2, "test": 1}
    assert dataset.splits["train"].labels is None
