"""Samplers: which images a step sees, and what they refuse."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import data
from memjax.data import Drawn, Episodes, Epochs, Recall, Split, WholeEpisodes
from memjax.errors import InputError

IMAGES = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1)
SPLIT = Split(IMAGES, np.repeat(np.arange(6, dtype=np.int32), 10))


def drawn(sampler: Any, step: int, batch_size: int = 4) -> Drawn:
    row = sampler.plan(3, 0, 60, batch_size)[step]
    key = jax.random.fold_in(jax.random.key(5), step)
    return sampler.draw(sampler.tables(SPLIT), jnp.asarray(row), key, batch_size)


def test_epochs_show_every_image_once() -> None:
    sampler = Epochs()
    assert sampler.steps_per_epoch(60, 7) == 8
    plan = sampler.plan(3, 1, 60, 7)
    assert plan.shape == (8, 7)
    np.testing.assert_array_equal(plan.reshape(-1), data.epoch_permutation(3, 1, 60)[:56])
    found = drawn(sampler, 2)
    np.testing.assert_array_equal(found.targets, sampler.plan(3, 0, 60, 4)[2])
    assert found.context is None and SPLIT.labels is not None
    np.testing.assert_array_equal(found.labels, SPLIT.labels[np.asarray(found.targets)])
    unknown = sampler.tables(Split(SPLIT.images))
    assert sampler.draw(unknown, jnp.arange(4), jax.random.key(0), 4).labels is None


def test_recall_draws_targets_from_a_new_memory() -> None:
    sampler = Recall(memory_size=9)
    assert sampler.steps_per_epoch(60, 4) == 6
    steps = [drawn(sampler, step) for step in range(6)]
    memories = np.concatenate([np.asarray(step.context) for step in steps])
    assert len(set(memories)) == 54  # disjoint
    for step in steps:
        assert len(set(np.asarray(step.targets).tolist())) == 4
        assert set(np.asarray(step.targets)) <= set(np.asarray(step.context))
        # Labels say which entry the target is.
        same = np.asarray(step.labels)[:, None] == np.asarray(step.context_labels)
        np.testing.assert_array_equal(same.sum(axis=1), 1)
        np.testing.assert_array_equal(np.asarray(step.context)[same.argmax(axis=1)], step.targets)


def test_episodes_have_other_drawings_of_the_same_classes() -> None:
    sampler = Episodes(ways=2, shots=3, steps=5)
    assert sampler.steps_per_epoch(60, 4) == 5
    for step in range(5):
        found = drawn(sampler, step)
        targets, context = np.asarray(found.targets), np.asarray(found.context)
        assert len(set(targets) | set(context)) == 4 + 6
        classes = {int(number): set() for number in range(2)}
        places = zip(
            np.concatenate([targets, context]),
            np.concatenate([np.asarray(found.labels), np.asarray(found.context_labels)]),
            strict=True,
        )
        for place, label in places:
            classes[int(label)].add(int(SPLIT.labels[place]))
        assert [len(real) for real in classes.values()] == [1, 1]


def episodes(sampler: WholeEpisodes, batch_size: int) -> np.ndarray:
    """Of all steps of an epoch, `[S, B / T, T]`."""
    tables = sampler.tables(SPLIT)
    keys = jax.random.split(jax.random.key(5), sampler.steps)

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array, row: jax.Array) -> Drawn:
        return sampler.draw(tables, row, key, batch_size)

    found = draw(keys, sampler.plan(3, 0, 60, batch_size))
    assert found.context is None and found.labels is None
    return np.asarray(found.targets).reshape(sampler.steps, -1, sampler.length)


def test_whole_episodes_are_of_a_few_classes_each() -> None:
    sampler = WholeEpisodes(ways=2, length=5, steps=40)
    assert sampler.steps_per_epoch(60, 20) == 40 and sampler.together == 5
    found = episodes(sampler, 20).reshape(160, 5)
    classes = [frozenset(SPLIT.labels[episode].tolist()) for episode in found]
    # One class of the six twice, or one of two in all five images: 1/6 + 5/6 * 2/32.
    ones = sum(len(seen) == 1 for seen in classes)
    assert max(map(len, classes)) == 2 and 20 < ones < 55
    assert len(set(classes)) == 6 + 15  # episodes differ, within a batch and between batches
    assert sum(len(set(episode.tolist())) < 5 for episode in found) > 40  # copies


def test_whole_episodes_without_replacement_never_repeat() -> None:
    sampler = WholeEpisodes(ways=2, length=10, steps=10, replacement=False)
    for episode in episodes(sampler, 20).reshape(20, 10):
        assert len(set(episode.tolist())) == 10
        assert len(set(SPLIT.labels[episode].tolist())) <= 2


@pytest.mark.parametrize("sampler", [Epochs(), Recall(), Episodes()])
def test_other_targets_may_be_parted(sampler: Any) -> None:
    assert sampler.together == 1
    assert "together" not in {field.name for field in dataclasses.fields(sampler)}


def test_an_image_has_the_same_pixels_as_target_and_in_memory() -> None:
    images = jnp.full((60, 5, 5, 1), 128, jnp.uint8)
    found = drawn(Recall(9), 0)
    batch = data.gather(found, images, jax.random.key(0), "every_epoch", 255)
    place = [np.asarray(found.context).tolist().index(int(t)) for t in found.targets]
    np.testing.assert_array_equal(batch.images, batch.context[np.array(place)])
    assert 0 < batch.images.mean() < 1
    np.testing.assert_array_equal(batch.index, found.targets)


@pytest.mark.parametrize(
    ("sampler", "split", "batch_size", "message"),
    [
        (Epochs(), SPLIT, 61, "train.batch_size: found 61, expected at most the 60 things"),
        (Recall(61), SPLIT, 4, "sampler.memory_size: found 61, expected at least the 4 targets"),
        (Recall(3), SPLIT, 4, "sampler.memory_size: found 3, expected at least the 4 targets"),
        (Episodes(ways=3), SPLIT, 4, "sampler.ways: found 3, expected a divisor of train.batch"),
        (Episodes(ways=0), SPLIT, 4, "sampler.ways: found 0"),
        (Episodes(steps=0), SPLIT, 8, "sampler.steps: found 0, expected at least 1"),
        (Episodes(ways=2, shots=9), SPLIT, 4, "things"),
        (Episodes(ways=2), dataclasses.replace(SPLIT, labels=None), 4, "things"),
        (WholeEpisodes(), SPLIT, 15, "sampler.length: found 10, expected a divisor of train.batch"),
        (WholeEpisodes(length=1), SPLIT, 4, "sampler.length: found 1, expected"),
        (WholeEpisodes(length=0), SPLIT, 4, "sampler.length: found 0, expected"),
        (WholeEpisodes(steps=0), SPLIT, 20, "sampler.steps: found 0, expected at least 1"),
        (WholeEpisodes(ways=0), SPLIT, 20, "ways: found 0, expected at least 1"),
        (WholeEpisodes(), dataclasses.replace(SPLIT, labels=None), 20, "things: found no labels"),
        (
            WholeEpisodes(length=11, replacement=False),
            SPLIT,
            22,
            "things: found 10 drawings of class 0, expected at least 11",
        ),
    ],
)
def test_what_cannot_be_sampled(sampler: Any, split: Split, batch_size: int, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        sampler.check(split, "things", batch_size)
