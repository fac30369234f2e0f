"""Two processes with two CPU devices each, which find each other on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SECONDS = 900  # for what takes ten on a quiet machine


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    said: str
    seconds: float  # that the test waited for it


class Pair:
    """Both processes of a command, `python -m ...`; left in a `with`, whatever runs is killed."""

    def __init__(self, *commands: Sequence[str]):
        """Start them: the same command in both, or one for each."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        both = commands if len(commands) == 2 else commands * 2
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", *command),
                    *("--distributed", "--coordinator-address", address),
                    *("--num-processes", "2", "--process-id", str(number)),
                ],
                cwd=ROOT,
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number, command in enumerate(both)
        ]

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until it is true, while both run."""
        started = time.monotonic()
        while not condition():
            for process in self.processes:
                assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() - started < SECONDS
            time.sleep(0.05)

    def ended(self, number: int) -> Ended:
        """Wait for the end of one of them."""
        started = time.monotonic()
        said, _ = self.processes[number].communicate(timeout=SECONDS)
        return Ended(self.processes[number].returncode, said, time.monotonic() - started)

    def both_ended(self) -> list[Ended]:
        """Wait for the end of both."""
        return [self.ended(0), self.ended(1)]


def _environment() -> dict[str, str]:
    flags = [
        flag
        for flag in os.environ.get("XLA_FLAGS", "").split()
        if not flag.startswith("--xla_force_host_platform_device_count")
    ]
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": " ".join([*flags, "--xla_force_host_platform_device_count=2"]),
    }
