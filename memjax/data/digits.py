"""scikit-learn's 8x8 digits: real data that need neither network nor folder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.randomness import Stream, permutation
from memjax.data.recipe import Parts, Recipe


def _generate(_: Mapping[str, Path]) -> Parts:
    from sklearn.datasets import load_digits  # half a second, and needed once

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    # In file order the writers follow each other; one order, fixed for ever, mixes them.
    order = permutation(Stream.DIGITS, 0, 0, len(images))
    return {"pool": Split(images, digits.target.astype(np.int32)).take(order)}


DIGITS = Recipe(
    name="digits",
    description="Handwritten digits, 8x8. https://archive.ics.uci.edu/dataset/80",
    image_shape=(8, 8, 1),
    maximum=255,
    read_originals=_generate,
    counts={"pool": 1_797},
    valid_size=250,
    test_size=250,
)
