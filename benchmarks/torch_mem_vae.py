"""MEM-VAE of `memjax.models.mem_vae` in PyTorch, a rival of `python -m benchmarks`.

Same layers, same sizes, same parameters (`load`), same batch norm, same objective. The moving
variances of batch norm, which training does not read, are PyTorch's own, over n - 1. It imports
torch.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import torch_common
from benchmarks.evaluation import ByImage, Sizes
from benchmarks.torch_common import How, Training, Weights, tensor
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.models.mem_vae import MemVAE


class Hidden(nn.Module):
    """Linear -> batch norm -> scale and shift -> ReLU, of `[N, D_in]`."""

    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int, units: int, model: MemVAE):
        super().__init__()
        self.dense = nn.Linear(inputs, units)
        self.scale, self.shift = nn.Parameter(torch.ones(units)), nn.Parameter(torch.zeros(units))
        self.register_buffer("mean", torch.zeros(units))
        self.register_buffer("variance", torch.ones(units))
        self.momentum, self.epsilon = 1 - model.batch_norm_momentum, model.batch_norm_epsilon

    def forward(self, x: Tensor, record: bool = True) -> Tensor:
        """`[N, D]`; `record` moves the kept statistics."""
        return functional.relu(self._norm(self.dense(x), record, self.scale, self.shift))

    def with_normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what it is before scale and shift, both `[N, D]`."""
        normalised = self._norm(self.dense(x), True)
        return functional.relu(torch.addcmul(self.shift, normalised, self.scale)), normalised

    def _norm(
        self, h: Tensor, record: bool, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        mean, variance = (self.mean, self.variance) if record else (None, None)
        given = (h, mean, variance, scale, shift)
        return functional.batch_norm(*given, self.training, self.momentum, self.epsilon)


class Memory(nn.Module):
    """Slots that are read by a sigmoid attention and composed element by element, then ReLU."""

    def __init__(self, units: int, slots: int):
        super().__init__()
        self.slot_keys = nn.Parameter(torch.empty(units, slots))
        self.slot_bias = nn.Parameter(torch.empty(slots))
        self.slots = nn.Parameter(torch.empty(slots, units))
        self.a, self.c = (nn.Parameter(torch.empty(4, units)) for _ in range(2))
        self.b = nn.Parameter(torch.empty(units))

    def forward(self, h_g: Tensor) -> Tensor:
        """`[N, D]` -> `[N, D]`."""
        h_m = torch.sigmoid(torch.addmm(self.slot_bias, h_g, self.slot_keys)) @ self.slots
        product = h_g * h_m
        a, c = self.a, self.c
        linear = a[0] + a[1] * h_m + a[2] * h_g + a[3] * product
        gate = torch.sigmoid(c[0] + c[1] * h_m + c[2] * h_g + c[3] * product)
        return functional.relu(linear + self.b * gate)


class TorchMemVAE(nn.Module):
    """The model as its defaults have it, but for its sizes, or without memory.

    Layers are ordered from the image up. Outside of training, batch norm takes the kept statistics.
    """

    def __init__(self, model: MemVAE):
        """Take the sizes of `model`."""
        super().__init__()
        assert model.image_shape is not None and all(model.slots) and model.batch_norm
        pixels, hidden = math.prod(model.image_shape), model.hidden
        self.latent = model.latent
        self.local = model.local_reconstruction if any(model.local_reconstruction) else ()
        self.epsilon = model.batch_norm_epsilon
        below, above = (pixels, *hidden[:-1]), (*hidden[1:], model.latent)
        self.recognition, self.generative = (
            nn.ModuleList(Hidden(i, n, model) for i, n in zip(inputs, hidden, strict=True))
            for inputs in (below, above)
        )
        # Without slots a VAE, whose layers are left as they are.
        self.memory = nn.ModuleList(
            Memory(units, count) if count else nn.Identity()
            for units, count in zip(hidden, model.slots or (0,) * len(hidden), strict=True)
        )
        self.posterior_mean = nn.Linear(hidden[-1], model.latent)
        self.posterior_log_variance = nn.Linear(hidden[-1], model.latent)
        self.image_mean = nn.Linear(hidden[0], pixels)

    def forward(
        self, images: Tensor, noise: Tensor, local_noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log weights `[K, B]` and the penalty `[B]` of a training batch.

        Args:
            images: `[B, pixels]`.
            noise: `[K, B, D]`, of z.
            local_noise: `[K, B, D]`, of the z of the local reconstruction error, if the model has
                one.
        """
        mean, log_variance, normalised = self.encode(images)
        log_weights = self.log_weights(images, mean, log_variance, noise)
        if not self.local:
            return log_weights, torch.zeros_like(log_weights[0])
        assert local_noise is not None
        other = self._decode(mean + torch.exp(0.5 * log_variance) * local_noise, record=False)
        return log_weights, self._local_error(normalised, other, len(noise))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean and log-variance of q(z | x), and the hidden layers before scale and shift."""
        h, normalised = images, []
        for layer in self.recognition:
            assert isinstance(layer, Hidden)
            h, before = layer.with_normalised(h)
            normalised.append(before)
        return self.posterior_mean(h), self.posterior_log_variance(h), normalised

    def log_weights(
        self, images: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor
    ) -> Tensor:
        """log p(x, z) - log q(z | x), `[K, B]`, of z at `noise` `[K, B, D]`."""
        z = mean + torch.exp(0.5 * log_variance) * noise
        logits = self.decode(z.flatten(0, 1)).unflatten(0, noise.shape[:2])
        target = images.expand_as(logits)
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        # The constants of log p(z) and log q(z | x) cancel.
        return 0.5 * (noise.square() + log_variance - z.square()).sum(-1) - loss.sum(-1)

    def decode(self, z: Tensor) -> Tensor:
        """Logits `[N, pixels]` of z `[N, D]`."""
        return self.image_mean(self._decode(z)[0])

    def load(self, params: Weights, statistics: Weights | None = None) -> None:
        """Take the parameters of the model in jax, and its batch statistics if there are any."""
        with torch.no_grad():
            for name, values in params.items():
                kind, _, number = name.rpartition("_")
                kind = "memory" if kind == "compose" else kind
                numbered = number.isdigit()
                _load(getattr(self, kind)[int(number)] if numbered else getattr(self, name), values)
            for name, values in (statistics or {}).items():
                kind, _, number = name.rpartition("_")
                _load(getattr(self, kind)[int(number)], values["norm"])

    def _decode(self, z: Tensor, record: bool = True) -> list[Tensor]:
        """The hidden layers `[N, D]` of z `[..., D]`."""
        h, outputs = z.flatten(0, -2), []
        for layer, memory in zip(reversed(self.generative), reversed(self.memory), strict=True):
            h = memory(layer(h, record))
            outputs.append(h)
        return outputs[::-1]

    def _local_error(
        self, normalised: list[Tensor], outputs: list[Tensor], num_samples: int
    ) -> Tensor:
        error = torch.zeros_like(normalised[0][:, 0])
        for weight, of_image, output in zip(self.local, normalised, outputs, strict=True):
            of_z = functional.batch_norm(output, None, None, training=True, eps=self.epsilon)
            of_z = of_z.unflatten(0, (num_samples, -1)).mean(0)
            error = error + weight * (of_image - of_z).square().mean(-1)
        return error


def bound(log_weights: Tensor) -> Tensor:
    """`bounds.iwae_bound`: `[K, B]` -> `[B]`."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def training(of: Experiment, params: Weights, dataset: Dataset, how: How) -> Training:
    """The model of an experiment in training, from `params` on.

    Args:
        of: the experiment, which binarises its images anew in each step.
        params: of the model in jax.
        dataset: grey images.
        how: PyTorch computes.
    """
    where, images = torch_common.device(), torch_common.images_of(dataset).flatten(1)
    module = TorchMemVAE(of.model)
    module.load(params)
    module.to(where)
    batch_size, num_samples = of.train.batch_size, of.objective.num_samples

    # A second z is drawn for the local reconstruction error alone, as in ours.
    shape = (2 if module.local else 1, num_samples, batch_size, of.model.latent)

    def draw() -> tuple[Tensor, ...]:
        chosen = torch.randint(len(images), (batch_size,), device=where)
        noise = torch.randn(shape, device=where)
        return torch.bernoulli(images[chosen].float() / dataset.maximum), *noise

    def loss(images: Tensor, *noise: Tensor) -> Tensor:
        log_weights, penalty = module(images, *noise)
        return -(bound(log_weights) - penalty).mean()

    return Training(module, loss, draw, of.optimizer, how)


def likelihood(
    of: Experiment, variables: Weights, dataset: Dataset, sizes: Sizes, how: How
) -> ByImage:
    """log p(x) of images by importance sampling, in chunks of samples.

    Args:
        of: the experiment.
        variables: `params` and `batch_stats` of the model in jax.
        dataset: whose first training images are evaluated, binarised once.
        sizes: of the evaluation.
        how: PyTorch computes.
    """
    where, module = torch_common.device(), TorchMemVAE(of.model)
    module.load(variables["params"], variables["batch_stats"])
    module.to(where).eval()
    grey = torch_common.images_of(dataset)[: sizes.batch_size].flatten(1).float()
    images = torch.bernoulli(grey / dataset.maximum)
    encode, weigh = how.function(module.encode), how.function(module.log_weights)

    def bounds() -> Tensor:
        mean, log_variance, _ = encode(images)
        weights = []
        for first in range(0, sizes.num_samples, sizes.chunk_size):
            count = min(sizes.chunk_size, sizes.num_samples - first)
            noise = torch.randn(count, *mean.shape, device=where)
            weights.append(weigh(images, mean, log_variance, noise))
        return bound(torch.cat(weights))

    def batches(count: int) -> float:
        torch_common.wait(where)
        started = time.monotonic()
        with torch.no_grad():
            for _ in range(count):
                bounds()
        torch_common.wait(where)
        return time.monotonic() - started

    batches(1)
    return ByImage(batches, sizes.batch_size)


def _load(module: Any, values: Weights) -> None:
    """Parameters of one layer; a dense layer's kernel is transposed."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _load(getattr(module, name), value)
        elif name == "kernel":
            module.weight.copy_(tensor(value).T)
        else:
            getattr(module, name).copy_(tensor(value))
