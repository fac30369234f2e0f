"""Chunks of samples: what does not fit into memory is cut smaller, with the same answer."""

import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from eval import chunks, likelihood
from eval.chunks import compile_fitting, free_bytes, held_bytes
from memjax.types import Array
from tests import eval_runs


def lower(chunk: int) -> jax.stages.Lowered:
    """Holds some four bytes times a thousand for each of a chunk."""

    def computation(x: Array) -> Array:
        return jnp.sort(jnp.sort(x[None] * jnp.arange(chunk)[:, None]), axis=0).sum()

    return jax.jit(computation).lower(jnp.ones(1000))


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("memjax")
    before, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.WARNING, logger="memjax"):
        yield caplog
    logger.propagate = before


def test_what_fits_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    for free in (10 * held_bytes(lower(64).compile()), None):
        monkeypatch.setattr(chunks, "free_bytes", lambda free=free: free)
        compiled = compile_fitting(lower, 64)
        assert held_bytes(compiled) == held_bytes(lower(64).compile())
        assert not warnings.messages


def test_what_does_not_fit_is_halved(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    # As much as a chunk of 20 would hold: of 64, 32 and 16 the last is the first that fits.
    free = int(held_bytes(lower(20).compile()) / chunks.SHARE)
    monkeypatch.setattr(chunks, "free_bytes", lambda: free)
    compiled = compile_fitting(lower, 64)
    assert held_bytes(compiled) == held_bytes(lower(16).compile())
    assert float(compiled(jnp.ones(1000))) == 1000 * sum(range(16))
    assert warnings.messages[-1].startswith(
        "--chunk-size: 64 samples together do not fit into the 0.0 GiB"
    )
    assert warnings.messages[-1].endswith("going on with 16")


def test_one_sample_is_tried_whatever_is_free(
    monkeypatch: pytest.MonkeyPatch, warnings: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chunks, "free_bytes", lambda: 0)
    assert float(compile_fitting(lower, 5)(jnp.ones(1000))) == 0
    assert warnings.messages[-1].endswith("going on with 1")


def test_free_memory_of_this_machine() -> None:
    free = free_bytes()
    assert free is None or 2**20 < free < 2**50


def test_likelihood_is_the_same_in_smaller_chunks(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warnings: pytest.LogCaptureFixture,
) -> None:
    workdir = eval_runs.copy(eval_runs.trained(tmp_path_factory.getbasetemp()), tmp_path / "run")
    options = {"num_samples": 40, "max_images": 10, "chunk_size": 40}
    with eval_runs.one_device():
        whole = likelihood(str(workdir), **options)[0]
        assert not warnings.messages
        monkeypatch.setattr(chunks, "free_bytes", lambda: 100_000)
        smaller = likelihood(str(workdir), **options)[0]
    assert "going on with" in warnings.messages[-1]
    assert smaller.value == pytest.approx(whole.value, rel=1e-6)
