"""Settings of XLA: what the user has set stays."""

import os

import jax
import pytest

from memjax import backend

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
