"""The memory of a process that trains for long: flat, after its beginning.

The memory of `python -m train` is read whenever it writes a line of metrics.jsonl, through many
thousands of steps with their calls, lines, validations and checkpoints: what is of no file, in
memory or swapped out, since the system may drop pages of libraries at any time. What compilation
has left is given back late, and pools grow and shrink with the load: so medians over tenths of the
run are compared, that of the last with the lowest after the first two.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from memjax.errors import InputError

from . import processes
from .kills import Workdir
from .parts import Figures, Options, Part

STEPS = 20_000
STEPS_PER_EPOCH = 25  # of mem_vae_digits
MOST_GROWTH = 0.01
TENTHS = 10
# A line every 50 steps, a validation and a checkpoint every 2,000, many calls an epoch. tensorstore
# keeps some 40 KiB of each save for ever, which more frequent ones would show.
ARGUMENTS = (
    *("mem_vae_digits", "--model.hidden", "8", "8", "--model.latent", "2"),
    *("--model.slots", "3", "2", "--train.call-seconds", "0.1"),
    *("--train.log-every", "2", "--train.save-every", "80"),
)


def measure(options: Options, folder: Path, steps: int = STEPS) -> Figures:
    """Train for so many steps and read the memory; the options do not matter.

    Raises:
        InputError: not on Linux.
    """
    del options
    if not Path("/proc/self/status").exists():
        raise InputError("--parts: found memory, which is read from Linux's /proc, expected others")
    workdir = Workdir(folder / "run")
    epochs = steps // STEPS_PER_EPOCH
    command = ["train", *ARGUMENTS, "--train.num-epochs", str(epochs)]
    readings: list[int] = []
    with (
        processes.started([*command, "--workdir", str(workdir.path)]) as program,
        tqdm(total=steps, unit="step") as bar,
    ):
        while program.runs_until(lambda: workdir.logged() > bar.n):
            bar.update(workdir.logged() - bar.n)
            readings += anonymous(program.pid)
        if code := program.finish():
            raise RuntimeError(f"exit code {code}: {''.join(program.said[-5:])}")
    medians = of_tenths(readings)
    return {
        "steps": workdir.logged(),
        "readings": len(readings),
        "growth": round(growth(medians), 5),
        "mebibytes": [round(median / 2**20, 1) for median in medians],
    }


def anonymous(pid: int) -> list[int]:
    """The bytes of a process that are of no file; nothing if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    sizes = [line.split()[1] for line in lines if line.startswith(("RssAnon:", "VmSwap:"))]
    return [1024 * sum(map(int, sizes))] if sizes else []


def of_tenths(readings: Sequence[int]) -> list[float]:
    """The median of each tenth of the readings, ten of them at least."""
    return [float(np.median(part)) for part in np.array_split(np.array(readings), TENTHS)]


def growth(medians: Sequence[float]) -> float:
    """By how much the last tenth is above the lowest after the first two, as a fraction."""
    return medians[-1] / min(medians[2:]) - 1


def holds(figures: Figures) -> bool:
    """Whether the memory is flat."""
    return figures["growth"] < MOST_GROWTH


PART = Part(measure, holds)
