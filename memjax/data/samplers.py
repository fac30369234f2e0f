"""Which images a training step sees: batches of an epoch, or a memory and targets to find in it.

A sampler is a field of an experiment. Its `plan` is made outside the loop, once an epoch; `draw`
turns one row of it into places in the split, inside the loop. Both are functions of the seed, the
epoch and the step, so that a resumed run sees what an uninterrupted one would have seen.
"""

import dataclasses
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from memjax.data.arrays import Split
from memjax.data.batches import Binarisation, epoch_permutation, prepare_images
from memjax.data.episodes import check_episode, check_set, class_table, draw_episode, draw_set
from memjax.errors import InputError
from memjax.types import Batch


@flax.struct.dataclass
class Drawn:
    """Places of images in their split.

    Attributes:
        targets: `[B]` int32.
        context: `[M]` int32, the memory of the batch, or None.
        labels: `[B]` int32 classes of the targets, or None.
        context_labels: `[M]` int32 classes of the memory, or None.
    """

    targets: jax.Array
    context: jax.Array | None = None
    labels: jax.Array | None = None
    context_labels: jax.Array | None = None


def gather(
    drawn: Drawn, images: jax.Array, key: jax.Array, binarisation: Binarisation, maximum: int
) -> Batch:
    """Returns the images of a split, `[N, H, W, C]` uint8, at the places that were drawn.

    See `prepare_images` for the rest. An image has the same pixels as a target and in memory.
    """

    def pixels(index: jax.Array) -> jax.Array:
        return prepare_images(images[index], index, key, binarisation, maximum)

    return Batch(
        images=pixels(drawn.targets),
        index=drawn.targets,
        labels=drawn.labels,
        context=None if drawn.context is None else pixels(drawn.context),
        context_labels=drawn.context_labels,
    )


