"""What models, objectives and evaluators hand to each other.

Shape notation, everywhere in memjax:

  N  devices            pmap in train/, a mesh in eval/
  K  samples of z       vmap in sampling.py
  B  examples           written by hand in the models
  M  memory slots or addresses
  D  units of a layer or dimensions of z
  T  writer steps       scan in the writer; or images of an episode, by hand
  C  samples per chunk  scan in the evaluator
  H, W, C  height, width and channels of an image, always the last three axes

Outer axes come first: `[K, B, ...]`. All log-probabilities and bounds are in nats.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Protocol, TypeVar

import flax.struct
import jax
import tyro

Array = jax.Array
Variables = Mapping[str, Any]
Module = Any  # a linen module that follows the protocol Model, below
T = TypeVar("T")

# A field of a model that the program sets (from the data, from the training step): it is not
# offered on the command line.
SetByProgram = Annotated[T, tyro.conf.Fixed, tyro.conf.Suppress]


@flax.struct.dataclass
class Batch:
    """One batch of examples.

    Attributes:
        images: `[B, H, W, C]` float32 in [0, 1], binarised where the likelihood asks for it.
        index: `[B]` int32, the place of each example in its split; it seeds the example's noise.
        labels: `[B]` int32 or None.
        context: `[M, H, W, C]` images of the episode, shared by the whole batch, or None.
        context_labels: `[M]` int32 or None; equal numbers in `labels` are the same class.
    """

    images: Array
    index: Array
    labels: Array | None = None
    context: Array | None = None
    context_labels: Array | None = None


@flax.struct.dataclass
class Terms:
    """The terms of one importance sample for each example, in nats.

    Every array is `[B]`, and `[K, B]` after the vmap over samples.

    Attributes:
        log_likelihood: log p(x | z, a).
        log_prior: log p(z, a).
        log_posterior: log q(z, a | x).
        log_score: log q of the part of (z, a) that is not reparameterised; zeros if none.
        kl: KL(q || p), analytic where known, else `log_posterior - log_prior`.
        penalty: what the objective subtracts beside the bound (local reconstruction), or zeros.
        diagnostics: name -> `[B]`, logged and never trained on. A learned memory's `posterior` is
            q(a | x), `[B, M]`, in training alone: its mean is logged as `memory.usage`.
        reparameterised: True where gradients flow through every sample, so that `log_score` is
            zero and the pathwise objectives are unbiased.
    """

    log_likelihood: Array
    log_prior: Array
    log_posterior: Array
    log_score: Array
    kl: Array
    penalty: Array
    diagnostics: Mapping[str, Array] = flax.struct.field(default_factory=dict)
    reparameterised: bool = flax.struct.field(pytree_node=False, default=True)

    @property
    def log_weights(self) -> Array:
        """log p(x, z, a) - log q(z, a | x), the log importance weights."""
        return self.log_likelihood + self.log_prior - self.log_posterior


@flax.struct.dataclass
class Generated:
    """Images drawn from a model.

    Attributes:
        means: `[B, H, W, C]`, the mean of p(x | z).
        draws: `[B, H, W, C]`, one draw of p(x | z).
        canvases: `[T, B, H, W, C]` the writer's steps, or None.
    """

    means: Array
    draws: Array
    canvases: Array | None = None


class Model(Protocol):
    """What a generative model must offer; linen modules called through `module.apply`.

    A model sees one batch, one sample and no device. `Encoding` is whatever `encode` returns: it
    is free of noise, so that evaluation computes it once for thousands of samples.

    Attributes:
        image_shape: (H, W, C), filled in from the data.
        precision: of matrix products, filled in from `train.precision`.
        batch_axes: mapped axes that batch norm averages over, filled in by the training step.

    A model with batch norm also has `batch_norm_momentum`, which the statistics pass sets to 0. One
    whose fields do not all have an effect has `idle_fields`, the names of those that have none and
    what would give them one; a run that changes them is refused.
    """

    image_shape: tuple[int, int, int] | None
    precision: str
    batch_axes: tuple[str, ...]

    def encode(self, batch: Batch, train: bool) -> Any: ...

    def terms(self, batch: Batch, encoding: Any, keys: Array, train: bool) -> Terms: ...

    def reconstruct(self, batch: Batch, encoding: Any, keys: Array) -> Array: ...

    def generate(self, keys: Array, context: Array | None = None) -> Generated: ...

    def activations(self, batch: Batch, encoding: Any, keys: Array) -> dict[str, Array]: ...


def idle_fields(conditions: Mapping[str, tuple[bool, Iterable[str]]]) -> dict[str, str]:
    """The fields that have no effect, each with the condition that is not met.

    Args:
        conditions: what it takes -> whether it is so, and the fields that have no effect without.
    """
    return {
        name: wanted for wanted, (met, names) in conditions.items() if not met for name in names
    }


class Objective(Protocol):
    """Turns the Terms of K samples into what is maximised.

    Attributes:
        num_samples: K, the number of samples that a training step draws for each example.
    """

    @property
    def num_samples(self) -> int: ...

    def __call__(self, terms: Terms) -> Array: ...
