"""What a run says while it trains: a progress bar, metrics.jsonl, TensorBoard."""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import directory_check
from tqdm import tqdm

from memjax import workdirs

logger = logging.getLogger("memjax")
SECONDS_BETWEEN_LINES = 10.0


class Log:
    """Progress on the terminal, one line of metrics.jsonl per logging interval, TensorBoard.

    On a terminal there is a bar with steps, steps per second, the bound and the time left; where
    there is none, a plain line at most every ten seconds.
    """

    def __init__(self, workdir: str, first_step: int, total_steps: int, shown: bool = True):
        """Open the logs of a run that goes on at `first_step`; if not shown, files alone."""
        self._path = epath.Path(workdir) / workdirs.METRICS
        found = workdirs.load_metrics(epath.Path(workdir))
        # An earlier part of the run is cut back to the step that it goes on from.
        self._lines = [line for line, values in found if values["step"] <= first_step]
        self._write()
        self._board = Board(epath.Path(workdir) / "tensorboard", first_step)
        self._total = total_steps
        self._step = first_step
        self._started = self._said = time.monotonic()
        self._first_step = first_step
        self._compiled = False
        self._terminal = sys.stderr.isatty()
        self._shown = shown
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            unit="step",
            disable=not (self._terminal and shown),
        )

    def progress(self, step: int, bound: float) -> None:
        """Show where the run is; `bound` in nats."""
        if not self._compiled:
            # The first call compiles: the speed is counted from its end.
            self._compiled = True
            self._first_step, self._started = step, time.monotonic()
        self._bar.update(step - self._step)
        self._bar.set_postfix_str(f"bound {bound:.2f} nats", refresh=False)
        self._step = step
        now = time.monotonic()
        due = now - self._said > SECONDS_BETWEEN_LINES or step == self._total
        if due and self._shown and not self._terminal:
            rate = self._rate(step)
            left = tqdm.format_interval((self._total - step) / rate) if rate else "?"
            logger.info(
                "step %d of %d, %.1f steps/s, bound %.2f nats, %s left",
                *(step, self._total, rate, bound, left),
            )
            self._said = now

    def metrics(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl, and the same to TensorBoard: what is finite."""
        # JSON knows no others; who reads the lines takes what is there.
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if missing := sorted(values.keys() - finite.keys()):
            logger.warning(
                "%s: step %d: not finite and left out: %s", self._path, step, ", ".join(missing)
            )
        line: dict[str, Any] = {"step": step, "epoch": epoch} | dict(sorted(finite.items()))
        line["steps_per_second"] = round(self._rate(step), 2)
        self._lines.append(json.dumps(line, allow_nan=False))
        self._write(self._lines[-1:])
        for name, value in finite.items():
            self._board.add(step, summary.scalar(name, value))

    def images(self, step: int, name: str, grid: np.ndarray) -> None:
        """Show a grid of images `[H, W, C]` in [0, 1] in TensorBoard."""
        self._board.add(step, summary.image(name, grid, dataformats="HWC"))

    def close(self) -> None:
        """Finish the bar and flush the files."""
        self._bar.close()
        self._board.close()

    def _rate(self, step: int) -> float:
        return (step - self._first_step) / max(time.monotonic() - self._started, 1e-9)

    def _write(self, new: list[str] | None = None) -> None:
        # Objects in a bucket cannot be appended to: they are written whole.
        with workdirs.writing(self._path):
            if new is not None and not workdirs.is_bucket(self._path):
                with self._path.open("a") as file:
                    file.write("".join(f"{line}\n" for line in new))
            else:
                workdirs.write_whole(self._path, "".join(f"{line}\n" for line in self._lines))


class Board:
    """The events of TensorBoard.

    Written where they arise: tensorboardX's own writer has a thread for it, which ends at the first
    error, and waits for it for ever.
    """

    def __init__(self, folder: epath.Path, first_step: int):
        """Begin a file; what earlier ones say of steps after `first_step` no longer holds."""
        self._folder = folder
        self._flushed = time.monotonic()
        with workdirs.writing(folder):
            directory_check(str(folder))
            self._writer = EventsWriter(str(folder / "events"))
            start = SessionLog(status=SessionLog.START)
            self._write(Event(step=first_step + 1, session_log=start))

    def add(self, step: int, content: Any) -> None:
        """Write a summary of tensorboardX."""
        self._write(Event(step=step, summary=content))

    def close(self) -> None:
        """Flush and close the file."""
        with workdirs.writing(self._folder):
            self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with workdirs.writing(self._folder):
            self._writer.write_event(event)
            if (now := time.monotonic()) - self._flushed > SECONDS_BETWEEN_LINES:
                self._flushed = now
                self._writer.flush()
