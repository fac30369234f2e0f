"""Training that is killed at any moment: what was saved is there, and it ends in the same bits.

A run is trained without interruption, and once more with SIGKILLs at moments drawn by a seed: while
the process starts, while it compiles, during the first save, during a step, during later saves. The
same command is given after each. Every time the run has to go on from the newest checkpoint that
was whole; at the end the state is compared bit by bit, and metrics.jsonl field by field.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

import memjax
import train
from memjax import workdirs
from memjax.checkpoint import FOLDER

from . import processes
from .parts import Figures, Options, Part
from .processes import Program

Kind = Literal["start", "compilation", "step", "save"]

logger = logging.getLogger("memjax")
# Five epochs of 25 steps between saves, and epochs enough for twenty kills on a busy machine too.
ARGUMENTS = (
    *("mem_vae_digits", "--train.num-epochs", "600", "--train.save-every", "5"),
    *("--train.log-every", "1", "--model.hidden", "60", "60", "--model.latent", "10"),
)
LONGEST_LINE = 2**14  # bytes
UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of checkpoints that are being written
# Before anything is saved, and after: a save before is the first one.
EARLY: tuple[Kind, ...] = ("save", "start", "compilation")
LATE: tuple[Kind, ...] = ("step", "save", "step", "save", "start", "compilation")


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long the phases of an uninterrupted run take, in seconds.

    Attributes:
        start: from the start of the process until it compiles.
        compilation: from then on to the first line of the log.
        interval: from one line of the log to the next.
        save: from the beginning of a save until it is whole.
    """

    start: float
    compilation: float
    interval: float
    save: float


class Workdir:
    """What of a run can be seen from outside while it is going on."""

    def __init__(self, path: Path):
        """The folder need not be there."""
        self.path = path

    def steps(self) -> list[int]:
        """The checkpoints that are whole: orbax gives a folder its name when all is in it."""
        return sorted(int(name) for name in self._checkpoints() if name.isdecimal())

    def unfinished(self) -> set[tuple[str, int]]:
        """Checkpoints that are being written, and when they were last changed."""
        found = set()
        for name in self._checkpoints():
            with contextlib.suppress(FileNotFoundError):  # it is whole by now
                if UNFINISHED in name:
                    found.add((name, (self.path / FOLDER / name).stat().st_ctime_ns))
        return found

    def logged(self) -> int:
        """The step of the last whole line of metrics.jsonl."""
        path = self.path / workdirs.METRICS
        if not path.exists():
            return 0
        with path.open("rb") as file:
            # It is asked for every few milliseconds, of a file that grows.
            file.seek(max(0, path.stat().st_size - LONGEST_LINE))
            lines, _, _ = file.read().rpartition(b"\n")
        return json.loads(lines.splitlines()[-1])["step"] if lines else 0

    def metrics(self) -> list[dict[str, Any]]:
        """Its lines, without what the clock decides.

        Raises:
            ValueError: a line is half a line.
        """
        text = (self.path / workdirs.METRICS).read_text()
        if not text.endswith("\n"):
            raise ValueError(f"{self.path}: ends in half a line")
        lines = [json.loads(line) for line in text.splitlines()]
        return [{name: v for name, v in one.items() if name != "steps_per_second"} for one in lines]

    def _checkpoints(self) -> list[str]:
        folder = self.path / FOLDER
        return [path.name for path in folder.iterdir()] if folder.exists() else []


