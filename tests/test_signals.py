"""Signals: collected while a run trains, and what they were before and after."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from train.signals import Stopped, collected

ROOT = Path(__file__).parent.parent
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


BUSY = """
import hashlib, signal, sys, time
from train.signals import collected
signal.signal(signal.SIGUSR1, lambda number, frame: None)
with collected() as received:
    received.nothing_to_save = sys.argv[1] == "nothing"
    print("busy", flush=True)
    while sys.argv[3:] and not received:  # the main thread, where handlers run
        time.sleep(0.001)
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[2]))  # and in C, where they wait
    print(received, flush=True)
"""


@pytest.mark.parametrize("number", STOPS)
def test_before_the_first_step_a_signal_ends_the_process(number: signal.Signals) -> None:
    """While XLA compiles Python's handlers have to wait."""
    command = [sys.executable, "-c", BUSY, "nothing", str(10**9)]  # some minutes
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == "stopped before its first step; the same command goes on"


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("handled", [[], ["handled"]])
def test_a_second_signal_ends_the_process(number: signal.Signals, handled: list[str]) -> None:
    """However soon it comes, and whether or not the main thread has seen the first."""
    command = [sys.executable, "-c", BUSY, "something", str(10**9), *handled]
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        process.send_signal(number)
        process.send_signal(signal.SIGUSR1)  # another signal is none of the two
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    saving = f"{number.name}: saving, then stopping"
    at_once = "stopped at once; the same command goes on from the last checkpoint, if any"
    assert said.splitlines() in ([at_once], [saving, at_once])


@pytest.mark.parametrize("number", STOPS)
def test_after_it_the_signal_is_kept(number: signal.Signals) -> None:
    command = [sys.executable, "-c", BUSY, "something", "300000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        process.send_signal(number)
        found, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and found == f"[{number.value}]\n"
