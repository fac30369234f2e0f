"""Episodes of few-shot learning: a memory and targets of the same few classes.

A draw is a pure function of its key that may be traced, mapped and scanned. It gives places in the
split, never images:

    check_episode(split.labels, name, ways=8, shots=4, targets_per_class=4)
    table = class_table(split.labels)
    episode = draw_episode(key, table, ways=8, shots=4, targets_per_class=4)
    images[episode.context], images[episode.targets]
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from memjax.errors import InputError


@flax.struct.dataclass
class ClassTable:
    """Where the drawings of each class are; C classes, in the order of their labels.

    Attributes:
        index: `[C, n_max]` int32, places in the split; -1 behind the last drawing of a class.
        count: `[C]` int32, the drawings of each class.
    """

    index: jax.Array
    count: jax.Array


@flax.struct.dataclass
class Episode:
    """One memory and its targets, as places in the split.

    Attributes:
        targets: `[B]` int32.
        context: `[M]` int32, what the memory holds.
        target_labels: `[B]` int32 of 0..ways-1: numbers of classes in this episode alone.
        context_labels: `[M]` int32, as target_labels; equal where and only where classes are.
    """

    targets: jax.Array
    context: jax.Array
    target_labels: jax.Array
    context_labels: jax.Array


def class_table(labels: np.ndarray) -> ClassTable:
    """Sorts the places of a split by class; labels `[N]` are integers of any values."""
    _, class_of_image, count = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(class_of_image, kind="stable")
    number = np.arange(len(labels)) - np.repeat(np.cumsum(count) - count, count)
    index = np.full((len(count), count.max(initial=0)), -1, np.int32)
    index[class_of_image[order], number] = order
    return ClassTable(jnp.asarray(index), jnp.asarray(count, jnp.int32))


def draw_episode(
    key: jax.Array, table: ClassTable, *, ways: int, shots: int, targets_per_class: int
) -> Episode:
    """Draws classes, and of each some drawings for the memory and others as targets.

    M = ways * shots and B = ways * targets_per_class, both ordered by class. Classes and drawings
    are drawn without replacement, each equally likely whatever the sizes of the classes, so memory
    and targets are disjoint. Raises InputError where the table is too small for it; single classes
    with too few drawings are for `check_episode` to refuse. This is how Bornschein et al. (2017,
    section 4.2) train.
    """
    drawings = shots + targets_per_class
    _check_shape(table, ways, drawings)
    words = jax.random.bits(key, (ways, 1 + drawings), jnp.uint32)
    classes = _distinct(words[:, 0], jnp.int32(len(table.count)))
    drawn = _distinct(words[:, 1:], table.count[classes])
    index = table.index[classes[:, None], drawn]
    numbers = jnp.arange(ways, dtype=jnp.int32)
    return Episode(
        targets=index[:, shots:].reshape(-1),
        context=index[:, :shots].reshape(-1),
        target_labels=jnp.repeat(numbers, targets_per_class),
        context_labels=jnp.repeat(numbers, shots),
    )


def draw_set(
    key: jax.Array,
    table: ClassTable,
    *,
    ways: int,
    total: int,
    num_targets: int,
    replacement: bool,
    guaranteed: bool,
) -> Episode:
    """Draws classes, then images one by one, each of any of these classes: M = total, B = targets.

    The class of an image is one of the `ways`, all equally likely, so `total` counts the images of
    all classes and a class may have none of them. With `replacement`, classes and drawings may
    come twice: there can be fewer than `ways` classes, and a target can be a copy of what the
    memory holds. Without it, classes differ and so do all drawings, memory and targets together.
    With `guaranteed`, the class of a target is one of those among the `ways` that the memory holds
    an image of, all equally likely: the distribution of an unguaranteed target, given that its
    class is in the memory.

    Raises InputError where the table is too small for it; single classes with too few drawings are
    for `check_set` to refuse. The code of Generative Matching Networks (Bartunov and Vetrov 2016)
    draws with replacement and without guarantee.
    """
    images = total + num_targets
    if not replacement:
        _check_shape(table, ways, images)
    drawings = (images,) if replacement else (ways, images)
    words = jax.random.bits(key, (ways + images + math.prod(drawings),), jnp.uint32)
    of_class, of_context, of_target, of_drawing = jnp.split(
        words, [ways, ways + total, ways + images]
    )
    of_drawing = of_drawing.reshape(drawings)
    num_classes = jnp.int32(len(table.count))
    classes = _below(of_class, num_classes) if replacement else _distinct(of_class, num_classes)
    # A class that was drawn twice goes by the number of its first draw.
    number = jnp.argmax(classes[:, None] == classes, axis=1).astype(jnp.int32)
    context_labels = number[_below(of_context, jnp.int32(ways))]
    allowed = jnp.ones(ways, bool)
    if guaranteed:
        allowed = (number[:, None] == context_labels).any(axis=1)
    place = jnp.flatnonzero(allowed, size=ways)[_below(of_target, allowed.sum())]
    target_labels = number[place]

    labels = jnp.concatenate([context_labels, target_labels])
    count = table.count[classes]
    if replacement:
        drawn = _below(of_drawing, count[labels])
    else:
        # The third image of a class takes the third of its drawings in random order.
        order = _distinct(of_drawing, count)
        so_far = jnp.cumsum(labels[:, None] == jnp.arange(ways), axis=0)
        drawn = order[labels, so_far[jnp.arange(images), labels] - 1]
    index = table.index[classes[labels], drawn]
    return Episode(index[total:], index[:total], target_labels, context_labels)


def check_episode(
    labels: np.ndarray | None, dataset_name: str, *, ways: int, shots: int, targets_per_class: int
) -> None:
    """Raises InputError unless `draw_episode` can draw from images with these labels `[N]`."""
    _check_positive(ways=ways, shots=shots, targets_per_class=targets_per_class)
    _check_labels(labels, dataset_name)
    needed = f"{shots} shots and {targets_per_class} targets"
    _check_classes(labels, dataset_name, ways, shots + targets_per_class, needed)


def check_set(
    labels: np.ndarray | None,
    dataset_name: str,
    *,
    ways: int,
    total: int,
    num_targets: int,
    replacement: bool,
) -> None:
    """Raises InputError unless `draw_set` can draw from images with these labels `[N]`.

    Without replacement every class must have drawings enough for all images to be of it.
    """
    _check_positive(ways=ways, total=total, num_targets=num_targets)
    _check_labels(labels, dataset_name)
    if not replacement:
        needed = f"{total} in memory and {num_targets} targets, which may be of one class"
        _check_classes(labels, dataset_name, ways, total + num_targets, needed)


def _below(words: jax.Array, size: jax.Array) -> jax.Array:
    """Returns int32 of 0..size-1 from uint32 random words, at equal rates up to size / 2^32."""
    # `jax.random.randint` makes up for that with three times as many words.
    return (words % size.astype(jnp.uint32)).astype(jnp.int32)


def _distinct(words: jax.Array, sizes: jax.Array) -> jax.Array:
    """Returns `[..., count]` int32: of 0..size-1 for each of `sizes` `[...]`, none of them twice.

    Takes uint32 random words `[..., count]`. All ordered choices are equally likely. No size may
    be below `count`.
    """
    return _decode(_below(words, sizes[..., None] - jnp.arange(words.shape[-1], dtype=jnp.int32)))


def _decode(code: jax.Array) -> jax.Array:
    """Turns `[..., count]` numbers that count only what is left each time into those of the whole.

    (0, 0, 1) is 0, then 1, then 3. Every code gives another choice (Lehmer's code, inverted). It
    takes as many random words as are drawn: 5 us for an episode of 8 among 1,479 classes, where
    sorting a random key for every class takes 130.
    """
    count = code.shape[-1]
    place = jnp.arange(count)

    def put_back(step: jax.Array, numbers: jax.Array) -> jax.Array:
        # Those behind the place `taken` have counted without what was taken there.
        taken = count - 1 - step
        number = jax.lax.dynamic_index_in_dim(code, taken, axis=-1)
        return numbers + ((place > taken) & (numbers >= number))

    # Unrolled it takes twice as long.
    return jax.lax.fori_loop(0, count, put_back, code)


def _check_shape(table: ClassTable, ways: int, drawings: int) -> None:
    num_classes, most = table.index.shape
    if ways > num_classes or drawings > most:
        raise InputError(
            f"episode: found {ways} ways of up to {drawings} drawings, expected at most "
            f"{num_classes} of {most}, the classes and drawings that there are"
        )


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name}: found {number}, expected at least 1")


def _check_labels(labels: np.ndarray | None, dataset_name: str) -> None:
    if labels is None or len(labels) == 0:
        raise InputError(f"{dataset_name}: found no labels, expected the class of every image")


def _check_classes(
    labels: np.ndarray | None, dataset_name: str, ways: int, drawings: int, needed: str
) -> None:
    classes, count = np.unique(np.asarray(labels), return_counts=True)
    if ways > len(classes):
        raise InputError(
            f"ways: found {ways}, expected at most {len(classes)}, the classes of {dataset_name}"
        )
    if count.min() < drawings:
        few = count.argmin()
        raise InputError(
            f"{dataset_name}: found {count[few]} drawings of class {classes[few]}, expected at "
            f"least {drawings}: {needed}"
        )
