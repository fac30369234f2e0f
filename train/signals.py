"""Stopping when asked to: finish the call under way, save, leave."""

import contextlib
import logging
import signal
from collections.abc import Iterator
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


@contextlib.contextmanager
def collected() -> Iterator[list[int]]:
    """The numbers of the SIGTERMs and SIGINTs that arrive, instead of their usual effect.

    A second signal of a kind acts at once. Outside the main thread, where Python handles no
    signals, the list stays empty.

    Of several processes SIGTERM is left to jax, which tells the others; a SIGINT becomes one, so
    that all stop at the same step.
    """
    stops = (signal.SIGINT,) if hosts.several() else (signal.SIGTERM, signal.SIGINT)
    received: list[int] = []
    previous: dict[int, Any] = {}

    def remember(number: int, frame: Any) -> None:
        del frame
        received.append(number)
        logger.warning("%s: saving, then stopping", signal.Signals(number).name)
        signal.signal(number, previous[number])
        if hosts.several():
            signal.raise_signal(signal.SIGTERM)

    with contextlib.suppress(ValueError):  # not the main thread
        for stop in stops:
            previous[stop] = signal.signal(stop, remember)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
