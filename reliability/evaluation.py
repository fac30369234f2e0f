"""`eval likelihood` that is killed: it goes on, and comes to the same number.

A small model is trained; copies of its workdir are evaluated with 100,000 samples, one without
interruption and one with a SIGKILL as soon as it has saved something, and another one after it has
saved more.
"""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from memjax import workdirs

from . import processes
from .parts import Figures, Options, Part

SAMPLES, IMAGES, KILLS = 100_000, 64, 2
TRAINING = ("mem_vae_digits", "--train.num-epochs", "2")


def measure(
    options: Options, folder: Path, samples: int = SAMPLES, images: int = IMAGES
) -> Figures:
    """Evaluate without interruption and with kills, and compare; the options do not matter."""
    del options
    whole, broken = folder / "whole", folder / "killed"
    processes.run(["train", *TRAINING, "--workdir", str(whole)])
    shutil.copytree(whole, broken)
    # An image at a time, so that much of the work is saved before its end.
    command = [
        *("eval", "likelihood", "--num-samples", str(samples), "--max-images", str(images)),
        *("--batch-size", "1", "--chunk-size", "500"),
    ]
    processes.run([*command, "--workdir", str(whole)])
    kills, resumed = 0, 0
    for _ in tqdm(range(KILLS), unit="kill"):
        before = _partial(broken)
        with processes.started([*command, "--workdir", str(broken)]) as program:
            program.runs_until(functools.partial(_has_more, broken, before))
            kills += program.kill()
        resumed += before is not None and program.has_said("going on with an evaluation")
    last = processes.run([*command, "--workdir", str(broken)])
    resumed += last.has_said("going on with an evaluation")
    return {
        "samples": samples,
        "images": images,
        "kills": kills,
        "kills_survived": resumed,
        "same_number": _value(whole) == _value(broken) and _same_images(whole, broken),
    }


def holds(figures: Figures) -> bool:
    """Whether it went on after every kill, to the same number."""
    return figures["same_number"] and figures["kills_survived"] == figures["kills"] > 0


def _partial(workdir: Path) -> tuple[str, int] | None:
    """What is saved of an evaluation that goes on: changes with every save."""
    for path in workdir.glob("*.partial"):
        return path.name, path.stat().st_mtime_ns
    return None


def _has_more(workdir: Path, before: tuple[str, int] | None) -> bool:
    return _partial(workdir) not in (None, before)


def _value(workdir: Path) -> float:
    records = json.loads((workdir / workdirs.RESULTS).read_text())
    (found,) = (one["value"] for one in records if one["metric"] == "log_likelihood")
    return found


def _same_images(one: Path, other: Path) -> bool:
    """Whether the values of every image are the same bits."""
    with (
        np.load(next(one.glob("likelihood_*.npz"))) as first,
        np.load(next(other.glob("likelihood_*.npz"))) as second,
    ):
        same = (np.array_equal(first[name], second[name]) for name in first)
        return sorted(first) == sorted(second) and all(same)


PART = Part(measure, holds)
