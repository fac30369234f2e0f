"""The TFDS builder: blocks of images in array_record files, written and read without TensorFlow.

Import this module inside functions only: tensorflow_datasets takes half a second to import.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from memjax.data.arrays import Split
from memjax.data.recipe import Parts, Recipe

# One record per image would take 8 s for MNIST where blocks take half a second.
BLOCK = 1_000

Example = tuple[int, dict[str, np.ndarray]]


class BlockBuilder(tfds.core.GeneratorBasedBuilder):
    """A data set as its recipe describes it; one example is a block of images.

    Examples are {"images": [<=1000, H, W, C] uint8, "labels": [<=1000] int32 where there are any};
    their order, and that of the images in them, is that of the parts.
    """

    name = "memjax"  # the class, in the list that TFDS keeps; an instance is called as its recipe
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, recipe: Recipe, parts: Parts, data_dir: str):
        """Takes the images to write; nothing is written before `download_and_prepare`."""
        self.name = recipe.name
        self.VERSION = tfds.core.Version(recipe.version)
        self._recipe = recipe
        self._parts = parts
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        # As bytes: the default stores each pixel as a 64-bit number, ten times as slowly.
        def tensor(*shape: int, dtype: type) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")

        features = {"images": tensor(*self._recipe.image_shape, dtype=np.uint8)}
        if all(part.labels is not None for part in self._parts.values()):
            features["labels"] = tensor(dtype=np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._recipe.description,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
        return {name: self._generate_examples(part) for name, part in self._parts.items()}

    def _generate_examples(self, part: Split) -> Iterator[Example]:
        for number, start in enumerate(range(0, len(part), BLOCK)):
            block = part.take(slice(start, start + BLOCK))
            labels = {} if block.labels is None else {"labels": block.labels}
            yield number, {"images": block.images, **labels}


def write(recipe: Recipe, parts: Parts, folder: Path) -> Path:
    """Prepares the parts somewhere under `folder` and returns the folder that holds them."""
    # TFDS prints where it writes, which is not where the files will lie, and shows three bars.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder = BlockBuilder(recipe=recipe, parts=parts, data_dir=str(folder))
        builder.download_and_prepare(download_dir=str(folder / "downloads"))
    return Path(builder.data_path)


def read(folder: Path) -> dict[str, Split]:
    """Returns every part of a prepared folder, its images in the order that they came in."""
    builder = tfds.builder_from_directory(str(folder))
    return {name: _read_part(builder.as_data_source(name)) for name in builder.info.splits}


def _read_part(source: Any) -> Split:
    # Block by block into one array: holding all blocks beside it would double the memory.
    first, last = source[0], source[len(source) - 1]
    step = len(first["images"])
    count = (len(source) - 1) * step + len(last["images"])
    whole = {key: np.empty((count, *block.shape[1:]), block.dtype) for key, block in first.items()}
    for number, start in enumerate(range(0, count, step)):
        for key, block in source[number].items():
            whole[key][start : start + step] = block
    return Split(whole["images"], whole.get("labels"))
