"""What the gradient of the recurrent writer holds at once, over T.

    python -m benchmarks.writing

It is compared with and without rematerialisation, for images of the sizes of MNIST. Results go to
results/benchmarks.json; `python -m benchmarks` times a step.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from etils import epath

from benchmarks.timing import record, run
from eval import records
from eval.records import Record
from eval.text import columns
from memjax import backend, configs, sampling
from memjax.errors import InputError
from memjax.objectives import Pathwise
from memjax.types import Array, Batch, Variables

EXPERIMENT = "avme_mnist"
GIB = 2**30
NUM_SAMPLES = 5  # K of the curve over T


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


def main(steps: tuple[int, ...] = (16, 32, 64), results: str = "results") -> None:
    """Weigh the gradient of the recurrent writer.

    Args:
        steps: T.
        results: folder of benchmarks.json.
    """
    if not steps:
        raise InputError("--steps: found none, expected at least one")
    for number in steps:
        if number not in range(1, 2**31):
            raise InputError(f"--steps: found {number}, expected 1 to {2**31 - 1}")
    path = epath.Path(results) / "benchmarks.json"
    records.check_file(path)
    backend.configure()
    backend.check_devices()
    found = memory(steps)
    records.add(path, found)
    print(columns(_held(found)))


def _held(found: list[Record]) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = [("rematerialised", "T", "GiB")]
    for one in found:
        again = one.protocol["changed"].get("model.rematerialise", False)
        pairs = zip(one.x or [], one.values or [], strict=True)
        made += [(str(again), f"{x:.0f}", f"{value:.3f}") for x, value in pairs]
    return made


if __name__ == "__main__":
    run(main)
