"""Settings of XLA: what the user has set stays; programs go before a process has too many."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import train
from memjax import backend
from memjax.errors import InputError

WIDTH, FUSIONS = "--xla_cpu_prefer_vector_width", "--xla_cpu_experimental_ynn_fusion_type"


def configured(monkeypatch: pytest.MonkeyPatch, given: str | None) -> list[str]:
    if given is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", given)
    backend.configure()
    return os.environ["XLA_FLAGS"].split()


def test_settings_are_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    added = configured(monkeypatch, None)
    assert f"{WIDTH}=512" in added
    assert any(flag.startswith(FUSIONS) for flag in added) == (jax.__version_info__ < (0, 11))
    assert configured(monkeypatch, " ".join(added)) == added


def test_those_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"{WIDTH}=256", "--xla_cpu_use_fusion_emitters=false"]
    found = configured(monkeypatch, " ".join(given))
    assert found[:2] == given
    assert sum(WIDTH in flag for flag in found) == 1


@pytest.mark.parametrize(
    ("mappings", "most", "traced"),
    [(50, "100\n", 1), (51, "100\n", 2), (51, "", 1), (51, "many", 1)],
    ids=["few", "many", "not said", "not a number"],
)
def test_programs_go_where_they_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mappings: int, most: str, traced: int
) -> None:
    calls = []

    @jax.pmap
    def program(x: jax.Array) -> jax.Array:
        calls.append(x)
        return x + 1

    maps, limit = tmp_path / "maps", tmp_path / "max_map_count"
    maps.write_text("7f00-7f01 r-xp\n" * mappings)
    limit.write_text(most)
    monkeypatch.setattr(backend, "_MAPPINGS", maps)
    monkeypatch.setattr(backend, "_MOST_MAPPINGS", limit)
    for _ in range(2):
        assert program(jnp.zeros(1)) == 1
        # As a run of a sweep does, whatever becomes of it.
        with pytest.raises(InputError, match="nowhere"):
            train.run("mem_vae_mnist", str(tmp_path / "run"), data_dir=str(tmp_path / "nowhere"))
    assert len(calls) == traced


def test_systems_without_mappings_keep_their_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_MAPPINGS", tmp_path / "none")
    monkeypatch.setattr(jax, "clear_caches", lambda: pytest.fail("forgotten"))
    backend.forget_programs()