def plan(kills: int, generator: np.random.Generator) -> list[Kind]:
    """Kinds of moments: a third before the first checkpoint, the others after it."""
    early = [*itertools.islice(itertools.cycle(EARLY), -(-kills // 3))]
    late = [*itertools.islice(itertools.cycle(LATE), kills - len(early))]
    for part in (early, late):
        generator.shuffle(part)
    return early + late


def reference(command: Sequence[str], workdir: Workdir) -> Pace:
    """Train without interruption, and time the phases.

    Raises:
        RuntimeError: it does not end well.
    """
    begun = time.monotonic()
    with processes.started(command) as program:
        program.runs_until(lambda: program.has_said("compiling"))
        compiling = time.monotonic()
        program.runs_until(lambda: workdir.logged() > 0)
        logging_since = time.monotonic()
        program.runs_until(lambda: bool(workdir.unfinished()))
        saving = time.monotonic()
        program.runs_until(lambda: bool(workdir.steps()))
        saved = time.monotonic()
        if code := program.finish():
            raise RuntimeError(f"exit code {code}: {''.join(program.said)}")
    lines = len(workdir.metrics())
    return Pace(
        start=compiling - begun,
        compilation=logging_since - compiling,
        interval=(time.monotonic() - logging_since) / lines,
        save=saved - saving,
    )


class Interrupted:
    """A run that is killed again and again, and what is seen of it.

    Attributes:
        steps_lost: that were logged and had to be taken again.
        problems: what should not be, in words.
        moments: what the run was doing when it was killed, and how often.
        survived: kills after which it went on from the newest whole checkpoint.
    """

    def __init__(self, command: Sequence[str], workdir: Workdir, pace: Pace):
        """Start nothing yet."""
        self._command, self._workdir, self._pace = command, workdir, pace
        self._open = 0  # kills that no process has gone on from yet
        self.steps_lost, self.survived = 0, 0
        self.problems: list[str] = []
        self.moments: Counter[str] = Counter()

    def kill(self, kind: Kind, drawn: float) -> None:
        """Give the command, and kill it at a moment of a kind; `drawn` in [0, 1) says when."""
        steps, unfinished = self._workdir.steps(), self._workdir.unfinished()
        with processes.started(self._command) as program:
            came = {
                "start": lambda: True,
                "compilation": lambda: program.has_said("compiling"),
                # Once something more is saved, so that the run as a whole goes on.
                "step": lambda: bool({*self._workdir.steps()} - {*steps}),
                # A save of this process: one that a kill cut short may still lie there.
                "save": lambda: bool(self._workdir.unfinished() - unfinished),
            }[kind]
            within = {
                "start": self._pace.start,
                "compilation": self._pace.compilation,
                "step": 3 * self._pace.interval,
                "save": self._pace.save,
            }[kind]
            if program.runs_until(came):
                time.sleep(drawn * within)
            killed = program.kill()
        self._look(program, steps)
        if not killed:
            self.problems.append(f"ended before a kill during {kind}: {_end_of(program)}")
            return
        self._open += 1
        if program.has_said("compiling"):  # by then its log is cut back to where it went on
            newest = max(self._workdir.steps(), default=0)
            self.steps_lost += max(0, self._workdir.logged() - newest)
        self.moments[self._found(program, unfinished)] += 1

    def finish(self) -> bool:
        """Give the command once more, and let it come to its end; returns whether it did."""
        steps = self._workdir.steps()
        with processes.started(self._command) as program:
            code = program.finish()
        self._look(program, steps)
        if code:
            self.problems.append(f"exit code {code} at the end: {_end_of(program)}")
        return not code

    def _look(self, program: Program, steps: list[int]) -> None:
        """From where a process went on, if it came so far, and from where it should have."""
        if not program.has_said("compiling"):
            return
        newest = steps[-1] if steps else 0
        expected = f"going on from step {newest} of" if steps else "compiling"
        if program.has_said(expected) and program.has_said("going on") == bool(steps):
            self.survived += self._open
        else:
            self.problems.append(f"did not go on from step {newest}: {_end_of(program)}")
        self._open = 0

    def _found(self, program: Program, unfinished: set[tuple[str, int]]) -> str:
        """What a process was doing when it was killed, as far as it left traces."""
        if self._workdir.unfinished() - unfinished:
            return "save" if self._workdir.steps() else "first save"
        if not program.has_said("compiling"):
            return "start"
        return "step" if program.has_said("steps/s") else "compilation"


def _end_of(program: Program) -> str:
    return "".join(program.said[-5:]).strip()


def measure(options: Options, folder: Path, arguments: Sequence[str] = ARGUMENTS) -> Figures:
    """Train without interruption and with kills, and compare.

    Args:
        options: how many kills, and their seed.
        folder: for the two workdirs.
        arguments: of `python -m train`, but for the workdir.
    """
    whole, broken = Workdir(folder / "whole"), Workdir(folder / "killed")
    generator = np.random.default_rng(options.seed)
    pace = reference(_command(arguments, whole), whole)
    run = Interrupted(_command(arguments, broken), broken, pace)
    for kind in tqdm(plan(options.kills, generator), unit="kill"):
        run.kill(kind, generator.random())
    ended = run.finish()
    for problem in run.problems:
        logger.warning("kills: %s", problem)
    return {
        "kills": sum(run.moments.values()),
        "kills_survived": run.survived,
        "steps_lost": run.steps_lost,
        "moments": dict(sorted(run.moments.items())),
        "problems": run.problems,
        "same_metrics": ended and same_metrics(whole, broken),
        "same_state": ended and same_state(whole.path, broken.path),
    }


def holds(figures: Figures) -> bool:
    """Whether every kill was survived, and the end is the same."""
    same = figures["same_metrics"] and figures["same_state"] and not figures["problems"]
    return same and figures["kills_survived"] == figures["kills"] > 0


def _command(arguments: Sequence[str], workdir: Workdir) -> list[str]:
    return ["train", *arguments, "--workdir", str(workdir.path)]


def same_metrics(one: Workdir, other: Workdir) -> bool:
    """Whether two runs have logged the same lines, whole ones, each once."""
    try:
        return one.metrics() == other.metrics()
    except ValueError as error:
        logger.warning("kills: %s", error)
        return False


def same_state(one: Path, other: Path) -> bool:
    """Whether parameters, batch statistics, optimiser, step and seed are the same bits."""
    # The call of a run that is finished returns its state.
    states = [train.run(memjax.restore(str(path)).experiment, str(path)) for path in (one, other)]
    first, second = (jax.tree.leaves(state) for state in states)
    return len(first) == len(second) and all(map(np.array_equal, first, second))


PART = Part(measure, holds)
