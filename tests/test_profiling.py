"""Where the time of a step goes: kinds of operations, their seconds and their records."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import jobs, profiling
from eval import benchmark_tables, records
from memjax import configs
from memjax.errors import InputError
from tests.test_tables import table_under

SIDE = 400


class Products:
    """Steps of a product and an exponential each, or of the product alone."""

    experiment, protocol = configs.get("mem_vae_mnist"), {"chunk_size": 7}

    def __init__(self, alone: bool = False):
        self._step = jax.jit(lambda x: x @ x if alone else jnp.sum(jnp.exp(x @ x), axis=0))

    def seconds(self, count: int) -> float:
        for _ in range(count):
            jax.block_until_ready(self._step(jnp.ones((SIDE, SIDE))))
        return 0.01 * count

    def limit(self) -> "Products":
        return Products(alone=True)


def test_kinds_are_told_by_names() -> None:
    kinds = {
        "products": ["dot.3", "ynn_fusion.2", "convolution.1"],
        "sums": ["multiply_reduce_fusion.24", "wrapped_reduce-window.12"],
        "copies": ["copy.1", "wrapped_transpose", "dynamic-update-slice.4"],
        "random": ["threefry2x32.1", "xor_fusion"],
        "element-wise": ["add_bitcast_fusion.6", "exponential_fusion", "wrapped_convert.1"],
    }
    for kind, names in kinds.items():
        assert [profiling.kind_of(name) for name in names] == [kind] * len(names)


def test_a_profile_has_the_operations_of_a_step() -> None:
    steps = Products()
    steps.seconds(1)
    found = profiling.seconds_by_kind(steps)
    assert set(found) <= {*profiling.KINDS, profiling.OTHER}
    assert 0 < found["products"] < 1
    # The exponential and its sum are one operation or two, as the version of XLA has it.
    assert found.get("sums", 0) + found.get(profiling.OTHER, 0) > 0


def test_a_profile_is_recorded_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jobs, "make_ours", lambda job, precision: Products())
    profiling.main(jobs=("mem_vae_mnist",), rounds=1, results=str(tmp_path))
    found = records.load(tmp_path / "benchmarks.json")
    assert {one.protocol["kind"] for one in found} >= {"clock", "products alone", "products"}
    assert all(one.protocol["chunk_size"] == 7 for one in found)
    (row,) = table_under("\n\n".join(benchmark_tables.tables(found)), "Where the milliseconds")
    assert (row["job"], row["precision"], row["clock"]) == ("`mem_vae_mnist`", "float32", "10")
    assert row["products alone"] == "10" and float(row["products"]) > 0 and row["random"] == "-"
    assert "mem_vae_mnist  float32    10 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": ()}, "^--jobs: found none, expected some of mem_vae_mnist"),
        ({"jobs": ("mnist",)}, "^--jobs: found 'mnist', expected some of mem_vae_mnist"),
        ({"precisions": ("half",)}, "^--precisions: found 'half', expected some of float32"),
        ({"rounds": 0}, "^--rounds: found 0, expected at least 1"),
        ({}, "^devices: found 4, expected one"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        profiling.main(**{"results": str(tmp_path), **options})


def test_other_devices_than_the_cpu_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(InputError, match=r"^devices: found gpu, expected cpu"):
        profiling.main(results=str(tmp_path))
