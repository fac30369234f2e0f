"""What the processes of a pair run: `python -m tests.pair_programs PROGRAM FOLDER --distributed`.

Each program uses several runs, so that the tests start few processes.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax
import tyro

import train
from eval import likelihood
from memjax import config, configs, hosts
from memjax.checkpoint import Checkpoints
from memjax.config import Experiment
from memjax.errors import InputError

from . import runs

IMAGES, BATCH_SIZE, STEPS_PER_EPOCH, STEPS = 80, 12, 5, 10
BLOCKS, SLOTS = 8, 3  # of a memory that devices share out
EVALUATION: dict[str, Any] = {"num_samples": 20, "chunk_size": 7, "batch_size": 4}
ENDLESS: dict[str, Any] = {"batch_size": 12, "num_epochs": 10**6, "save_every": 2}


def experiment(folder: Path, **fields: object) -> Experiment:
    """Ten steps in two epochs of 64 images."""
    found = runs.experiment(folder / "grey.npz", batch_size=BATCH_SIZE, num_epochs=2)
    return dataclasses.replace(found, **fields)


def trained(folder: Path) -> None:
    """One step, ten steps, their evaluation, and what is refused."""
    train.run(experiment(folder), str(folder / "one"), stop_at_step=1)
    state = train.run(experiment(folder), str(folder / "ten"))
    assert all(leaf.is_fully_addressable for leaf in jax.tree.leaves(state))
    likelihood(str(folder / "ten"), **EVALUATION)
    for number, refused in enumerate(_refused(folder)):
        try:
            train.run(refused, str(folder / f"refused_{number}"))
        except InputError as error:
            print(f"refused {number}: {error}", flush=True)
    try:
        with _second_reads_nothing():
            train.run(experiment(folder), str(folder / "ten"))
    except InputError as error:
        print(f"unread: {error}", flush=True)


@contextlib.contextmanager
def _second_reads_nothing() -> Iterator[None]:
    """Let checkpoints be checked in both processes, and restored in the first one alone."""

    def restore(self: Checkpoints, like: object, step: int) -> NoReturn:
        raise InputError(f"step {step}: cannot be restored in process {jax.process_index()}")

    whole = Checkpoints.restore
    if jax.process_index():
        Checkpoints.restore = restore  # type: ignore[method-assign]
    try:
        yield
    finally:
        Checkpoints.restore = whole  # type: ignore[method-assign]


def _refused(folder: Path) -> list[Experiment]:
    """Runs that cannot be, two of them because of one process alone."""
    this = jax.process_index()
    base = experiment(folder)
    ten = config.with_fields(base, {"train": {"batch_size": 10}})
    missing = experiment(folder, dataset=str(folder / "missing.npz"))
    return [experiment(folder, seed=this), missing if this else base, ten]


def resumed(folder: Path, steps: int) -> None:
    """Go on with the run that was killed, take as many steps without a break, and compare."""
    found, expected = (
        train.run(endless(folder), str(folder / name), stop_at_step=steps)
        for name in ("killed", "unbroken")
    )
    assert found.step == steps
    runs.assert_same_bits(found, expected)


def endless(folder: Path) -> Experiment:
    """Epochs without end; of `runs.arguments` with the same fields."""
    return runs.experiment(folder / "grey.npz", **ENDLESS)


def shared(folder: Path) -> None:
    """A run whose memory the devices share out, stopped and gone on with."""
    for last in (3, None):
        train.run(in_blocks(folder), str(folder / "pair"), stop_at_step=last)


def in_blocks(folder: Path) -> Experiment:
    """A learned memory in blocks; two epochs of four steps on forty images."""
    base = configs.get("vma_learned_mnist")
    model = runs.smaller(
        base.model,
        **{"memory_size": BLOCKS * SLOTS, "block_size": SLOTS, "memory_units": 5, "matching": 3},
        **{"hidden": (6, 4), "latent": 2, "memory_scale": 0.3, "embeddings": "learned"},
    )
    few = {"num_epochs": 2, "batch_size": 8, "save_every": 1, "log_every": 1}
    return dataclasses.replace(
        base,
        dataset=str(folder / "grey.npz"),
        data=dataclasses.replace(base.data, binarisation="every_epoch"),
        model=model,
        optimizer=dataclasses.replace(base.optimizer, epsilon=1e-3),
        train=dataclasses.replace(base.train, **few),
    )


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which program, in which folder, and up to which step.

    Attributes:
        program: to run.
        folder: that holds the images.
        steps: of the runs.
        processes: how they find each other.
    """

    program: tyro.conf.Positional[Literal["trained", "resumed", "shared"]]
    folder: tyro.conf.Positional[Path]
    steps: int = STEPS
    processes: hosts.Options = hosts.ALONE


def main() -> int:
    """Join the other process and run a program."""
    arguments = tyro.cli(Arguments)
    arguments.processes.join()
    with hosts.ended_at_once():
        if arguments.program == "trained":
            trained(arguments.folder)
        elif arguments.program == "shared":
            shared(arguments.folder)
        else:
            resumed(arguments.folder, arguments.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
