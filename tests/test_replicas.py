"""Several seeds in one run: each is the run of its seed, with a folder of its own."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from etils import epath

import memjax
import train
from eval import likelihood, record
from memjax import workdirs
from memjax.checkpoint import BrokenCheckpoint, Checkpoints
from memjax.config import Experiment
from memjax.errors import InputError
from memjax.training import TrainState
from tests import eval_runs, runs
from train import devices, replicas, sessions

SEED, COUNT = 3, 3


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with eval_runs.one_device():
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_images(tmp_path_factory.mktemp("images"))


def experiment(images: Path, num_seeds: int = COUNT, seed: int = SEED) -> Experiment:
    return dataclasses.replace(runs.experiment(images, num_seeds=num_seeds), seed=seed)


@pytest.fixture(scope="module")
def together(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainState]:
    """A run of three seeds; nobody writes to it."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    with eval_runs.one_device():
        return workdir, train.run(experiment(images), str(workdir))


def replica(state: TrainState, number: int) -> TrainState:
    return jax.tree.map(lambda leaf: leaf[number], state)


def assert_close(found: Any, expected: Any, relative: float, least: float) -> None:
    """By the largest difference of an array over its largest element, or over `least`.

    A bias before batch norm has no gradient but rounding.
    """

    def close(path: Any, one: Any, other: Any) -> None:
        one, other = np.float64(one), np.float64(other)
        scale = max(np.abs(other).max(initial=0), least)
        assert np.abs(one - other).max(initial=0) <= relative * scale, path

    jax.tree_util.tree_map_with_path(close, found, expected)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_replica_is_the_run_of_its_seed(images: Path, tmp_path: Path, steps: int) -> None:
    """After one step Adam's first moment is a tenth of the gradient."""
    state = train.run(experiment(images), str(tmp_path / "together"), stop_at_step=steps)
    for number in range(COUNT):
        alone = train.run(
            experiment(images, 1, SEED + number), str(tmp_path / str(number)), stop_at_step=steps
        )
        found = replica(state, number)
        if steps == 1:
            assert_close(found.opt_state, alone.opt_state, 1e-5, 1e-2)
        assert_close(found.params, alone.params, 1e-4, 0.1)
        assert (int(found.seed), int(found.step)) == (SEED + number, steps)


