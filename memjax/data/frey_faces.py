"""Frey faces: the frames of a short film of one face (Roweis, Saul and Hinton 2002)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.download import Source
from memjax.data.files import Npz, load_mat
from memjax.data.recipe import Parts, Recipe
from memjax.errors import InputError

_HEIGHT, _WIDTH = 28, 20


def _read_originals(files: Mapping[str, Path]) -> Parts:
    path = files["faces"]
    faces = load_mat(path, ["ff"])["ff"]
    if faces.dtype != np.uint8 or faces.ndim != 2 or faces.shape[0] != _HEIGHT * _WIDTH:
        raise InputError(
            f"{path}: ff is {faces.dtype} {list(faces.shape)}, expected uint8 [560, N]"
        )
    # A face is a column whose pixels run along the rows of the image.
    return {"pool": Split(np.ascontiguousarray(faces.T).reshape(-1, _HEIGHT, _WIDTH, 1))}


def _read_npz(npz: Npz) -> Parts:
    return {"pool": Split(npz.images("images", _HEIGHT, _WIDTH, maximum=238))}


FREY_FACES = Recipe(
    name="frey_faces",
    description="1,965 frames of one face. https://cs.nyu.edu/~roweis/data.html",
    image_shape=(_HEIGHT, _WIDTH, 1),
    maximum=238,
    read_originals=_read_originals,
    read_npz=_read_npz,
    sources={
        "faces": Source(
            "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
            "sha256:265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64",
        )
    },
    counts={"pool": 1_965},
    # The first paper divides at random. In film order the last frames make the test set, which
    # is another task: no frame's neighbour is in the training set.
    test_size=100,
)
