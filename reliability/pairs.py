"""Two processes that train one run, of which one is killed: the other ends, and both go on.

A run of two processes with two CPU devices each is trained without interruption, and once more with
SIGKILLs to one of the two, during a step, a save or the compilation, as a seed says. The other must
not wait for it for ever: it has to end by itself, and not as if all were well. The same commands
are given again, and the pair has to go on from the newest checkpoint that was whole. At the end the
state is compared bit by bit, and metrics.jsonl field by field.
"""

import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from . import processes
from .kills import Workdir, same_metrics, same_state
from .parts import Figures, Options, Part
from .processes import Program

logger = logging.getLogger("memjax")
# Two processes of one machine take long for a step: epochs enough for a save before each kill.
ARGUMENTS = (
    *("mem_vae_digits", "--train.num-epochs", "16", "--train.save-every", "2"),
    *("--train.log-every", "1", "--train.batch-size", "48"),
    *("--model.hidden", "60", "60", "--model.latent", "10"),
)
KINDS = ("step", "save", "compilation", "step")
MOST_SECONDS = 90.0  # that a process may go on without the other
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
}


def measure(options: Options, folder: Path, arguments: Sequence[str] = ARGUMENTS) -> Figures:
    """Train without interruption and with kills, and compare.

    Args:
        options: how many kills of a pair, and their seed.
        folder: for the two workdirs.
        arguments: of `python -m train`, but for the workdir.
    """
    whole, broken = Workdir(folder / "whole"), Workdir(folder / "killed")
    generator = np.random.default_rng(options.seed)
    run = Interrupted(_command(arguments, broken), broken)
    with pair(_command(arguments, whole)) as both:
        if codes := [code for one in both if (code := one.finish())]:
            raise RuntimeError(f"exit codes {codes}: {_end_of(both[0])}")
    kinds = itertools.islice(itertools.cycle(KINDS), options.pair_kills)
    for kind in tqdm(list(kinds), unit="kill"):
        run.kill(kind, victim=int(generator.integers(2)), delay=generator.uniform(0, 0.5))
    ended = run.finish()
    for problem in run.problems:
        logger.warning("pairs: %s", problem)
    return {
        "multiprocess_kills": run.kills,
        "multiprocess_survived": run.survived,
        "longest_seconds": round(run.longest, 1),
        "problems": run.problems,
        "same_metrics": ended and same_metrics(whole, broken),
        "same_state": ended and same_state(whole.path, broken.path),
    }


def holds(figures: Figures) -> bool:
    """Whether every kill was survived, and the end is the same."""
    survived = figures["multiprocess_survived"] == figures["multiprocess_kills"] > 0
    same = figures["same_metrics"] and figures["same_state"] and not figures["problems"]
    return survived and same


@contextlib.contextmanager
def pair(command: Sequence[str]) -> Iterator[list[Program]]:
    """Both processes of a command; neither outlives the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = ["--distributed", "--coordinator-address", address, "--num-processes", "2"]
    environment = {**os.environ, **ENVIRONMENT}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                processes.started([*command, *meeting, "--process-id", str(number)], environment)
            )
            for number in range(2)
        ]


class Interrupted:
    """A run of a pair that is killed again and again, and what is seen of it.

    Attributes:
        kills: of one of the two.
        survived: kills after which the other ended in time, and the pair went on as it should.
        longest: seconds that the other took to end.
        problems: what should not be, in words.
    """

    def __init__(self, command: Sequence[str], workdir: Workdir):
        """Start nothing yet."""
        self._command, self._workdir = command, workdir
        self._open = 0  # kills that no pair has gone on from yet
        self.kills, self.survived, self.longest = 0, 0, 0.0
        self.problems: list[str] = []

    def kill(self, kind: str, victim: int, delay: float) -> None:
        """Start the pair, and kill one of the two some seconds after a moment of a kind."""
        steps, unfinished = self._workdir.steps(), self._workdir.unfinished()
        with pair(self._command) as both:
            came = {
                "compilation": lambda: both[0].has_said("compiling"),
                "step": lambda: bool({*self._workdir.steps()} - {*steps}),
                "save": lambda: bool(self._workdir.unfinished() - unfinished),
            }[kind]
            both[0].runs_until(came)
            time.sleep(delay)
            if not both[victim].kill():
                self.problems.append(f"ended before a kill during {kind}: {_end_of(both[0])}")
                return
            self.kills += 1
            seconds, code = both[1 - victim].ends_within(MOST_SECONDS)
            self._look(both[0], steps)
        self.longest = max(self.longest, seconds)
        if code:
            self._open += 1
        else:
            what = "went on" if code is None else "ended as if all were well"
            self.problems.append(f"a process {what} without the other: {_end_of(both[1 - victim])}")

    def finish(self) -> bool:
        """Start the pair once more, and let it come to its end; returns whether it did."""
        steps = self._workdir.steps()
        with pair(self._command) as both:
            codes = [one.finish() for one in both]
            self._look(both[0], steps)
        if any(codes):
            self.problems.append(f"exit codes {codes} at the end: {_end_of(both[0])}")
        return not any(codes)

    def _look(self, program: Program, steps: list[int]) -> None:
        """From where a pair went on, if it came so far, and from where it should have."""
        if not program.has_said("compiling"):
            return
        newest = steps[-1] if steps else 0
        if program.has_said(f"going on from step {newest} of") == bool(steps):
            self.survived += self._open
        else:
            self.problems.append(f"did not go on from step {newest}: {_end_of(program)}")
        self._open = 0


def _command(arguments: Sequence[str], workdir: Workdir) -> list[str]:
    return ["train", *arguments, "--workdir", str(workdir.path)]


def _end_of(program: Program) -> str:
    return "".join(program.said[-5:]).strip()


PART = Part(measure, holds)
