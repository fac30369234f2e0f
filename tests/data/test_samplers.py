"""Samplers: which images a step sees, and what they refuse."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import data
from memjax.data import Drawn, Episodes, Epochs, Recall, Split
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
    assert found.context is None and found.labels is None


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
    ],
)
def test_what_cannot_be_sampled(sampler: Any, split: Split, batch_size: int, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        sampler.check(split, "things", batch_size)