class Sampler(Protocol):
    """What training asks of a sampler; B is `train.batch_size`."""

    @property
    def together(self) -> int:
        """How many consecutive targets one device must have together; B is a multiple of it."""

    def check(self, split: Split, images: str, batch_size: int) -> None:
        """Raises InputError where the split cannot be sampled so; `images` says what it holds."""

    def steps_per_epoch(self, num_images: int, batch_size: int) -> int:
        """Returns the number of rows of a plan."""

    def tables(self, split: Split) -> Any:
        """Returns what `draw` looks up on the device, a tree of arrays."""

    def plan(self, seed: int, epoch: int, num_images: int, batch_size: int) -> np.ndarray:
        """Returns `[S, X]` int32, one row for each step of an epoch."""

    def draw(self, tables: Any, row: jax.Array, key: jax.Array, batch_size: int) -> Drawn:
        """Returns the places of one step's images, from its row of the plan and its key."""


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Every image once an epoch, in a new order each time, without a memory.

    Labels are the images' classes, where the data set has them.
    """

    together = 1

    def check(self, split: Split, images: str, batch_size: int) -> None:
        _check_batch(split, images, batch_size)

    def steps_per_epoch(self, num_images: int, batch_size: int) -> int:
        return num_images // batch_size

    def tables(self, split: Split) -> Any:
        return split.labels

    def plan(self, seed: int, epoch: int, num_images: int, batch_size: int) -> np.ndarray:
        return _rows(seed, epoch, num_images, batch_size)

    def draw(self, tables: Any, row: jax.Array, key: jax.Array, batch_size: int) -> Drawn:
        del key, batch_size
        return Drawn(row, labels=None if tables is None else jnp.asarray(tables)[row])


@dataclasses.dataclass(frozen=True)
class Recall:
    """A memory of images, new at each step, and targets that are among them.

    The memories of an epoch are disjoint: together they are the training split. Labels say which
    entry a target is, so that the hit rate is that of the very image.

    Attributes:
        memory_size: M, images in memory.

    Source: Bornschein et al. 2017, section 4.1, train to recall.
    """

    memory_size: int = 256

    together = 1

    def check(self, split: Split, images: str, batch_size: int) -> None:
        _check_batch(split, images, batch_size)
        if not batch_size <= self.memory_size <= len(split):
            raise InputError(
                f"sampler.memory_size: found {self.memory_size}, expected at least the "
                f"{batch_size} targets of a batch and at most the {len(split)} {images}"
            )

    def steps_per_epoch(self, num_images: int, batch_size: int) -> int:
        del batch_size
        return num_images // self.memory_size

    def tables(self, split: Split) -> Any:
        del split

    def plan(self, seed: int, epoch: int, num_images: int, batch_size: int) -> np.ndarray:
        del batch_size
        return _rows(seed, epoch, num_images, self.memory_size)

    def draw(self, tables: Any, row: jax.Array, key: jax.Array, batch_size: int) -> Drawn:
        del tables
        targets = row[jax.random.permutation(key, self.memory_size)[:batch_size]]
        return Drawn(targets, context=row, labels=targets, context_labels=row)


class _ByClass:
    """What samplers share that draw classes and then drawings, by the key of a step alone."""

    steps: int

    def _check_steps(self) -> None:
        if self.steps < 1:
            raise InputError(f"sampler.steps: found {self.steps}, expected at least 1")

    def steps_per_epoch(self, num_images: int, batch_size: int) -> int:
        del num_images, batch_size
        return self.steps

    def tables(self, split: Split) -> Any:
        assert split.labels is not None, "checked before"
        return class_table(split.labels)

    def plan(self, seed: int, epoch: int, num_images: int, batch_size: int) -> np.ndarray:
        del seed, epoch, num_images, batch_size
        return np.zeros((self.steps, 0), np.int32)  # the key says it all


@dataclasses.dataclass(frozen=True)
class Episodes(_ByClass):
    """A few classes, some drawings of each in memory, other drawings of them as targets.

    Attributes:
        ways: classes of an episode; the targets are divided among them.
        shots: images of each class in memory, so that M is ways times shots.
        steps: episodes that count as one epoch.

    Source: Bornschein et al. 2017, section 4.2, few-shot learning.
    """

    ways: int = 8
    shots: int = 4
    steps: int = 1000

    together = 1

    def check(self, split: Split, images: str, batch_size: int) -> None:
        self._check_steps()
        if self.ways < 1 or batch_size % self.ways:
            raise InputError(
                f"sampler.ways: found {self.ways}, expected a divisor of train.batch_size "
                f"{batch_size}, whose targets are shared by the classes"
            )
        check_episode(
            split.labels,
            images,
            ways=self.ways,
            shots=self.shots,
            targets_per_class=batch_size // self.ways,
        )

    def draw(self, tables: Any, row: jax.Array, key: jax.Array, batch_size: int) -> Drawn:
        del row
        found = draw_episode(
            key,
            tables,
            ways=self.ways,
            shots=self.shots,
            targets_per_class=batch_size // self.ways,
        )
        return Drawn(found.targets, found.context, found.target_labels, found.context_labels)


@dataclasses.dataclass(frozen=True)
class WholeEpisodes(_ByClass):
    """Episodes without a memory of their own: each image has those before it in its episode.

    A batch is episodes one after the other.

    Attributes:
        ways: classes that the images of an episode may be of, at most.
        length: T, images of an episode; each is of any of the classes, all equally likely.
        steps: batches that count as one epoch.
        replacement: whether a class may be drawn twice, which leaves the episode with fewer, and an
            image too, which then has an exact copy before it.

    Source: the code of Bartunov and Vetrov 2016, which draws with replacement.
    """

    ways: int = 2
    length: int = 10
    steps: int = 121
    replacement: bool = True

    @property
    def together(self) -> int:
        return self.length

    def check(self, split: Split, images: str, batch_size: int) -> None:
        self._check_steps()
        if self.length < 2 or batch_size % self.length:
            raise InputError(
                f"sampler.length: found {self.length}, expected a divisor of train.batch_size "
                f"{batch_size}, and at least 2 images"
            )
        check_set(
            split.labels,
            images,
            ways=self.ways,
            total=self.length - 1,
            num_targets=1,
            replacement=self.replacement,
        )

    def draw(self, tables: Any, row: jax.Array, key: jax.Array, batch_size: int) -> Drawn:
        del row

        def one(key: jax.Array) -> jax.Array:
            drawn = draw_set(
                key,
                tables,
                ways=self.ways,
                total=self.length,
                num_targets=0,
                replacement=self.replacement,
                guaranteed=False,
            )
            return drawn.context

        keys = jax.random.split(key, batch_size // self.length)
        return Drawn(jax.vmap(one)(keys).reshape(-1))


def _check_batch(split: Split, images: str, batch_size: int) -> None:
    if batch_size > len(split):
        raise InputError(
            f"train.batch_size: found {batch_size}, expected at most the {len(split)} {images}"
        )


def _rows(seed: int, epoch: int, num_images: int, size: int) -> np.ndarray:
    """Consecutive parts of the epoch's permutation; what is left of it is left out."""
    order = epoch_permutation(seed, epoch, num_images)
    return order[: num_images // size * size].reshape(-1, size)
