"""The memory of a process that trains for long: flat, after its beginning.

The memory of `python -m train` is read whenever it writes a line of metrics.jsonl, through many
thousands of steps with their calls and lines: what is of no file, in memory or swapped
out, since the system may drop pages of libraries at any time. What it frees goes back to the system
(`reliability.trimmed`). Medians over tenths of the run are compared, that of the last with the
lowest after the first two.

The same is measured of a run that saves as well, whose memory does grow: by some MiB over its first
saves, and by about 0.1 MiB with each later one. Of the latter a part is of tensorstore, with which
Orbax writes: it keeps two objects for ever for each entry of what it describes as JSON
(`tensorstore.KvStore.Spec.to_json`, in 0.1.72 as in 0.1.86), and Orbax has it describe where it
writes, and count what it has written, for each array.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from memjax.errors import InputError

from . import processes, trimmed
from .kills import Workdir
from .parts import Figures, Options, Part

STEPS = 20_000
STEPS_PER_EPOCH = 25  # of mem_vae_digits
MOST_GROWTH = 0.01
MOST_GROWTH_WITH_SAVES = 0.03
TENTHS = 10
SAVES = 10
# A line every 50 steps, and many calls an epoch.
ARGUMENTS = (
    *("mem_vae_digits", "--model.hidden", "8", "8", "--model.latent", "2"),
    *("--model.slots", "3", "2", "--train.call-seconds", "0.1", "--train.log-every", "2"),
)


def measure(options: Options, folder: Path, steps: int = STEPS) -> Figures:
    """Train for so many steps, without saves and with them, and read the memory.

    The options do not matter.

    Raises:
        InputError: not on Linux, or with another C library than glibc.
    """
    del options
    if not (Path("/proc/self/status").exists() and trimmed.available()):
        raise InputError("--parts: found memory, which needs Linux and glibc, expected others")
    without = of_tenths(readings(folder / "without", steps, saves=1))
    saving = of_tenths(readings(folder / "saving", steps, SAVES))
    return {
        "steps": steps,
        "growth": round(growth(without), 5),
        "mebibytes": in_mebibytes(without),
        "saves": SAVES,
        "growth_with_saves": round(growth(saving), 5),
        "mebibytes_with_saves": in_mebibytes(saving),
    }


def readings(folder: Path, steps: int, saves: int) -> list[int]:
    """The memory of a run of so many steps at each of its lines, in bytes.

    Args:
        folder: its workdir.
        steps: whole epochs, which the number of saves divides.
        saves: the last of them at the end.
    """
    workdir, epochs = Workdir(folder), steps // STEPS_PER_EPOCH
    length = ["--train.num-epochs", str(epochs), "--train.save-every", str(epochs // saves)]
    command = ["reliability.trimmed", *ARGUMENTS, *length, "--workdir", str(folder)]
    found: list[int] = []
    with processes.started(command) as program, tqdm(total=steps, unit="step") as bar:
        while program.runs_until(lambda: workdir.logged() > bar.n):
            bar.update(workdir.logged() - bar.n)
            found += anonymous(program.pid)
        if code := program.finish():
            raise RuntimeError(f"exit code {code}: {''.join(program.said[-5:])}")
    return found


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


def in_mebibytes(sizes: Sequence[float]) -> list[float]:
    """Bytes, in MiB."""
    return [round(size / 2**20, 1) for size in sizes]


def growth(medians: Sequence[float]) -> float:
    """By how much the last tenth is above the lowest after the first two, as a fraction."""
    return medians[-1] / min(medians[2:]) - 1


def holds(figures: Figures) -> bool:
    """Whether the memory is flat, and what saves keep is little."""
    flat = figures["growth"] < MOST_GROWTH
    return flat and figures["growth_with_saves"] < MOST_GROWTH_WITH_SAVES


PART = Part(measure, holds)
