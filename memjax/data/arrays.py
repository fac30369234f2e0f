"""What `load` returns: images as bytes in memory, one split after the other."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Images in a fixed order.

    Attributes:
        images: `[N, H, W, C]` uint8.
        labels: `[N]` int32, or None where the data set has none.
    """

    images: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: np.ndarray | slice) -> "Split":
        """Returns the images (and labels) at `index`, in that order; a slice gives views."""
        return Split(self.images[index], None if self.labels is None else self.labels[index])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, divided.

    Attributes:
        name: one of `NAMES`, or the path of the user's own file.
        splits: always "train" and "test"; "valid" where there is a validation split.
        maximum: the grey value that counts as full ink: 1 for 0/1 data, 255 for grey data, 238 for
            frey_faces (its largest pixel, by which the first paper divides).
    """

    name: str
    splits: Mapping[str, Split]
    maximum: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of every image."""
        height, width, channels = self.splits["train"].images.shape[1:]
        return height, width, channels

    def digest(self) -> str:
        """SHA-256 of the images of all splits, in hexadecimal: the same data, divided alike."""
        total = hashlib.sha256()
        for name, split in sorted(self.splits.items()):
            total.update(f"{name} {split.images.shape}\n".encode())
            total.update(np.ascontiguousarray(split.images).data)
        return total.hexdigest()


def join(splits: list[Split]) -> Split:
    """Returns the splits one behind the other; a single one is handed back as it is.

    Every split holds labels or none does.
    """
    if len(splits) == 1:
        return splits[0]
    labels = [split.labels for split in splits if split.labels is not None]
    return Split(
        np.concatenate([split.images for split in splits]),
        np.concatenate(labels) if labels else None,
    )
