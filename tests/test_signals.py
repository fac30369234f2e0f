"""Signals: collected while a run trains, and what they were before and after."""

import signal
import threading
from collections.abc import Iterator

import pytest

from train.signals import Stopped, collected

STOPS = [signal.SIGTERM, signal.SIGINT]


# To this thread: a signal sent to the process may reach another one, and be late.
send = signal.raise_signal


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_is_collected(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with collected() as received:
        assert received == []
        received.nothing_to_save = False
        send(number)
        assert received == [number]
    assert signal.getsignal(number) == before
    assert Stopped(number, 3).signal_number == number


@pytest.fixture
def _not_ignored() -> Iterator[None]:
    """Whoever runs the tests may have an interrupt ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_not_ignored")
@pytest.mark.parametrize("first", STOPS)
def test_a_second_signal_acts_at_once(first: signal.Signals) -> None:
    with collected() as received, pytest.raises(KeyboardInterrupt):
        received.nothing_to_save = False
        send(first)
        assert received == [first]
        send(signal.SIGINT)


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    with pytest.raises(ValueError, match="broken"), collected():
        raise ValueError("broken")
    assert [signal.getsignal(number) for number in STOPS] == before


def test_outside_the_main_thread_nothing_is_collected() -> None:
    found: list[object] = []

    def work() -> None:
        with collected() as received:
            found.append(list(received))
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[], before]
