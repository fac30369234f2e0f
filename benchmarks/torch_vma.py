"""The hard addressing of `memjax.models.vma` in PyTorch, a rival of `python -m benchmarks`.

Same layers, same sizes, same parameters (`load`), same objective. What depends on the memory alone
is computed once for its M images here too, unless fewer of them are drawn. Channels come last in
memory, which is what PyTorch's convolutions on CPUs are fastest with. It imports torch.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import torch_common
from benchmarks.torch_common import How, Training, Weights, tensor
from memjax.config import Experiment
from memjax.convolution import layer_shapes
from memjax.data import Dataset, Recall
from memjax.models.vma import VMA


class Pyramid(nn.Module):
    """`convolution.Pyramid` of images `[B, C, H, W]`."""

    def __init__(self, maps: tuple[int, ...], image_shape: tuple[int, int, int]):
        super().__init__()
        shapes = (image_shape, *layer_shapes(maps, image_shape))
        self.even = [shape[0] % 2 == 0 for shape in shapes[:-1]]
        self.layers = nn.ModuleList(
            nn.Conv2d(shapes[i][2], maps[i], 3, 1 + i % 2, int(i % 2 == 0 or not self.even[i]))
            for i in range(len(maps))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """The last maps of each size."""
        features, h = [], images
        for i, layer in enumerate(self.layers):
            if i % 2:
                features.append(h)
                h = functional.pad(h, (0, 1, 0, 1)) if self.even[i] else h
            h = functional.relu(layer(h))
        return [*features, h]


class Mirror(nn.Module):
    """`convolution.Mirror` with skips."""

    def __init__(self, maps: tuple[int, ...], image_shape: tuple[int, int, int], inputs: int):
        super().__init__()
        *shapes, coarsest = (image_shape, *layer_shapes(maps, image_shape))
        self.coarsest, self.sizes = coarsest, [shape[:2] for shape in shapes]
        self.dense = nn.Linear(inputs, math.prod(coarsest))
        self.layers, self.skips = nn.ModuleList(), nn.ModuleList()
        for i, ((height, _, features), channels) in enumerate(zip(shapes, maps, strict=True)):
            if i % 2:
                self.layers.append(nn.ConvTranspose2d(channels, features, 3, 2, height % 2))
                self.skips.append(nn.Conv2d(features, features, 3, 1, 1, bias=False))
            else:
                self.layers.append(nn.Conv2d(channels, features, 3, 1, 1))

    def project(self, features: list[Tensor]) -> list[Tensor]:
        """The skips' share of the upscaling layers."""
        return [skip(f) for skip, f in zip(self.skips, features[:-1], strict=True)]

    def forward(self, vector: Tensor, skips: list[Tensor]) -> Tensor:
        """Logits `[B, C, H, W]`."""
        h = functional.relu(self.dense(vector)).reshape(-1, *self.coarsest).permute(0, 3, 1, 2)
        for i in reversed(range(len(self.layers))):
            h = self.layers[i](h)
            if i % 2:
                height, width = self.sizes[i]
                h = h[:, :, :height, :width] + skips[i // 2]
            h = functional.relu(h) if i else h
        return h


class Reading(NamedTuple):
    """What the networks make of M memory entries.

    Attributes:
        posterior: `[M, D]`, the entries' share of the posterior's first layer.
        prior: `[M, 2 D]`, mean and log-variance of p(z | m).
        decoder: `[M, D]`, what the decoder's first layer takes of them.
        skips: `[M, ...]`, the entries' shares of the decoder's later layers.
    """

    posterior: Tensor
    prior: Tensor
    decoder: Tensor
    skips: list[Tensor]

    def at(self, address: Tensor) -> "Reading":
        """Of the entries at `[N]`."""
        posterior, prior, decoder = (of[address] for of in self[:3])
        return Reading(posterior, prior, decoder, [of[address] for of in self.skips])


class ConvolutionalNetworks(nn.Module):
    """Separate embeddings, one pyramid for all of an entry, skips."""

    def __init__(self, model: VMA):
        super().__init__()
        assert model.embeddings == "separate" and model.pyramids == "shared" and model.skips
        assert model.image_shape is not None and model.image_shape[0] == model.image_shape[1]
        (hidden,), latent, shape = model.hidden, model.latent, model.image_shape
        top = math.prod(layer_shapes(model.maps, shape)[-1])
        self.query_pyramid, self.key_pyramid, self.image_pyramid, self.entry_pyramid = (
            Pyramid(model.maps, shape) for _ in range(4)
        )
        self.query, self.key = (_mlp(top, hidden, model.matching) for _ in range(2))
        self.prior = _mlp(top, hidden, 2 * latent)
        self.posterior_of_image, self.posterior_of_entry = _mlp(top, hidden), _mlp(top, hidden)
        self.posterior_rest, self.entry_vector = _mlp(hidden, 2 * latent), _mlp(top, latent)
        self.mirror = Mirror(model.maps, shape, 2 * latent)

    def embed_images(self, images: Tensor) -> Tensor:
        """`[B, E]`."""
        return self.query(_flat(self.query_pyramid(images)[-1]))

    def embed_entries(self, entries: Tensor) -> Tensor:
        """`[M, E]`."""
        return self.key(_flat(self.key_pyramid(entries)[-1]))

    def read_images(self, images: Tensor) -> Tensor:
        """The targets' share of the posterior's first layer, `[B, D]`."""
        return self.posterior_of_image(_flat(self.image_pyramid(images)[-1]))

    def read_entries(self, entries: Tensor) -> Reading:
        """Everything that depends on the entries alone."""
        features = self.entry_pyramid(entries)
        top = _flat(features[-1])
        of_posterior, skips = self.posterior_of_entry(top), self.mirror.project(features)
        return Reading(of_posterior, self.prior(top), self.entry_vector(top), skips)

    def decode(self, z: Tensor, reading: Reading) -> Tensor:
        """Logits `[N, C, H, W]`."""
        return self.mirror(torch.cat([z, reading.decoder], dim=-1), reading.skips)


class DenseNetworks(nn.Module):
    """Fully connected networks of images, with skips."""

    def __init__(self, model: VMA):
        super().__init__()
        assert model.skips and model.image_shape is not None
        (first, *rest), latent, shape = model.hidden, model.latent, model.image_shape
        pixels = math.prod(shape)
        self.channels, self.height, self.width = shape[2], shape[0], shape[1]
        self.query = _mlp(pixels, *model.hidden, model.matching)
        shared = model.embeddings == "shared"
        self.key = self.query if shared else _mlp(pixels, *model.hidden, model.matching)
        self.prior = _mlp(pixels, *model.hidden, 2 * latent)
        self.posterior_of_image, self.posterior_of_entry = _mlp(pixels, first), _mlp(pixels, first)
        self.posterior_rest = _mlp(first, *rest, 2 * latent)
        self.decoder_of_latent, self.decoder_of_entry = _mlp(latent, first), _mlp(pixels, first)
        sizes = [*itertools.pairwise((first, *rest, pixels))]
        self.decoder_rest = nn.ModuleList(nn.Linear(inputs, units) for inputs, units in sizes)
        self.skip_layers = nn.ModuleList(nn.Linear(pixels, units, bias=False) for _, units in sizes)

    def embed_images(self, images: Tensor) -> Tensor:
        """`[B, E]`."""
        return self.query(_flat(images))

    def embed_entries(self, entries: Tensor) -> Tensor:
        """`[M, E]`."""
        return self.key(_flat(entries))

    def read_images(self, images: Tensor) -> Tensor:
        """The targets' share of the posterior's first layer, `[B, D]`."""
        return self.posterior_of_image(_flat(images))

    def read_entries(self, entries: Tensor) -> Reading:
        """Everything that depends on the entries alone."""
        flat = _flat(entries)
        of_posterior, skips = self.posterior_of_entry(flat), [one(flat) for one in self.skip_layers]
        return Reading(of_posterior, self.prior(flat), self.decoder_of_entry(flat), skips)

    def decode(self, z: Tensor, reading: Reading) -> Tensor:
        """Logits `[N, C, H, W]`."""
        h = self.decoder_of_latent(z) + reading.decoder
        for layer, skip in zip(self.decoder_rest, reading.skips, strict=True):
            h = layer(functional.relu(h)) + skip
        return h.unflatten(1, (self.height, self.width, self.channels)).permute(0, 3, 1, 2)


class TorchVMA(nn.Module):
    """Hard addresses into a memory of images, with a learned query of the prior."""

    def __init__(self, model: VMA):
        """Take the sizes of `model`."""
        super().__init__()
        assert model.addressing == "hard" and model.memory == "episode"
        assert model.prior == "learned_query" and model.similarity == "memory_normalised"
        self.latent = model.latent
        dense = model.kind == "dense"
        self.networks: Any = DenseNetworks(model) if dense else ConvolutionalNetworks(model)
        self.prior_query = nn.Parameter(torch.zeros(1, model.matching))

    def address_log_probs(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """log q(a | x) `[B, M]` and log p(a) `[M]`."""
        keys = functional.normalize(self.networks.embed_entries(context), dim=-1)
        query = self.networks.embed_images(images)
        log_q = functional.log_softmax(query @ keys.T, dim=-1)
        return log_q, functional.log_softmax(self.prior_query @ keys.T, dim=-1)[0]

    def forward(
        self, images: Tensor, context: Tensor, noise: Tensor, address: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log weights and log q(a | x), both `[K, B]`.

        Args:
            images: `[B, C, H, W]`.
            context: `[M, C, H, W]`.
            noise: `[K, B, D]`, of z.
            address: `[K, B]`, drawn from q(a | x) if None.
        """
        num_samples, batch, _ = noise.shape
        log_q, log_p = self.address_log_probs(images, context)
        if address is None:
            address = torch.multinomial(log_q.exp(), num_samples, replacement=True).T
        picked = address.reshape(-1)
        of_image = self.networks.read_images(images)
        reading = self._read(context, picked)
        prior_mean, prior_log_variance = reading.prior.chunk(2, dim=-1)
        h = functional.relu(of_image.repeat(num_samples, 1) + reading.posterior)
        mean, log_variance = self.networks.posterior_rest(h).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * log_variance) * noise.reshape(-1, self.latent)
        logits = self.networks.decode(z, reading)
        target = images.repeat(num_samples, 1, 1, 1)
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        log_prior = log_p[picked] + _log_normal(z, prior_mean, prior_log_variance)
        log_score = log_q.gather(1, address.T).T
        weights = log_prior - loss.sum((1, 2, 3)) - _log_normal(z, mean, log_variance)
        return weights.reshape(num_samples, batch) - log_score, log_score

    def load(self, params: Weights) -> None:
        """Take the parameters `params` of the model in jax."""
        with torch.no_grad():
            self.prior_query.copy_(tensor(params["prior_query"]))
            _load(self.networks, params["networks"])

    def _read(self, context: Tensor, picked: Tensor) -> Reading:
        """Of the entries at `[K * B]`; fewer than there are in memory are read alone."""
        if len(picked) < len(context):
            return self.networks.read_entries(context[picked])
        return self.networks.read_entries(context).at(picked)


def vimco(log_weights: Tensor, log_score: Tensor) -> Tensor:
    """`objectives.vimco` with the arithmetic baseline: `[K, B]` -> `[B]`."""
    num_samples = len(log_weights)
    bound = torch.logsumexp(log_weights, 0) - math.log(num_samples)
    itself = torch.eye(num_samples, dtype=torch.bool, device=log_weights.device)[..., None]
    others = torch.where(itself, -math.inf, log_weights.detach()[None])
    baseline = torch.logsumexp(others, 1) - math.log(num_samples - 1)
    signal = bound.detach() - baseline
    return bound + (signal * (log_score - log_score.detach())).sum(0)


def training(of: Experiment, params: Weights, dataset: Dataset, how: How) -> Training:
    """The model of an experiment in training, from `params` on.

    Args:
        of: the experiment, whose sampler draws episodes of classes or images to recall.
        params: of the model in jax.
        dataset: images of zeros and ones; for episodes of as many drawings of each class, class by
            class.
        how: PyTorch computes.
    """
    where, batch_size = torch_common.device(), of.train.batch_size
    module: Any = TorchVMA(of.model)
    module.load(params)
    module.to(where, memory_format=torch.channels_last)
    episode = (_recall if isinstance(of.sampler, Recall) else _few_shot)(of, dataset)

    def draw() -> tuple[Tensor, ...]:
        noise = (of.objective.num_samples, batch_size, of.model.latent)
        return *episode(), torch.randn(noise, device=where)

    def loss(images: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        return -vimco(*module(images, context, noise)).mean()

    return Training(module, loss, draw, of.optimizer, how)


def _few_shot(of: Experiment, dataset: Dataset) -> Callable[[], tuple[Tensor, Tensor]]:
    """Draws targets `[B, C, H, W]` and a memory `[M, C, H, W]`: other drawings of the classes."""
    labels = dataset.splits["train"].labels
    assert labels is not None, "images of classes"
    images = torch_common.images_of(dataset).unflatten(0, (int(labels.max()) + 1, -1))
    ways, shots = of.sampler.ways, of.sampler.shots
    count = shots + of.train.batch_size // ways

    def draw() -> tuple[Tensor, Tensor]:
        classes = torch.randperm(len(images), device=images.device)[:ways]
        places = torch.rand(ways, images.shape[1], device=images.device).argsort(1)[:, :count]
        drawn = images[classes[:, None], places].float()
        return drawn[:, shots:].flatten(0, 1), drawn[:, :shots].flatten(0, 1)

    return draw


def _recall(of: Experiment, dataset: Dataset) -> Callable[[], tuple[Tensor, Tensor]]:
    """Draws targets `[B, C, H, W]` and the memory `[M, C, H, W]` that they are in."""
    images = torch_common.images_of(dataset)

    def draw() -> tuple[Tensor, Tensor]:
        # An image may be there twice, which costs no more and no less.
        where, size = images.device, of.sampler.memory_size
        context = images[torch.randint(len(images), (size,), device=where)].float()
        return context[torch.randperm(size, device=where)[: of.train.batch_size]], context

    return draw


def _mlp(*features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (inputs, units) in enumerate(itertools.pairwise(features)):
        layers += [nn.ReLU()] * bool(i) + [nn.Linear(inputs, units)]
    return nn.Sequential(*layers)


def _flat(x: Tensor) -> Tensor:
    """In the order of `[B, H, W, C]`."""
    return x.permute(0, 2, 3, 1).flatten(1)


def _log_normal(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    squares = (z - mean).square() * torch.exp(-log_variance)
    return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1)


def _load(module: Any, params: Weights) -> None:
    for name, value in params.items():
        part, _, number = name.rpartition("_")
        if part == "Dense":
            _load(module[2 * int(number)], value)
        elif number.isdigit():
            _load(getattr(module, part)[int(number)], value)
        elif isinstance(value, Mapping):
            _load(getattr(module, name), value)
        elif name == "kernel":
            module.weight.copy_(_kernel(module, tensor(value)))
        else:
            module.bias.copy_(tensor(value))


def _kernel(module: nn.Module, kernel: Tensor) -> Tensor:
    if kernel.ndim == 2:
        return kernel.T
    transposed = isinstance(module, nn.ConvTranspose2d)
    return kernel.permute(2, 3, 0, 1) if transposed else kernel.permute(3, 2, 0, 1)
