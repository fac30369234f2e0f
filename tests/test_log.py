"""What a run says while it trains."""

import io
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from train.log import Log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    log = Log(str(tmp_path), first_step=10, total_steps=40)
    log.progress(25, -91.234)
    log.progress(40, -90.987)
    log.close()
    said = terminal.getvalue()
    assert "bound -90.99 nats" in said and "40/40" in said and "step/s" in said
    assert "00:00<" in said  # time taken and time left


def test_lines_after_the_step_it_goes_on_from_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for first in (0, 4):
        log = Log(str(tmp_path), first_step=first, total_steps=12)
        for step in range(first + 2, 13, 2):
            log.metrics(step, 1, {"iwae_bound": np.float32(-first), "elbo": -1.5})
        log.close()
        with path.open("a") as file:
            file.write('{"step": 1')  # killed in the middle of a line
    lines = path.read_text().splitlines()[:-1]
    found = [(json.loads(line)["step"], json.loads(line)["iwae_bound"]) for line in lines]
    assert found == [(2, 0.0), (4, 0.0), (6, -4.0), (8, -4.0), (10, -4.0), (12, -4.0)]
    assert list(json.loads(lines[0])) == ["step", "epoch", "elbo", "iwae_bound", "steps_per_second"]


def test_tensorboard_gets_scalars_and_images(tmp_path: Path) -> None:
    log = Log(str(tmp_path), first_step=0, total_steps=4)
    log.metrics(4, 1, {"iwae_bound": -3.0})
    log.images(4, "samples", np.full((8, 9, 3), 0.5, np.float32))
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    written = events.read_bytes()
    assert b"iwae_bound" in written and b"samples" in written and b"PNG" in written


def test_what_is_not_finite_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Log(str(tmp_path), first_step=0, total_steps=4)
    log.metrics(4, 1, {"iwae_bound": -3.0, "elbo": np.float32("nan"), "bad_bound": float("-inf")})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == ["step", "epoch", "iwae_bound", "steps_per_second"]
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"iwae_bound" in events.read_bytes() and b"bad_bound" not in events.read_bytes()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"{tmp_path / 'metrics.jsonl'}: step 4: not finite and left out: bad_bound, elbo"


def test_speed_is_counted_from_the_end_of_the_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    log = Log(str(tmp_path), first_step=10, total_steps=40)
    with caplog.at_level(logging.INFO, logger="memjax"):
        for step in (11, 20, 30):
            log.progress(step, -91.0)
            log.metrics(step, 1, {"iwae_bound": -91.0})
    log.close()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert found[0]["steps_per_second"] == 0 < found[1]["steps_per_second"]
    assert "? left" not in caplog.records[-1].getMessage()
