"""Episodes: which images are drawn, how often, and what is refused.

Frequencies are compared by chi-square tests at fixed seeds, each passed at P > 0.001.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from memjax.data import (
    ClassTable,
    Episode,
    check_episode,
    check_set,
    class_table,
    draw_episode,
    draw_set,
)
from memjax.data.episodes import _decode

from .originals import refusal

EPISODES = 10_000
COUNTS = (9, 5, 14, 6, 7)
# Five classes of these sizes, named by other numbers than 0..4 and mixed.
LABELS = np.random.default_rng(0).permutation(np.repeat([30, 2, 11, 7, 1000], COUNTS))


def draw(function, labels: np.ndarray, seed: int = 0, count: int = EPISODES, **options) -> Episode:
    """Draws `count` episodes, all arrays `[count, ...]` of numpy."""

    @jax.jit
    @jax.vmap
    def one(key: jax.Array) -> Episode:
        return function(key, class_table(labels), **options)

    return jax.device_get(one(jax.random.split(jax.random.key(seed), count)))


def assert_uniform(found: np.ndarray, outcomes: int) -> None:
    """Each of 0..outcomes-1 is as frequent as every other."""
    counts = np.bincount(found.reshape(-1), minlength=outcomes)
    assert len(counts) == outcomes
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def assert_distinct(rows: np.ndarray) -> None:
    """No row holds a number twice."""
    assert (np.diff(np.sort(rows, axis=1), axis=1) > 0).all()


def assert_labels(episode: Episode, labels: np.ndarray, ways: int) -> None:
    """Numbers of classes are 0..ways-1, equal where and only where the classes are."""
    numbers = np.concatenate([episode.context_labels, episode.target_labels], axis=1)
    places = np.concatenate([episode.context, episode.targets], axis=1)
    assert numbers.dtype == places.dtype == np.int32
    assert numbers.min() >= 0 and numbers.max() < ways
    assert places.min() >= 0 and places.max() < len(labels)
    classes = labels[places]
    same_number = numbers[:, :, None] == numbers[:, None]
    np.testing.assert_array_equal(same_number, classes[:, :, None] == classes[:, None])


def test_class_table() -> None:
    table = class_table(np.array([5, -1, 5, 3, 5, 3]))
    np.testing.assert_array_equal(table.index, [[1, -1, -1], [3, 5, -1], [0, 2, 4]])
    np.testing.assert_array_equal(table.count, [1, 2, 3])
    assert table.index.dtype == table.count.dtype == jnp.int32


def test_every_ordered_choice_has_one_code() -> None:
    assert _decode(jnp.array([0, 0, 1])).tolist() == [0, 1, 3]
    codes = np.array(list(itertools.product(range(5), range(4), range(3))))
    decoded = map(tuple, np.asarray(_decode(jnp.asarray(codes))).tolist())
    assert sorted(decoded) == sorted(itertools.permutations(range(5), 3))


def test_memory_and_targets_are_disjoint() -> None:
    episode = draw(draw_episode, LABELS, ways=4, shots=3, targets_per_class=2)
    assert_distinct(np.concatenate([episode.context, episode.targets], axis=1))
    assert_labels(episode, LABELS, ways=4)
    assert (episode.context_labels == np.repeat(np.arange(4), 3)).all()
    assert (episode.target_labels == np.repeat(np.arange(4), 2)).all()


def test_every_episode_is_equally_likely() -> None:
    # All outcomes of two classes with a shot and a target each: three classes of 2, 3 and 2.
    labels = np.array([0, 1, 1, 2, 0, 1, 2])
    episode = draw(draw_episode, labels, ways=2, shots=1, targets_per_class=1)
    drawn = np.concatenate([episode.context, episode.targets], axis=1)
    outcomes, found = np.unique(drawn, axis=0, return_counts=True)
    choices = np.array([2, 6, 2])
    classes = labels[outcomes[:, :2]]
    probability = 1 / 6 / choices[classes].prod(axis=1)
    assert len(outcomes) == 2 * (2 * 6 + 2 * 2 + 6 * 2)
    assert probability.sum() == pytest.approx(1)
    assert scipy.stats.chisquare(found, EPISODES * probability).pvalue > 0.001


def test_classes_drawings_and_places_are_uniform() -> None:
    ways, shots, targets = 3, 2, 3
    options = {"ways": ways, "shots": shots, "targets_per_class": targets}
    episode = draw(draw_episode, LABELS, seed=1, **options)
    classes, of_image = np.unique(LABELS, return_inverse=True)
    context = episode.context.reshape(-1, ways, shots)
    drawn = np.concatenate([context, episode.targets.reshape(-1, ways, targets)], axis=2)
    for way in range(ways):
        assert_uniform(of_image[drawn[:, way, 0]], len(classes))
    for number, name in enumerate(classes):
        members = np.flatnonzero(name == LABELS)
        of_class = drawn[of_image[drawn[..., 0]] == number]
        for place in range(shots + targets):
            assert_uniform(np.searchsorted(members, of_class[:, place]), len(members))


def test_all_classes_and_all_drawings() -> None:
    labels = np.tile(np.arange(3), 4)
    episode = draw(draw_episode, labels, count=100, ways=3, shots=3, targets_per_class=1)
    drawn = np.concatenate([episode.context, episode.targets], axis=1)
    np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(12), (100, 1)))


@pytest.mark.parametrize("name", ["episode", "set", "set with replacement"])
def test_draw_is_a_function_of_the_key(name: str) -> None:
    options = {"ways": 3, "total": 3, "num_targets": 2, "guaranteed": True}
    function = {
        "episode": functools.partial(draw_episode, ways=3, shots=2, targets_per_class=3),
        "set": functools.partial(draw_set, replacement=False, **options),
        "set with replacement": functools.partial(draw_set, replacement=True, **options),
    }[name]
    table = class_table(LABELS)
    keys = jax.random.split(jax.random.key(5), 8)
    mapped = jax.jit(jax.vmap(function, in_axes=(0, None)))(keys, table)
    _, scanned = jax.lax.scan(lambda _, key: (None, function(key, table)), None, keys)
    jax.tree.map(np.testing.assert_array_equal, mapped, scanned)
    assert len({row.tobytes() for row in np.asarray(mapped.context)}) == 8


@pytest.mark.parametrize("guaranteed", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
def test_set(replacement: bool, guaranteed: bool) -> None:
    options = {"replacement": replacement, "guaranteed": guaranteed}
    episode = draw(draw_set, LABELS, seed=2, ways=3, total=3, num_targets=2, **options)
    assert episode.context.shape == (EPISODES, 3) and episode.targets.shape == (EPISODES, 2)
    assert_labels(episode, LABELS, ways=3)
    drawn = np.concatenate([episode.context, episode.targets], axis=1)
    if not replacement:
        assert_distinct(drawn)
    in_memory = (episode.target_labels[..., None] == episode.context_labels[:, None]).any(axis=2)
    assert in_memory.all() == guaranteed
    # Every image alone is of any class, and then any drawing of it.
    _, of_image = np.unique(LABELS, return_inverse=True)
    probability = 1 / len(COUNTS) / np.bincount(of_image)[of_image]
    for place in range(5):
        found = np.bincount(drawn[:, place], minlength=len(LABELS))
        assert scipy.stats.chisquare(found, EPISODES * probability).pvalue > 0.001


def test_class_of_the_target_may_be_missing() -> None:
    options = {"ways": 2, "total": 5, "num_targets": 1, "guaranteed": False}
    episode = draw(draw_set, np.arange(60) % 6, replacement=False, **options)
    same = episode.target_labels == episode.context_labels
    for total in range(1, 6):
        expected = 1 - 0.5**total
        sigma = np.sqrt(expected * (1 - expected) / EPISODES)
        assert abs(same[:, :total].any(axis=1).mean() - expected) < 4 * sigma


def test_guaranteed_target_is_any_of_the_classes_in_memory() -> None:
    options = {"ways": 3, "total": 3, "num_targets": 1, "replacement": False}
    episode = draw(draw_set, np.arange(60) % 6, seed=3, guaranteed=True, **options)
    for memory in itertools.product(range(3), repeat=3):
        chosen = (episode.context_labels == memory).all(axis=1)
        present = np.unique(memory)
        assert np.isin(episode.target_labels[chosen], present).all()
        if len(present) > 1:
            assert_uniform(np.searchsorted(present, episode.target_labels[chosen]), len(present))


def test_guaranteed_target_is_as_any_other_whose_class_is_in_memory() -> None:
    options = {"ways": 3, "total": 3, "num_targets": 1, "replacement": True}
    labels = np.arange(8) % 4  # so few classes that many are drawn twice

    def counts(guaranteed: bool) -> np.ndarray:
        episode = draw(draw_set, labels, seed=4, guaranteed=guaranteed, **options)
        kept = (episode.target_labels == episode.context_labels).any(axis=1)
        numbers = np.concatenate([episode.context_labels, episode.target_labels], axis=1)
        return np.bincount(numbers[kept] @ [27, 9, 3, 1], minlength=81).reshape(27, 3)

    # Row by row: a guarantee changes the targets of a memory, not how often it is drawn.
    for pair in np.stack([counts(True), counts(False)], axis=1):
        possible = pair[:, pair.any(axis=0)]
        if possible.shape[1] > 1:
            assert scipy.stats.chi2_contingency(possible).pvalue > 0.001


def test_classes_come_twice_with_replacement_only() -> None:
    labels = np.arange(20) % 2
    options = {"ways": 2, "total": 2, "num_targets": 8, "guaranteed": False}
    for replacement, twice in ((True, 0.5), (False, 0.0)):
        episode = draw(draw_set, labels, replacement=replacement, **options)
        classes = labels[np.concatenate([episode.context, episode.targets], axis=1)]
        one_class = (classes == classes[:, :1]).all(axis=1)
        # Of two classes, ten images are all of one with a chance of 2^-9.
        expected = twice + (1 - twice) * 2**-9
        sigma = np.sqrt(expected * (1 - expected) / EPISODES)
        assert abs(one_class.mean() - expected) < 4 * sigma


def test_with_replacement_a_target_can_be_a_copy_of_the_memory() -> None:
    options = {"ways": 1, "total": 19, "num_targets": 1, "replacement": True, "guaranteed": False}
    episode = draw(draw_set, np.zeros(20, int), **options)
    copy = episode.targets == episode.context
    # As simulated from the code of Generative Matching Networks.
    for shots, simulated in ((1, 0.05), (5, 0.22), (10, 0.40), (19, 0.62)):
        expected = 1 - (19 / 20) ** shots
        sigma = np.sqrt(expected * (1 - expected) / EPISODES)
        assert abs(copy[:, :shots].any(axis=1).mean() - expected) < 4 * sigma
        assert abs(simulated - expected) < 0.01


EPISODE = {"ways": 3, "shots": 2, "targets_per_class": 3}
SET = {"ways": 3, "total": 3, "num_targets": 2, "replacement": False}


def test_what_can_be_drawn_is_let_pass() -> None:
    check_episode(LABELS, "mine", **EPISODE)
    check_episode(np.zeros(2, int), "mine", ways=1, shots=1, targets_per_class=1)
    check_set(LABELS, "mine", **SET)
    check_set(LABELS, "mine", **{**SET, "ways": 9, "total": 90, "replacement": True})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ways": 6}, "ways: found 6, expected at most 5, the classes of mine"),
        ({"ways": 0}, "ways: found 0, expected at least 1"),
        ({"shots": 0}, "shots: found 0, expected at least 1"),
        ({"targets_per_class": -1}, "targets_per_class: found -1, expected at least 1"),
        (
            {"shots": 3},
            "mine: found 5 drawings of class 2, expected at least 6: 3 shots and 3 targets",
        ),
    ],
)
def test_episode_that_cannot_be_drawn(change: dict[str, int], expected: str) -> None:
    assert refusal(lambda: check_episode(LABELS, "mine", **{**EPISODE, **change})) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ways": 6}, "ways: found 6, expected at most 5, the classes of mine"),
        ({"ways": 0, "replacement": True}, "ways: found 0, expected at least 1"),
        ({"total": 0}, "total: found 0, expected at least 1"),
        ({"num_targets": 0}, "num_targets: found 0, expected at least 1"),
        (
            {"total": 4},
            "mine: found 5 drawings of class 2, expected at least 6: 4 in memory and 2 targets, "
            "which may be of one class",
        ),
    ],
)
def test_set_that_cannot_be_drawn(change: dict[str, int], expected: str) -> None:
    assert refusal(lambda: check_set(LABELS, "mine", **{**SET, **change})) == expected


@pytest.mark.parametrize("labels", [None, np.zeros(0, int)])
def test_images_without_labels(labels: np.ndarray | None) -> None:
    expected = "mine: found no labels, expected the class of every image"
    assert refusal(lambda: check_episode(labels, "mine", **EPISODE)) == expected
    assert refusal(lambda: check_set(labels, "mine", **{**SET, "replacement": True})) == expected


@pytest.mark.parametrize(
    ("function", "options", "found"),
    [
        (draw_episode, {**EPISODE, "ways": 6}, "6 ways of up to 5"),
        (draw_episode, {**EPISODE, "shots": 12}, "3 ways of up to 15"),
        (draw_set, {**SET, "ways": 6, "guaranteed": True}, "6 ways of up to 5"),
        (draw_set, {**SET, "total": 13, "guaranteed": True}, "3 ways of up to 15"),
    ],
)
def test_table_too_small(function, options: dict, found: str) -> None:
    table: ClassTable = class_table(LABELS)
    assert refusal(lambda: function(jax.random.key(0), table, **options)) == (
        f"episode: found {found} drawings, expected at most 5 of 14, the classes and drawings that "
        "there are"
    )
