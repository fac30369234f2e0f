"""What must be known about a data set before its files can be read."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.download import Source
from memjax.data.files import Npz
from memjax.errors import InputError

Parts = Mapping[str, Split]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One data set: where its files are, how they are read, what must come out.

    Both readers give the same parts, as the data set was published: "train", "valid", "test", or
    "pool" where nobody divided it. How parts become splits is decided each time it is loaded.

    Attributes:
        name: as in `NAMES`.
        description: one line, with the homepage at its end.
        image_shape: `(H, W, C)`.
        maximum: the grey value of full ink; no pixel is above it.
        sources: the original files; empty for the embedded data sets.
        read_originals: takes the downloaded files by the keys of `sources`.
        read_npz: takes the .npz of the data folder; None for the embedded data sets.
        npz: the name of that file where it is not `<name>.npz`.
        counts: images in each part; None where any number will do (small files in tests).
        label_counts: images of each class over all parts, or None if not to be checked.
        valid_size: images of the pool that make the validation split.
        test_size: images of the pool that make the test split; 0 where there is an official one.
        by_class: a random order keeps the drawings of a class together.
        version: to be raised when a reader changes what it gives, so that no cache is stale.
    """

    name: str
    description: str
    image_shape: tuple[int, int, int]
    maximum: int
    read_originals: Callable[[Mapping[str, Path]], Parts]
    read_npz: Callable[[Npz], Parts] | None = None
    npz: str = ""
    sources: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] | None = None
    label_counts: tuple[int, ...] | None = None
    valid_size: int = 0
    test_size: int = 0
    by_class: bool = False
    version: str = "1.0.0"

    @property
    def npz_filename(self) -> str:
        """The file that is looked for in the data folder."""
        return self.npz or f"{self.name}.npz"


def check(recipe: Recipe, parts: Parts, origin: str) -> None:
    """Raises InputError, naming `origin`, unless the parts are what the recipe promises."""
    for name, part in parts.items():
        images = part.images
        if images.dtype != np.uint8 or images.shape[1:] != recipe.image_shape or len(images) == 0:
            raise InputError(
                f"{origin}: {name} images are {images.dtype} {list(images.shape)}, "
                f"expected uint8 [N, {', '.join(map(str, recipe.image_shape))}]"
            )
        if images.max() > recipe.maximum:
            raise InputError(
                f"{origin}: {name} images hold {images.max()}, expected 0..{recipe.maximum}"
            )
    if recipe.counts is not None:
        found = {name: len(part) for name, part in parts.items()}
        if found != dict(recipe.counts):
            raise InputError(
                f"{origin}: found {_numbers(found)} images, expected {_numbers(recipe.counts)}"
            )
    if recipe.label_counts is not None:
        _check_label_counts(recipe.label_counts, parts, origin)


def _check_label_counts(expected: tuple[int, ...], parts: Parts, origin: str) -> None:
    labels = np.concatenate([part.labels for part in parts.values() if part.labels is not None])
    found = np.bincount(labels, minlength=len(expected))
    wrong = np.flatnonzero(found != np.array(expected))
    if wrong.size:
        first = int(wrong[0])
        raise InputError(
            f"{origin}: found {found[first]} images of class {first}, expected {expected[first]}"
        )


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