def test_both_ways_of_mapping_are_the_same_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed after the other, as on a CPU, and all at once."""
    after = train.run(experiment(images), str(tmp_path / "after"), stop_at_step=2)
    with monkeypatch.context() as patch:
        patch.setattr(devices.jax, "default_backend", lambda: "gpu")
        once = train.run(experiment(images), str(tmp_path / "once"), stop_at_step=2)
    assert_close(once.opt_state, after.opt_state, 1e-4, 1e-2)
    assert_close(once.params, after.params, 1e-4, 0.1)


def test_seeds_differ(together: tuple[Path, TrainState]) -> None:
    kernels = together[1].params["image_mean"]["kernel"]
    assert len(np.unique(np.asarray(kernels).reshape(COUNT, -1)[:, 0])) == COUNT


def test_each_has_a_folder_that_is_a_run(
    together: tuple[Path, TrainState], images: Path, tmp_path: Path
) -> None:
    workdir, state = together
    assert sorted(path.name for path in workdir.iterdir()) == [
        *("config.json", "lock", "seed_3", "seed_4", "seed_5"),
    ]
    for number in range(COUNT):
        folder = workdir / f"seed_{SEED + number}"
        restored = memjax.restore(str(folder))
        assert restored.experiment.seed == SEED + number
        assert restored.experiment.train.num_seeds == 1
        assert restored.step == runs.STEPS
        jax.tree.map(
            np.testing.assert_array_equal,
            restored.variables["params"],
            replica(state, number).params,
        )
        lines = runs.metrics(folder)
        assert [line["epoch"] for line in lines] == [1, 2, 3]
        train.run(experiment(images, 1, SEED + number), str(tmp_path / str(number)))
        for line, other in zip(lines, runs.metrics(tmp_path / str(number)), strict=True):
            assert line.keys() == other.keys()
            for name in line.keys() - {"steps_per_second"}:
                assert line[name] == pytest.approx(other[name], rel=1e-3), name


def test_stopped_and_resumed_bits_are_the_same(
    together: tuple[Path, TrainState], images: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    train.run(experiment(images), str(workdir), stop_at_step=5)
    runs.assert_same_bits(train.run(experiment(images), str(workdir)), together[1])


def test_goes_on_from_the_step_that_all_have(
    together: tuple[Path, TrainState], images: Path, tmp_path: Path
) -> None:
    """As after a kill between the saves of two replicas."""
    workdir = Path(shutil.copytree(together[0], tmp_path / "run"))
    shutil.rmtree(workdir / "seed_4" / "checkpoints" / str(runs.STEPS))
    runs.assert_same_bits(train.run(experiment(images), str(workdir)), together[1])
    for seed in range(SEED, SEED + COUNT):
        assert memjax.restore(str(workdir / f"seed_{seed}")).step == runs.STEPS
        assert [line["epoch"] for line in runs.metrics(workdir / f"seed_{seed}")] == [1, 2, 3]


def test_nothing_is_set_aside_before_all_has_been_looked_at() -> None:
    """A disk that cannot be read for a moment says nothing of what it holds."""

    class Found:
        def __init__(self, unread: int) -> None:
            self.unread, self.aside, self.said = unread, list[int](), list[int]()

        def steps(self) -> list[int]:
            return [1, 2, 3]

        def check(self, step: int) -> None:
            if step == 1:
                raise BrokenCheckpoint("1: is missing")
            if step == self.unread:
                raise InputError("3: cannot be read; nothing was changed")

        def say_broken(self, step: int, error: BrokenCheckpoint) -> None:
            self.said.append(step)

        def set_aside(self, step: int) -> None:
            self.aside.append(step)

    found = Found(unread=3)
    with pytest.raises(InputError, match="nothing was changed"):
        replicas._tidy(cast(Checkpoints, found), 2)
    assert found.aside == []
    found = Found(unread=4)
    replicas._tidy(cast(Checkpoints, found), 2)
    assert found.aside == [1, 3] and found.said == [1]


def test_several_devices(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = experiment(images)
    by_four = dataclasses.replace(base, train=dataclasses.replace(base.train, batch_size=4))
    one = train.run(by_four, str(tmp_path / "one"), stop_at_step=1)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: jax.devices())
    monkeypatch.setattr(jax, "local_device_count", lambda *_, **__: 4)
    four = train.run(by_four, str(tmp_path / "four"), stop_at_step=1)
    assert_close(four.opt_state, one.opt_state, 1e-5, 1e-2)


def test_records_of_seeds_become_one(together: tuple[Path, TrainState], tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(together[0], tmp_path / "run"))
    folders = [str(workdir / f"seed_{seed}") for seed in range(SEED, SEED + COUNT)]
    values = [likelihood(folder, num_samples=4)[0].value for folder in folders]
    merged = record(tuple(folders), results=str(tmp_path / "results"))
    (one,) = (one for one in merged if one.metric == "log_likelihood")
    assert one.seeds == [3, 4, 5]
    assert one.value == pytest.approx(np.mean([value or 0 for value in values]))
    assert one.stderr_seeds is not None
    assert "changed" not in one.protocol or "train.num_seeds" not in one.protocol["changed"]


def test_the_seconds_of_seeds_are_shares_of_those_of_the_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    class Kept(sessions.Session):
        def __init__(self, workdir: str, first_step: int, num_seeds: int) -> None:
            super().__init__(workdir, first_step, num_seeds)
            self._started -= 3600.0  # an hour ago
            given.append(num_seeds)

    monkeypatch.setattr(replicas, "Session", Kept)
    train.run(experiment(images), str(tmp_path / "run"))
    assert given == [COUNT] * COUNT
    found = [
        entry["seconds"]
        for seed in range(SEED, SEED + COUNT)
        for entry in workdirs.load_sessions(epath.Path(tmp_path / f"run/seed_{seed}"))
    ]
    assert len(found) == COUNT
    assert sum(found) == pytest.approx(3600.0, abs=300.0)


def test_the_workdir_itself_is_not_evaluated(together: tuple[Path, TrainState]) -> None:
    workdir = together[0]
    with pytest.raises(InputError) as caught:
        memjax.restore(str(workdir))
    assert str(caught.value) == (
        f"{workdir}: holds 3 runs, expected one of its folders, seed_3 to seed_5"
    )


def test_other_numbers_of_seeds_are_refused(
    together: tuple[Path, TrainState], images: Path
) -> None:
    with pytest.raises(InputError, match=r"holds a run with train\.num_seeds 3, found 2"):
        train.run(experiment(images, 2), str(together[0]))
    assert workdirs.load_fields(str(together[0]))["train"]["num_seeds"] == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_seeds": 0}, "train.num_seeds: found 0, expected at least 1"),
        (
            {"num_seeds": 2, "seed": 2**32 - 1},
            f"train.num_seeds: found 2, the last of which is seed {2**32}, expected seeds up to",
        ),
    ],
)
def test_numbers_that_cannot_be(
    images: Path, tmp_path: Path, fields: dict[str, int], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        train.run(experiment(images, **fields), str(tmp_path / "run"))
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "run").exists()
