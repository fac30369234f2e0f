"""`load`: any data set by its name, divided as asked.

The data folder may hold these files, all arrays uint8 (labels may be any integers):

  mnist.npz             train_images [N, 28, 28], train_labels [N], test_images, test_labels
  binarized_mnist.npz   train [N, 28, 28], valid, test, of 0 and 1
  omniglot105.npz       images_packed [1623, 20, 1379], the bits of 105x105 images, 1 = ink;
                        class_split [1623], 0 background and 1 evaluation; for omniglot26 also
                        alphabet_names [50], text, and class_alphabet [1623], places in it
  omniglot_burda28.npz  as mnist.npz; the labels may be missing
  ocr_letters.npz       images [52152, 16, 8] of 0 and 1, labels [52152]
  frey_faces.npz        images [1965, 28, 20] of 0..238
"""

import difflib
import os
from pathlib import Path

from memjax.data.arrays import Dataset
from memjax.data.cache import prepared
from memjax.data.digits import DIGITS
from memjax.data.drawings import STROKES
from memjax.data.files import user_path
from memjax.data.frey_faces import FREY_FACES
from memjax.data.mnist import BINARIZED_MNIST, MNIST
from memjax.data.ocr_letters import OCR_LETTERS
from memjax.data.omniglot import OMNIGLOT, OMNIGLOT26, OMNIGLOT28, OMNIGLOT28_BY_DRAWING
from memjax.data.omniglot_burda import OMNIGLOT_BURDA28
from memjax.data.own import read_own
from memjax.data.recipe import Recipe
from memjax.data.splits import SplitOrder, divide
from memjax.errors import InputError

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        MNIST,
        BINARIZED_MNIST,
        OMNIGLOT,
        OMNIGLOT26,
        OMNIGLOT28,
        OMNIGLOT28_BY_DRAWING,
        OMNIGLOT_BURDA28,
        OCR_LETTERS,
        FREY_FACES,
        DIGITS,
        STROKES,
    )
}
NAMES: tuple[str, ...] = tuple(RECIPES)


def load(
    name: str,
    data_dir: str | None = None,
    *,
    merge_validation: bool = False,
    split_order: SplitOrder = "contiguous",
    split_seed: int = 0,
) -> Dataset:
    """Loads a data set: one of `NAMES`, or the user's own `path/to/file.npz` (see `read_own`).

    Files come from data_dir, else from the folder that MEMJAX_DATA_DIR names, else (or where that
    folder has no `<name>.npz`; omniglot105.npz for omniglot and those made from it) from their
    published addresses. `digits` and `strokes` need none. The user's own file is looked for in the
    data folder where it is not at its path.

      name              train   valid   test
      mnist             50,000  10,000  10,000   official test set
      binarized_mnist   50,000  10,000  10,000   all three official, no labels
      omniglot          19,280       -  13,180   official: 964 background, 659 evaluation classes
      omniglot26        29,580       -   2,880   45 alphabets, 5 (Syriac_(Serto), Sylheti, Tengwar,
                                                 Tibetan, ULOG): 1,479 classes, 144
      omniglot28        19,280       -  13,180   as omniglot
      omniglot28_by_drawing
                        24,345       -   8,115   15 and 5 drawings of every class
      omniglot_burda28  24,345       -   8,070   official
      ocr_letters       32,152  10,000  10,000
      frey_faces         1,865       -     100
      digits             1,297     250     250
      strokes            1,600     200     200   80, 10 and 10 classes
      path/to/file.npz     80%     10%     10%

    split_order "contiguous" cuts these in the order of the file; "random" first permutes what has
    no official test set, or train and valid together where there is one (omniglot, omniglot26,
    omniglot28 and strokes by whole classes), as split_seed says. Neighbours in a file resemble each
    other: letters of one word in ocr_letters, frames of one film in frey_faces. So a random split
    of these is easier than a contiguous one; the papers divide frey_faces at random.
    merge_validation adds valid to train, and there is no "valid" then.

    Raises InputError for an unknown name and for whatever is wrong with a file.
    """
    if name.endswith(".npz"):
        return _load_own(name, data_dir, merge_validation, split_order, split_seed)
    if name not in RECIPES:
        near = difflib.get_close_matches(name.lower(), NAMES, n=3, cutoff=0.4) or NAMES
        raise InputError(
            f"unknown data set {name!r}, expected {' or '.join(near)}, or the path of an .npz file"
        )
    return load_recipe(
        RECIPES[name],
        data_folder(data_dir),
        merge_validation=merge_validation,
        split_order=split_order,
        split_seed=split_seed,
    )


def load_recipe(
    recipe: Recipe,
    folder: Path | None,
    *,
    merge_validation: bool = False,
    split_order: SplitOrder = "contiguous",
    split_seed: int = 0,
) -> Dataset:
    """Loads what a recipe describes, as `load` does. Raises InputError as it does."""
    splits = divide(
        prepared(recipe, folder),
        valid_size=recipe.valid_size,
        test_size=recipe.test_size,
        by_class=recipe.by_class,
        order=split_order,
        seed=split_seed,
        merge_validation=merge_validation,
    )
    return Dataset(recipe.name, splits, recipe.maximum)


def data_folder(data_dir: str | None) -> Path | None:
    """Returns the user's data folder, or None. Raises InputError if it does not exist."""
    found = data_dir or os.environ.get("MEMJAX_DATA_DIR")
    if not found:
        return None
    folder = user_path(found)
    if not folder.is_dir():
        origin = "--data-dir" if data_dir else "MEMJAX_DATA_DIR"
        raise InputError(f"{folder}: no such folder, expected the data folder ({origin})")
    return folder


def _load_own(
    name: str,
    data_dir: str | None,
    merge_validation: bool,
    split_order: SplitOrder,
    split_seed: int,
) -> Dataset:
    path, folder = user_path(name), data_folder(data_dir)
    if folder is not None and not path.exists() and (folder / path.name).exists():
        path = folder / path.name
    images = read_own(path)
    tenth = max(1, len(images) // 10)
    splits = divide(
        {"pool": images},
        valid_size=tenth,
        test_size=tenth,
        order=split_order,
        seed=split_seed,
        merge_validation=merge_validation,
    )
    return Dataset(name, splits, 1 if images.images.max() <= 1 else 255)
