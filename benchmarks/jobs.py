"""The jobs of `python -m benchmarks`, and their rivals.

Images are random, of the sizes that the data sets have, so no folder is needed; what a step costs
does not depend on them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from benchmarks.evaluation import Evaluation
from benchmarks.large_memory import Addressing
from benchmarks.timing import optional, random_bits, random_grey
from benchmarks.training import Epochs
from memjax import configs
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.products import Precision

IN_TORCH = ("torch_eager", "torch_compile")
PYTHAE = "pythae"
AT_FLOAT32 = ("ours_float32", "limit_float32")  # rivals of what is less precise
RIVALS = (*IN_TORCH, PYTHAE, "limit", *AT_FLOAT32)


class Steps(Protocol):
    """What can be timed."""

    def seconds(self, count: int) -> float:
        """Take `count` steps; returns how long they took."""


class Ours(Steps, Protocol):
    """What has rivals."""

    experiment: Experiment

    @property
    def protocol(self) -> dict[str, Any]:
        """Returns what a record says of it, beside its experiment."""

    def limit(self) -> Steps:
        """Returns its matrix products alone."""

    def in_torch(self, module: Any, how: Any) -> Steps:
        """Returns the same by a module of the benchmarks, computed as a `torch_common.How` says."""


class Job(NamedTuple):
    """What is timed beside its rivals.

    Attributes:
        experiment: its name.
        dataset: makes the images.
        module: of the benchmarks, with the same in PyTorch.
        kind: of what is timed.
        in_pythae: whether pythae has the same.
    """

    experiment: str
    dataset: Callable[[], Dataset]
    module: str
    kind: Callable[[Experiment, Dataset], Ours] = Epochs
    in_pythae: bool = False


def make_ours(job: Job, precision: Precision) -> Ours:
    """Ours at a precision of matrix products, compiled and warm."""
    base = configs.get(job.experiment)
    train = dataclasses.replace(base.train, precision=precision)
    return job.kind(dataclasses.replace(base, train=train), job.dataset())


def rivals_of(job: Job, precision: Precision) -> tuple[str, ...]:
    """Those of `RIVALS` that a job has at a precision; pythae computes in float32."""
    missing = AT_FLOAT32 if precision == "float32" else ()
    if not job.in_pythae or precision == "bfloat16":
        missing = (*missing, PYTHAE)
    return tuple(name for name in RIVALS if name not in missing)


def make_rival(name: str, job: Job, ours: Ours) -> Steps:
    """One of `rivals_of` a job at the precision of ours, compiled and warm.

    Raises:
        InputError: torch or pythae is not installed, or torch does not compute where jax does.
    """
    if name in AT_FLOAT32:
        alike = make_ours(job, "float32")
        return alike if name == "ours_float32" else alike.limit()
    if name == "limit":
        return ours.limit()
    how = torch_module("torch_common").How(name == "torch_compile", ours.experiment.train.precision)
    return ours.in_torch(pythae_module() if name == PYTHAE else torch_module(job.module), how)


def torch_module(module: str) -> Any:
    """A module of the benchmarks that is written in torch."""
    return optional(f"benchmarks.{module}", "torch")


def pythae_module() -> Any:
    """The module of the benchmarks that is written with pythae, which is in torch itself."""
    return optional("benchmarks.torch_pythae", "torch", "pythae.models")


_GREY = functools.partial(random_grey, 10_000, 28)
_MNIST = functools.partial(random_bits, 1, 10_000, 28)
_OMNIGLOT = functools.partial(random_bits, 964, 20, 26)
JOBS = {
    **{
        name: Job(name, _GREY, "torch_mem_vae")
        for name in ("mem_vae_mnist", "mem_iwae5_mnist", "mem_iwae50_mnist")
    },
    "iwae50_mnist": Job("iwae50_mnist", _GREY, "torch_mem_vae", in_pythae=True),
    "likelihood_vae_mnist": Job("vae_mnist", _GREY, "torch_mem_vae", Evaluation, in_pythae=True),
    "vma_recall": Job("vma_recall", functools.partial(random_bits, 1, 50_000, 28), "torch_vma"),
    "vma_few_shot": Job("vma_few_shot", _OMNIGLOT, "torch_vma"),
    "avme_mnist": Job("avme_mnist", _MNIST, "torch_writer"),
    "addresses_of_a_million": Job("vma_learned_mnist", _MNIST, "torch_addresses", Addressing),
}
