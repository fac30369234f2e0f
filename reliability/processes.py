"""Programs in processes of their own: what they say, and how they are killed."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
POLL_SECONDS = 0.002
MOST_SECONDS = 1200.0  # that a program may take, with which something is wrong after that


class Program:
    """`python -m ...`, whose lines on stderr are collected while it runs."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        """Start it, in the root of the clone; in this program's environment if none is given."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.pid = self._process.pid
        self.said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line)

    def has_said(self, what: str) -> bool:
        """Whether a line holds these words."""
        return any(what in line for line in list(self.said))

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def runs_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for something; False where the program ends before it.

        Raises:
            RuntimeError: neither happens in time.
        """
        begun = time.monotonic()
        while not condition():
            if not self.runs():
                return False
            if time.monotonic() - begun > MOST_SECONDS:
                raise self._hangs()
            time.sleep(POLL_SECONDS)
        return True

    def ends_within(self, seconds: float) -> tuple[float, int | None]:
        """Wait so long for its end; returns how long it took, and its exit code, None if none."""
        begun = time.monotonic()
        while self.runs() and time.monotonic() - begun < seconds:
            time.sleep(POLL_SECONDS)
        return time.monotonic() - begun, self._process.poll()

    def kill(self) -> bool:
        """SIGKILL; False where it had ended by itself."""
        ran = self.runs()
        self._process.kill()
        self.finish()
        return ran

    def finish(self) -> int:
        """Wait for its end; returns the exit code.

        Raises:
            RuntimeError: it does not end in time.
        """
        try:
            code = self._process.wait(MOST_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._hangs() from None
        self._listener.join()
        if self._process.stderr is not None:
            self._process.stderr.close()
        return code

    def _hangs(self) -> RuntimeError:
        end = "".join(self.said[-5:]).strip()
        return RuntimeError(f"still runs after {MOST_SECONDS:,.0f} s, expected an end: {end}")


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """A program that does not outlive the block."""
    program = Program(command, environment)
    try:
        yield program
    finally:
        program.kill()


def run(command: Sequence[str]) -> Program:
    """A program that has come to its end.

    Raises:
        RuntimeError: with an exit code that is not zero.
    """
    with started(command) as program:
        if code := program.finish():
            raise RuntimeError(f"{' '.join(command)}: exit code {code}\n{''.join(program.said)}")
    return program
