"""A memory that devices share out: the run of one device, whatever their number."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import memjax
import train
from eval import likelihood
from memjax.errors import InputError
from memjax.training import TrainState
from tests import runs
from tests.pair import Pair
from tests.pair_programs import BLOCKS, SLOTS, in_blocks
from train import devices
from train.shares import Shares


def on_devices(patch: pytest.MonkeyPatch, count: int) -> None:
    patch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:count])


def trained(folder: Path, workdir: str, count: int, **arguments: Any) -> TrainState:
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, count)
        return train.run(in_blocks(folder), str(folder / workdir), **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shares")
    runs.write_images(made, 40)
    return made


@pytest.fixture(scope="module")
def one(folder: Path) -> TrainState:
    return trained(folder, "one", 1)


def assert_close(found: Any, expected: Any) -> None:
    def check(path: Any, found: Any, expected: Any) -> None:
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5, err_msg=name)

    jax.tree_util.tree_map_with_path(check, found, expected)


@pytest.mark.parametrize("count", [2, 4])
def test_several_devices_train_what_one_does(folder: Path, one: TrainState, count: int) -> None:
    found = trained(folder, f"on_{count}", count)
    assert found.params["memory"].shape == (BLOCKS, SLOTS, 5)
    assert len(found.params["memory"].devices()) == count
    assert_close(found, one)
    (lines, expected) = (runs.metrics(folder / name) for name in (f"on_{count}", "one"))
    assert len(lines) == len(expected) == 2
    for line, wanted in zip(lines, expected, strict=True):
        assert line.keys() == wanted.keys() >= {"validation_bound", "kl_address"}
        for name, value in wanted.items():
            np.testing.assert_allclose(line[name], value, rtol=2e-4, atol=1e-5, err_msg=name)


def test_no_device_makes_or_holds_more_than_its_share(folder: Path) -> None:
    given = in_blocks(folder)
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 4)
        state = train.run(given, str(folder / "held"), stop_at_step=1)
    memory = state.params["memory"]
    assert {shard.data.shape for shard in memory.addressable_shards} == {(2, SLOTS, 5)}
    whole = {name for name, leaf in state.params.items() if name not in ("memory", "slot_keys")}
    for name in whole:
        for leaf in jax.tree.leaves(state.params[name]):
            assert {shard.data.shape for shard in leaf.addressable_shards} == {leaf.shape}


@pytest.mark.parametrize(("first", "then"), [(4, 4), (4, 1), (1, 2)])
def test_it_goes_on_with_other_devices(
    folder: Path, one: TrainState, first: int, then: int
) -> None:
    name = f"from_{first}_on_{then}"
    trained(folder, name, first, stop_at_step=3)
    found = trained(folder, name, then)
    if first == then:
        runs.assert_same_bits(found, trained(folder, f"straight_{first}", first))
    assert_close(found, one)


def test_evaluation_finds_the_whole_memory(folder: Path, one: TrainState) -> None:
    trained(folder, "evaluated", 4)
    found = memjax.restore(str(folder / "evaluated"))
    assert_close(found.variables["params"], one.params)
    (record, *_) = likelihood(str(folder / "evaluated"), num_samples=3, batch_size=2)
    assert np.isfinite(record.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": {"num_seeds": 2}}, "train.num_seeds: found 2, expected 1 where 4 devices share"),
        (
            {"optimizer": {"clip_global_norm": 5.0}},
            r"optimizer.clip_global_norm: found 5.0, expected 0 where 4 devices share a memory",
        ),
    ],
)
def test_what_shares_cannot_do(folder: Path, changed: dict[str, Any], message: str) -> None:
    given = in_blocks(folder)
    for part, fields in changed.items():
        given = dataclasses.replace(
            given, **{part: dataclasses.replace(getattr(given, part), **fields)}
        )
    with pytest.raises(InputError, match=message):
        train.run(given, str(folder / "refused"))
    assert not (folder / "refused").exists()
    assert Shares.of(given, jax.devices()[:1]).names == ()


def test_devices_divide_the_blocks(caplog: pytest.LogCaptureFixture) -> None:
    assert len(devices.choose(8, 1, 4)) == 4
    assert len(devices.choose(8, 1, 6)) == 2
    assert "2 of 4 devices: the batch of 8 examples, or the memory of 6 blocks," in caplog.text


def test_two_processes_train_what_one_does(folder: Path, one: TrainState) -> None:
    with Pair(["tests.pair_programs", "shared", str(folder)]) as pair:
        ended = pair.both_ended()
    assert [end.code for end in ended] == [0, 0], ended
    found = memjax.restore(str(folder / "pair"))
    assert found.step == 8
    assert_close(found.variables["params"], one.params)
