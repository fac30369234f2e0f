"""An evaluation shared out over devices: the same numbers, and what the devices tell each other.

    python -m benchmarks.sharing

`eval likelihood` of an untrained mem_vae_mnist, on images of random grey levels, on 1, 2, 4 and 8
devices, which share the images, the samples, or both (`--sample-devices`). On a CPU the devices are
virtual ones of the same machine, so nothing is timed. What is told is read from the compiled
program, and the numbers are compared with those of one device. Results go to
results/benchmarks.json.
"""

import functools
import math
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from benchmarks.evaluation import SIZES, Sizes
from benchmarks.timing import random_grey, run, say
from eval import records
from eval.evaluator import Evaluator, mesh_of_devices
from eval.likelihood import NUMBERS
from eval.options import check_at_least, check_some
from eval.partial import Found
from eval.records import Record
from eval.run import Run
from eval.text import columns
from memjax import backend, configs, sampling
from memjax.errors import InputError
from memjax.types import Batch
from train.runner import fit_to_data

BYTES, DIFFERENCE = "collective_bytes", "largest_difference_nats"
NAMES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
# An operation in a compiled program after its result; what was started has it where it is done.
_COLLECTIVE = re.compile(rf"= (?P<result>[^=]*?) (?:{NAMES})(?:-done)?\(")
_ARRAY = re.compile(r"[a-z]+(?P<bits>\d+)\[(?P<shape>[\d,]*)\]")
Layout = tuple[int, int]  # devices that share images, and those that share an image's samples


def layouts(counts: tuple[int, ...]) -> list[Layout]:
    """All ways to have so many devices share images and samples, the images alone first."""
    return [
        (count // samples, samples)
        for count in sorted({1, *counts})
        for samples in range(1, count + 1)
        if count % samples == 0
    ]


def collective_bytes(program: str) -> int:
    """Bytes of the results of a compiled program's collective operations, on each device."""
    return sum(
        int(array["bits"]) // 8 * math.prod(map(int, filter(None, array["shape"].split(","))))
        for found in _COLLECTIVE.finditer(program)
        for array in _ARRAY.finditer(found["result"])
    )


def untrained(sizes: Sizes) -> Run:
    """A run of mem_vae_mnist at its first step, on a batch of random images."""
    dataset = random_grey(sizes.batch_size, 28)
    experiment = fit_to_data(configs.get("mem_vae_mnist"), dataset)
    batch = Batch(jnp.zeros((1, *dataset.image_shape)), jnp.zeros(1, jnp.int32))
    initialise = jax.jit(functools.partial(sampling.initialise, experiment.model))
    variables = initialise(jax.random.key(0), batch)
    return Run(epath.Path(), experiment, experiment.model, variables, 0, dataset)


def measure(of: Run, layout: Layout, sizes: Sizes) -> tuple[Found, int]:
    """The values of a batch, and the bytes that collectives give each device."""
    mesh = mesh_of_devices(layout[1], jax.local_devices()[: math.prod(layout)])
    numbers = [number for number in NUMBERS if number < sizes.num_samples]
    evaluate = Evaluator(of, sizes.num_samples, numbers, 0, 0, sizes.chunk_size, mesh)
    examples: Any = (of.dataset.splits["test"].images, np.arange(sizes.batch_size), None)
    found = jax.device_get(evaluate(examples))
    return found, collective_bytes(evaluate.compiled(examples).as_text())


def compare(counts: tuple[int, ...], sizes: Sizes) -> list[Record]:
    """What the devices of each layout are told, and how far its numbers are from one device's."""
    of, made = untrained(sizes), list[Record]()
    alone: Any = None
    for layout in layouts(counts):
        say("{} x {} devices".format(*layout))
        (found, _), told = measure(of, layout, sizes)
        nats = np.concatenate([found.log_likelihood[None], found.iwae_bound])
        alone = nats if alone is None else alone
        measured = {BYTES: float(told), DIFFERENCE: float(np.abs(nats - alone).max())}
        made += [_record(of, layout, sizes, name, value) for name, value in measured.items()]
    return made


def _record(of: Run, layout: Layout, sizes: Sizes, metric: str, value: float) -> Record:
    return Record(
        experiment=of.experiment.name,
        task="benchmark",
        dataset=of.dataset.name,
        split="test",
        metric=metric,
        value=value,
        protocol={
            "image_devices": layout[0],
            "sample_devices": layout[1],
            "precision": of.experiment.train.precision,
            **sizes._asdict(),
        },
        **records.here(),
    )


def rows(found: list[Record]) -> list[tuple[str, ...]]:
    """Of a table for the terminal."""
    made: list[tuple[str, ...]] = [("devices for images", "for samples", "what", "value")]
    for one in found:
        layout = (one.protocol["image_devices"], one.protocol["sample_devices"])
        made.append((*map(str, layout), one.metric, f"{one.value:.3g}"))
    return made


def main(
    device_counts: tuple[int, ...] = (1, 2, 4, 8),
    num_samples: int = SIZES.num_samples,
    batch_size: int = 8,
    chunk_size: int = SIZES.chunk_size,
    results: str = "results",
) -> None:
    """Compare an evaluation on several devices with one on one device.

    Args:
        device_counts: numbers of devices; on a CPU there are as many virtual ones as are asked for.
        num_samples: of each image.
        batch_size: images together, a multiple of every number of devices.
        chunk_size: samples that a device decodes together.
        results: folder of benchmarks.json.
    """
    sizes = Sizes(num_samples, batch_size, chunk_size)
    check_some(device_counts=device_counts)
    check_at_least(**sizes._asdict())
    # Before jax is started: it would make as many virtual devices as are asked for.
    for count in device_counts:
        check_at_least(device_counts=count)
        if batch_size % count:
            raise InputError(f"--batch-size: found {batch_size}, expected a multiple of {count}")
    path = epath.Path(results) / "benchmarks.json"
    records.check_file(path)
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", max(device_counts))
    backend.configure()
    backend.check_devices()
    if (there := jax.local_device_count()) < max(device_counts):
        raise InputError(f"--device-counts: found {max(device_counts)}, expected at most {there}")
    found = compare(device_counts, sizes)
    records.add(path, found)
    print(columns(rows(found)))


if __name__ == "__main__":
    run(main)
