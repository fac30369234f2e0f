"""Values of each image of a split, from log weights of many samples, over the local devices.

The devices are a mesh of two axes: they share the images of a batch, and those that have the same
images share their samples. An image's log weights are gathered before anything is computed from
them, so how the devices share the work is no part of the answer.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from memjax import data, hosts, training
from memjax.errors import InputError
from memjax.evaluation import Likelihood, log_weights_and_diagnostics, summarise
from memjax.types import Array, Batch, Variables

from .chunks import compile_fitting
from .partial import Found, Partial
from .run import Run, evenly_spaced

# Images [B, H, W, C] uint8, their places in the split [B], and their classes [B] if known.
Examples = tuple[Array, Array, Array | None]
IMAGES, SAMPLES = "images", "samples"  # axes of the mesh


class Evaluator:
    """A function of examples, compiled once for each number of them.

    Attributes:
        mesh: of the devices, with the axes `images` and `samples`.
    """

    def __init__(
        self,
        run: Run,
        num_samples: int,
        numbers: list[int],
        seed: int,
        binarisation_seed: int,
        chunk_size: int,
        mesh: Mesh | None = None,
    ):
        """Place the variables.

        Args:
            run: whose model it is.
            num_samples: importance samples of each image.
            numbers: of samples, below that, at which there are bounds.
            seed: of the importance samples.
            binarisation_seed: grey images are binarised once, by this seed.
            chunk_size: samples that a device decodes together, or fewer if those do not fit.
            mesh: from `mesh_of_devices`; all local devices share the images if not given.
        """
        self.mesh = mesh_of_devices() if mesh is None else mesh
        self._run = run
        self._numbers = [*numbers, num_samples]
        self._noise = training.stream(seed, "evaluation")
        self._binarisation = training.stream(binarisation_seed, "evaluation_binarisation")
        self._chunk_size = min(chunk_size, -(-num_samples // self.mesh.shape[SAMPLES]))
        # Restored variables lie on one device, and would not mix with images spread over all.
        self._variables = jax.device_put(run.variables, self._spread())
        self._compiled: dict[int, Any] = {}

    def __call__(self, examples: Examples) -> Found:
        """Values `[..., B]` of B images, a multiple of `together`."""
        examples = jax.device_put(examples, self._spread(IMAGES))
        return self.compiled(examples)(self._variables, examples)

    @property
    def together(self) -> int:
        """The number of devices, or groups of them, that have images of their own."""
        return self.mesh.shape[IMAGES]

    def compiled(self, examples: Examples) -> Any:
        """The compiled function of variables and so many examples."""
        size = len(examples[1])
        if size not in self._compiled:
            self._compiled[size] = compile_fitting(
                lambda chunk: self._over_mesh(chunk).lower(self._variables, examples),
                self._chunk_size,
            )
        return self._compiled[size]

    def _over_mesh(self, chunk: int) -> Any:
        """The values, each device's of its images, from its samples and those of its group."""
        of_image: Any = PartitionSpec(IMAGES)
        bounds: Any = PartitionSpec(None, IMAGES)
        mapped = jax.shard_map(
            functools.partial(self._values, chunk=chunk),
            mesh=self.mesh,
            in_specs=(PartitionSpec(), of_image),
            out_specs=(Likelihood(of_image, of_image, bounds), of_image),
            check_vma=False,  # gathered values are equal on the devices of a group
        )
        return jax.jit(mapped)

    def _values(self, variables: Variables, examples: Examples, chunk: int) -> Found:
        images, index, labels = examples
        run = self._run
        pixels = data.prepare_images(
            images, index, self._binarisation, run.binarisation, run.dataset.maximum
        )
        shared = SAMPLES if self.mesh.shape[SAMPLES] > 1 else None
        batch = Batch(pixels, index, labels)
        return values(run, variables, batch, self._noise, self._numbers, chunk, shared)

    def _spread(self, *axes: str) -> NamedSharding:
        """Arrays spread along their first axis, or copied to all devices."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def values(
    run: Run,
    variables: Variables,
    batch: Batch,
    noise: Array,
    numbers: list[int],
    chunk: int,
    shared: str | None = None,
) -> Found:
    """Values of each image of a batch, from as many samples as the last of some numbers says.

    Args:
        run: whose model it is.
        variables: `params` and `batch_stats`.
        batch: B images.
        noise: a typed key.
        numbers: of samples at which there are bounds.
        chunk: samples that are decoded together.
        shared: axis of the devices that share the samples.
    """
    weights, said = log_weights_and_diagnostics(
        run.model, variables, batch, noise, numbers[-1], chunk, shared
    )
    return summarise(weights, numbers), said


def values_of_one(run: Run, split: str, numbers: list[int]) -> Found:
    """Shapes and kinds of the values of one image of a split; nothing is computed.

    Args:
        run: whose data set it is.
        split: of the data set.
        numbers: of samples at which there are bounds.
    """
    zero = jnp.zeros(1, jnp.int32)
    labels = None if run.dataset.splits[split].labels is None else zero
    batch = Batch(jnp.zeros((1, *run.dataset.image_shape)), zero, labels)
    noise = training.stream(0, "evaluation")
    return jax.eval_shape(
        lambda variables: values(run, variables, batch, noise, numbers, 1), run.variables
    )


def mesh_of_devices(sample_devices: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices in groups of so many that share the samples of their images.

    Args:
        sample_devices: of a group.
        devices: all local ones if not given.

    Raises:
        InputError: the devices cannot be divided into such groups.
    """
    every = np.array(jax.local_devices() if devices is None else devices)
    if sample_devices < 1 or len(every) % sample_devices:
        raise InputError(
            f"--sample-devices: found {sample_devices}, expected a divisor of the "
            f"{len(every)} devices"
        )
    return Mesh(every.reshape(-1, sample_devices), (IMAGES, SAMPLES))


def evaluate_split(
    run: Run,
    evaluate: Evaluator,
    split: str,
    max_images: int | None,
    batch_size: int,
    partial: Partial | None = None,
) -> Found:
    """Evaluate a split batch by batch.

    Each of several processes takes its share of the images; all get the values of all.

    Args:
        run: whose data set it is.
        evaluate: the values of a batch.
        split: of the data set.
        max_images: evaluate so many of them, evenly spaced; all if not given.
        batch_size: images together.
        partial: gets the values of each batch; batches that it has already are left out.
    """
    images, labels = run.dataset.splits[split].images, run.dataset.splits[split].labels
    every = evenly_spaced(len(images), max_images)
    places = every[hosts.share_of(len(every))]
    size = -(-min(batch_size, len(places)) // evaluate.together) * evaluate.together
    partial = Partial() if partial is None else partial
    silent = None if hosts.is_first() else True
    with tqdm(total=len(places), initial=partial.done, unit="image", disable=silent) as bar:
        for first in range(partial.done, len(places), size):
            # The last batch is filled up with the last image, whose copies are dropped.
            index = places[np.minimum(np.arange(first, first + size), len(places) - 1)]
            result = evaluate((images[index], index, None if labels is None else labels[index]))
            kept = min(size, len(places) - first)
            partial.add(jax.tree.map(lambda of, kept=kept: np.asarray(of)[..., :kept], result))
            bar.update(kept)
    assert partial.found is not None, "a split has images"
    return hosts.joined(partial.found, len(every))
