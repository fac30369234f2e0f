"""benchmarks.sharing: an evaluation on several devices, and what it makes them tell each other."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh, PartitionSpec

from benchmarks import sharing
from benchmarks.evaluation import Sizes
from eval import benchmark_tables, records
from eval.evaluator import mesh_of_devices
from eval.records import Record
from memjax.errors import InputError

SIZES = Sizes(num_samples=6, batch_size=4, chunk_size=2)


@pytest.fixture(scope="module")
def found() -> list[Record]:
    return sharing.compare((1, 2, 4), SIZES)


def by_layout(found: list[Record], metric: str) -> dict[tuple[int, int], float]:
    return {
        (one.protocol["image_devices"], one.protocol["sample_devices"]): one.value or 0.0
        for one in found
        if one.metric == metric
    }


def test_devices_agree_with_one(found: list[Record]) -> None:
    apart = by_layout(found, sharing.DIFFERENCE)
    assert set(apart) == {(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4)}
    assert max(apart.values()) < 1e-3  # of some 600 nats, in float32


def test_devices_that_share_images_tell_each_other_nothing(found: list[Record]) -> None:
    told = by_layout(found, sharing.BYTES)
    assert told[1, 1] == told[2, 1] == told[4, 1] == 0


def test_devices_that_share_samples_are_told_the_values_of_all(found: list[Record]) -> None:
    told = by_layout(found, sharing.BYTES)
    # log weights, reconstruction, ELBO and KL; a device has three samples, or two and too many
    assert told[1, 2] == 4 * 4 * 6 * 4
    assert told[2, 2] == 4 * 4 * 6 * 2
    assert told[1, 4] == 4 * 4 * 8 * 4


def test_collectives_of_a_known_program_are_counted() -> None:
    mesh = Mesh(np.array(jax.local_devices()), ("devices",))

    def told(of: jax.Array) -> tuple[jax.Array, jax.Array]:
        every = jax.lax.all_gather(of, "devices", tiled=True)
        return every, jax.lax.psum(of.astype(jnp.float16).sum(axis=0), "devices")

    none = PartitionSpec()
    mapped = jax.shard_map(
        told, mesh=mesh, in_specs=PartitionSpec("devices"), out_specs=(none, none), check_vma=False
    )
    program = jax.jit(mapped).lower(jnp.zeros((8, 3))).compile().as_text()
    assert sharing.collective_bytes(program) in (
        4 * 8 * 3 + 2 * 3,
        4 * 8 * 3 + 4 * 3,  # where a sum of float16 is done in float32
    )
    started = (
        "%a = (f32[3]{0}, f32[6]{0}) all-gather-start(%p), dimensions={0}\n"
        "%b = f32[6]{0} all-gather-done(%a)\n"
        "%c = (s8[2,2]{1,0}, f32[]) all-reduce(%d, %e)"
    )
    assert sharing.collective_bytes(started) == 24 + 4 + 4


def test_table(found: list[Record]) -> None:
    (table,) = benchmark_tables.tables(found)
    rows = [line.split(" | ") for line in table.splitlines()[-6:]]
    assert [row[:3] for row in rows[:3]] == [
        ["| 1", "1", "6 x 4"],
        ["| 2", "1", "6 x 4"],
        ["| 4", "1", "6 x 4"],
    ]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[Record]) -> None:
    monkeypatch.setattr(sharing, "compare", lambda counts, sizes: found)
    sharing.main((1, 2, 4), *SIZES[:2], results=str(tmp_path))
    assert len(records.load(epath.Path(tmp_path) / "benchmarks.json")) == len(found)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"device_counts": (1, 5), "batch_size": 5},
            "--device-counts: found 5, expected at most 4",
        ),
        ({"device_counts": ()}, "--device-counts: found no values, expected at least one"),
        ({"device_counts": (0,)}, "--device-counts: found 0, expected at least 1"),
        ({"batch_size": 6, "device_counts": (4,)}, "--batch-size: found 6, expected a multiple"),
        ({"num_samples": 0}, "--num-samples: found 0, expected at least 1"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sharing.main(results=str(tmp_path), **fields)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (100_000, "^--batch-size: found 8, expected a multiple of 100000$"),
        (2**31, "^--device-counts: found 2147483648, expected at most 2147483647$"),
    ],
)
def test_too_many_devices_are_refused_before_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, message: str
) -> None:
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax.config, "update", lambda *given: pytest.fail("jax was configured"))
    with pytest.raises(InputError, match=message):
        sharing.main((1, count), results=str(tmp_path))


@pytest.mark.parametrize("sample_devices", [0, 3, 8])
def test_groups_of_devices_are_equal(sample_devices: int) -> None:
    with pytest.raises(InputError, match=f"--sample-devices: found {sample_devices}, expected a"):
        mesh_of_devices(sample_devices)
