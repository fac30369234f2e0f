"""Stopping when asked to: finish the call under way, save, leave."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from typing import Any

from memjax import hosts

logger = logging.getLogger("memjax")


class Stopped(hosts.Agreed):
    """A signal asked the run to stop; everything is saved.

    Attributes:
        signal_number: of the signal.
        step: the step that was saved.
    """

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped at step {step}; the same command goes on from there")
        self.signal_number = signal_number
        self.step = step


class Signals(list[int]):
    """The numbers of the signals that have arrived.

    Attributes:
        nothing_to_save: no step is taken yet, so that a signal ends the process at once.
    """

    nothing_to_save = True


@contextlib.contextmanager
def collected() -> Iterator[Signals]:
    """The SIGTERMs and SIGINTs that arrive, instead of their usual effect.

    A second signal ends the process at once. Outside the main thread, where Python handles no
    signals, none is collected.

    Of several processes SIGTERM is left to jax, which tells the others; a SIGINT becomes one, so
    that all stop at the same step.
    """
    stops = (signal.SIGINT,) if hosts.several() else (signal.SIGTERM, signal.SIGINT)
    received = Signals()
    previous: dict[int, Any] = {}

    def remember(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        if not received.nothing_to_save:  # there the other thread has the last word
            logger.warning("%s: saving, then stopping", signal.Signals(number).name)
        if _interactive():  # there a second SIGINT interrupts, as ever
            for stop, handler in previous.items():
                signal.signal(stop, handler)
        if hosts.several():
            signal.raise_signal(signal.SIGTERM)

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ValueError):  # not the main thread
            for stop in stops:
                previous[stop] = signal.signal(stop, remember)
            stack.enter_context(_watched(received, stops))
        try:
            yield received
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _watched(received: Signals, stops: Collection[int]) -> Iterator[None]:
    """End the process at a signal while there is nothing to save, and at a second one.

    Python's own handlers wait for the main thread, and that for XLA, which compiles for a minute
    and computes for seconds; two signals that arrive meanwhile are one to them.
    """
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)

    def watch() -> None:
        arrived = 0
        while byte := os.read(reads, 1):
            number = byte[0]
            if number not in stops or (number == signal.SIGINT and _interactive()):
                continue
            arrived += 1
            if received.nothing_to_save:
                _end(number, "before its first step; the same command goes on")
            elif arrived > 1:
                _end(number, "at once; the same command goes on from the last checkpoint, if any")
        os.close(reads)

    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writes)


def _end(number: int, how: str) -> None:
    sys.stderr.write(f"stopped {how}\n")
    sys.stderr.flush()
    os._exit(128 + number)


def _interactive() -> bool:
    """Whether somebody works in this process, who would lose more than the run."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules
