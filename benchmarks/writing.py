"""What a step of the recurrent writer costs, in seconds and in memory.

    python -m benchmarks.writing                       the part of PyTorch needs: pip install torch

- `step`: a step of avme_mnist and of the same model in PyTorch, eager and compiled.
- `memory`: what the gradient of a step holds at once, over T, with and without rematerialisation.

Images are random bits; what a step costs does not depend on them. Rounds of what is compared
alternate, and the median is taken. Results go to results/benchmarks.json.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from etils import epath

from benchmarks.timing import (
    alternate,
    check_rounds,
    random_bits,
    record,
    rival_in_torch,
    rows,
    run,
    say,
    with_torch,
)
from benchmarks.training import Epochs
from eval import records
from eval.records import Record
from eval.text import columns
from memjax import backend, configs, sampling
from memjax.errors import InputError
from memjax.objectives import Pathwise
from memjax.types import Array, Batch, Variables

Part = Literal["step", "memory"]
EXPERIMENT = "avme_mnist"
GIB = 2**30
NUM_SAMPLES = 5  # K of the curve over T


def step(rounds: int) -> list[Record]:
    """A step of avme_mnist, and the same in PyTorch.

    Raises:
        InputError: torch is not installed.
    """
    rival = rival_in_torch("benchmarks.torch_writer", "step")
    experiment, dataset = configs.get(EXPERIMENT), random_bits(1, 10_000, 28)
    ours = Epochs(experiment, dataset)
    images = dataset.splits["train"].images.reshape(10_000, -1)
    size = experiment.train.batch_size
    theirs = [
        rival.TorchSteps(ours.experiment.model, ours.params, images, size, compiled)
        for compiled in (False, True)
    ]
    say("step")
    found = alternate([one.seconds for one in (ours, *theirs)], rounds)
    names = ("step_seconds", "step_seconds_torch_eager", "step_seconds_torch_compiled")
    made = [record(experiment, name, times) for name, times in zip(names, found, strict=True)]
    return [made[0], *(with_torch(one) for one in made[1:])]


def memory(steps: Sequence[int]) -> list[Record]:
    """Memory of one gradient at K = 5 over T, with and without rematerialisation.

    It is what the compiler sets aside for everything between the inputs and the outputs.
    """
    made = []
    for rematerialise in (False, True):
        held = [gradient_gib(number, rematerialise) for number in steps]
        base = configs.get(EXPERIMENT)
        model = dataclasses.replace(base.model, rematerialise=rematerialise)
        experiment = dataclasses.replace(base, model=model, objective=Pathwise(NUM_SAMPLES))
        one = record(experiment, "gradient_gib_by_steps", [0.0])
        x = [float(number) for number in steps]
        made.append(dataclasses.replace(one, value=None, x=x, values=held))
    return made


def gradient_gib(steps: int, rematerialise: bool) -> float:
    """GiB of temporaries of the gradient of avme_mnist with so many steps of writing."""
    experiment = configs.get(EXPERIMENT)
    model = experiment.model.clone(
        image_shape=(28, 28, 1), steps=steps, rematerialise=rematerialise
    )
    size = experiment.train.batch_size
    batch = Batch(jnp.zeros((size, 28, 28, 1)), jnp.arange(size))
    objective = Pathwise(NUM_SAMPLES)

    def loss(variables: Variables) -> Array:
        keys = sampling.sample_keys(jax.random.key(0), batch.index, jnp.arange(NUM_SAMPLES))
        return -objective(sampling.sample_terms(model, variables, batch, keys, False)[0]).mean()

    shapes = jax.eval_shape(lambda: sampling.initialise(model, jax.random.key(0), batch))
    compiled = jax.jit(jax.grad(loss)).lower(shapes).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None, "XLA knows it on every backend"
    return round(analysis.temp_size_in_bytes / GIB, 4)


def main(
    parts: tuple[Part, ...] = ("step", "memory"),
    rounds: int = 7,
    steps: tuple[int, ...] = (16, 32, 64),
    results: str = "results",
) -> None:
    """Time the steps of the recurrent writer, and weigh its gradient.

    Args:
        parts: what to measure.
        rounds: of which the median is taken.
        steps: T, for memory.
        results: folder of benchmarks.json.
    """
    check_rounds(rounds)
    for name, given in (("parts", parts), ("steps", steps)):
        if not given:
            raise InputError(f"--{name}: found none, expected at least one")
    for number in steps:
        if number < 1:
            raise InputError(f"--steps: found {number}, expected at least 1")
    path = epath.Path(results) / "benchmarks.json"
    records.check_file(path)
    backend.configure()
    measured: dict[Part, Callable[[], list[Record]]] = {
        "step": lambda: step(rounds),
        "memory": lambda: memory(steps),
    }
    for part in parts:
        found = measured[part]()
        records.add(path, found)
        print(columns(rows(found)) if part == "step" else columns(_held(found)))


def _held(found: list[Record]) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = [("rematerialised", "T", "GiB")]
    for one in found:
        again = one.protocol["changed"].get("model.rematerialise", False)
        pairs = zip(one.x or [], one.values or [], strict=True)
        made += [(str(again), f"{x:.0f}", f"{value:.3f}") for x, value in pairs]
    return made


if __name__ == "__main__":
    run(main)
