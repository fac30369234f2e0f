"""pythae's IWAE and its estimate of log p(x), rivals of `python -m benchmarks`.

Its networks are those of `benchmarks.torch_mem_vae`, so that what differs is the library: the
samples of a batch, their bound, and how many of them are decoded together. It imports torch and
pythae.
"""

import time

import torch
from pythae.models import IWAE, IWAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor

from benchmarks import torch_common
from benchmarks.evaluation import ByImage, Sizes
from benchmarks.torch_common import How, Training, Weights
from benchmarks.torch_mem_vae import TorchMemVAE
from memjax.config import Experiment
from memjax.data import Dataset


class Encoder(BaseEncoder):
    """q(z | x)."""

    def __init__(self, module: TorchMemVAE):
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> ModelOutput:
        """Of images `[B, pixels]`."""
        mean, log_variance, _ = self.module.encode(images)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """p(x | z)."""

    def __init__(self, module: TorchMemVAE):
        super().__init__()
        self.module = module

    def forward(self, z: Tensor) -> ModelOutput:
        """Of z `[N, D]`."""
        return ModelOutput(reconstruction=torch.sigmoid(self.module.decode(z)))


def make(module: TorchMemVAE, num_samples: int) -> IWAE:
    """pythae's model of our networks without memory, with K samples in training."""
    pixels, latent = module.image_mean.out_features, module.latent
    config = IWAEConfig(
        input_dim=(pixels,),
        latent_dim=latent,
        number_samples=num_samples,
        reconstruction_loss="bce",
    )
    return IWAE(config, Encoder(module), Decoder(module))


def training(of: Experiment, params: Weights, dataset: Dataset, how: How) -> Training:
    """The IWAE of an experiment in training, from `params` on.

    Args:
        of: the experiment, which binarises its images anew in each step.
        params: of the model in jax.
        dataset: grey images.
        how: PyTorch computes.
    """
    where, images = torch_common.device(), torch_common.images_of(dataset).flatten(1)
    module = TorchMemVAE(of.model)
    module.load(params)
    model = make(module, of.objective.num_samples).to(where)
    batch_size = of.train.batch_size

    def draw() -> tuple[Tensor, ...]:
        chosen = torch.randint(len(images), (batch_size,), device=where)
        return (torch.bernoulli(images[chosen].float() / dataset.maximum),)

    def loss(images: Tensor) -> Tensor:
        return model({"data": images}).loss

    return Training(model, loss, draw, of.optimizer, how)


def likelihood(
    of: Experiment, variables: Weights, dataset: Dataset, sizes: Sizes, how: How
) -> ByImage:
    """pythae's `get_nll`, which takes one image after the other, and 100 of its samples together.

    Args:
        of: the experiment.
        variables: `params` and `batch_stats` of the model in jax.
        dataset: whose first training images are evaluated, binarised once.
        sizes: of the evaluation, of which the number of samples is taken.
        how: PyTorch computes.
    """
    where, module = torch_common.device(), TorchMemVAE(of.model)
    module.load(variables["params"], variables["batch_stats"])
    model = make(module, 1).to(where).eval()
    grey = torch_common.images_of(dataset)[: sizes.batch_size].flatten(1).float()
    images = torch.bernoulli(grey / dataset.maximum)
    nll = how.function(model.get_nll)

    def evaluated(count: int) -> float:
        torch_common.wait(where)
        started = time.monotonic()
        with torch.no_grad():
            nll(images[torch.arange(count, device=where) % len(images)], sizes.num_samples)
        torch_common.wait(where)
        return time.monotonic() - started

    evaluated(1)
    return ByImage(evaluated, 1)
