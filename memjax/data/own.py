"""A user's own images."""

from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.files import Npz, describe
from memjax.errors import InputError

_EXPECTED = "expected uint8 [N, H, W] or [N, H, W, C] with 1 to 4 channels and values 0..255"


def read_own(path: Path) -> Split:
    """Returns the images of an .npz file, `[N, H, W, C]` uint8, and its labels if there are any.

    The file holds `images`, uint8 `[N, H, W]` or `[N, H, W, C]`, and perhaps `labels`, integers
    `[N]`. Raises InputError naming the file for anything else, and for less than three images,
    which train, valid and test need.
    """
    npz = Npz(path)
    images = npz.array("images")
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InputError(f"{path}: images is {describe(images)}, {_EXPECTED}")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if not (1 <= images.shape[3] <= 4 and min(images.shape[1:3]) >= 1):
        raise InputError(f"{path}: images is {describe(images)}, {_EXPECTED}")
    if len(images) < 3:
        raise InputError(
            f"{path}: found {len(images)} images, expected at least 3: one each to train, "
            "validate and test"
        )
    labels = npz.labels("labels", len(images)) if "labels" in npz else None
    return Split(images, labels)
