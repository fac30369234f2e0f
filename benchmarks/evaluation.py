"""The evaluation of a model by importance sampling, which can be timed image by image."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from benchmarks import limit
from benchmarks.limit import Limit
from eval.evaluator import Evaluator, mesh_of_devices
from eval.likelihood import NUMBERS
from eval.run import Run
from memjax import sampling
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.evaluation import log_weights
from memjax.types import Batch
from train.runner import fit_to_data


class Sizes(NamedTuple):
    """Of an evaluation.

    By default a fifth of the images of `eval likelihood` and five times the samples, so that a
    round is shorter and products have as many rows.

    Attributes:
        num_samples: K of each image.
        batch_size: images together.
        chunk_size: samples together.
    """

    num_samples: int = 5000
    batch_size: int = 20
    chunk_size: int = 250


SIZES = Sizes()


class ByImage:
    """Something that takes whole batches of images, timed by the image."""

    def __init__(self, batches: Callable[[int], float], batch_size: int):
        """Take what returns the seconds of so many batches, compiled and warm."""
        self._batches, self._batch_size = batches, batch_size

    def seconds(self, count: int) -> float:
        """The share of `count` images in the time of as many whole batches as hold them."""
        batches = -(-count // self._batch_size)
        return self._batches(batches) * count / (batches * self._batch_size)


class Evaluation:
    """`eval likelihood` of an untrained model on one device, compiled and warm.

    Attributes:
        experiment: of the model.
        sizes: of the evaluation.
        variables: `params` and `batch_stats`.
    """

    def __init__(self, base: Experiment, dataset: Dataset, sizes: Sizes = SIZES):
        """Compile, evaluate a batch."""
        self.experiment, self.sizes = fit_to_data(base, dataset), sizes
        self._dataset, model = dataset, self.experiment.model
        index = np.arange(sizes.batch_size)
        images = dataset.splits["test"].images[: sizes.batch_size]
        self._batch = Batch(jnp.asarray(images / dataset.maximum, jnp.float32), jnp.asarray(index))
        initialise = jax.jit(functools.partial(sampling.initialise, model))
        self.variables = initialise(jax.random.key(0), self._batch)
        self._examples: Any = (images, index, None)
        run = Run(epath.Path(), self.experiment, model, self.variables, 0, dataset)
        numbers = [number for number in NUMBERS if number < sizes.num_samples]
        how = (sizes.num_samples, numbers, 0, 0, sizes.chunk_size)
        self._evaluate = Evaluator(run, *how, mesh_of_devices(devices=jax.local_devices()[:1]))
        self._timed = ByImage(self._batches, sizes.batch_size)
        self._batches(1)

    @property
    def protocol(self) -> dict[str, Any]:
        """What a record says of it."""
        return self.sizes._asdict()

    def seconds(self, count: int) -> float:
        """The share of `count` images in the time of as many whole batches as hold them."""
        return self._timed.seconds(count)

    def limit(self) -> ByImage:
        """The matrix products of encoder and decoder alone, in the same chunks."""
        return ByImage(Limit(limit.products(*self.traced())).seconds, self.sizes.batch_size)

    def traced(self) -> tuple[Any, ...]:
        """The log weights of a batch, as a function and its arguments."""
        size, chunk = self.sizes.num_samples, self.sizes.chunk_size

        def weights(variables: Any, batch: Batch, key: Any) -> Any:
            return log_weights(self.experiment.model, variables, batch, key, size, chunk)

        return weights, self.variables, self._batch, jax.random.key(0)

    def in_torch(self, module: Any, how: Any) -> ByImage:
        """The same by `likelihood` of a module of the benchmarks."""
        variables = jax.device_get(self.variables)
        given = (self.experiment, variables, self._dataset, self.sizes, how)
        return module.likelihood(*given)

    def _batches(self, count: int) -> float:
        started = time.monotonic()
        for _ in range(count):
            found = self._evaluate(self._examples)
        jax.block_until_ready(found)
        return time.monotonic() - started
