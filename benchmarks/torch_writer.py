"""The writer of `memjax.models.writer` in PyTorch, a rival of `python -m benchmarks`.

AVME with a linear output: same layers, same sizes, same parameters (`load`), same objective. The
image's share of the encoder's gates is computed once here too. It imports torch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import torch_common
from benchmarks.torch_common import How, Training, Weights, tensor
from memjax.config import Experiment
from memjax.data import Dataset
from memjax.models.writer import Writer


class TorchWriter(nn.Module):
    """T steps without windows, labels, slots or a second LSTM."""

    def __init__(self, model: Writer, pixels: int):
        """Take the sizes of `model`, for images of so many pixels."""
        super().__init__()
        self.steps, self.latent = model.steps, model.latent
        self.units = {"encoder": model.encoder_units, "decoder": model.decoder_units}
        encoder, decoder = (4 * units for units in self.units.values())
        self.encoder_of_image = nn.Linear(pixels, encoder, bias=False)
        self.encoder_of_canvas = nn.Linear(pixels, encoder, bias=False)
        self.encoder_of_encoder = nn.Linear(model.encoder_units, encoder)
        self.encoder_of_decoder = nn.Linear(model.decoder_units, encoder, bias=False)
        self.posterior = nn.Linear(model.encoder_units, 2 * model.latent)
        self.decoder_of_latent = nn.Linear(model.latent, decoder, bias=False)
        self.decoder_of_decoder = nn.Linear(model.decoder_units, decoder)
        self.output_layer = nn.Linear(model.decoder_units, pixels)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x | z) and the KL, each `[B]`, of images `[B, pixels]` and noise `[T, B, D]`."""
        of_image = self.encoder_of_image(images)
        canvas, kl = torch.zeros_like(images), images.new_zeros(len(images))
        shapes = {name: (2, len(images), units) for name, units in self.units.items()}
        states = {name: images.new_zeros(shape) for name, shape in shapes.items()}
        (h_enc, c_enc), (h_dec, c_dec) = states["encoder"], states["decoder"]
        for t in range(self.steps):
            gates = of_image + self.encoder_of_canvas(images - torch.sigmoid(canvas))
            gates = gates + self.encoder_of_encoder(h_enc) + self.encoder_of_decoder(h_dec)
            h_enc, c_enc = _lstm(gates, c_enc)
            mean, log_variance = self.posterior(h_enc).chunk(2, dim=-1)
            kl = kl + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
            z = mean + torch.exp(0.5 * log_variance) * noise[t]
            gates = self.decoder_of_latent(z) + self.decoder_of_decoder(h_dec)
            h_dec, c_dec = _lstm(gates, c_dec)
            canvas = canvas + self.output_layer(h_dec)
        loss = functional.binary_cross_entropy_with_logits(canvas, images, reduction="none")
        return -loss.sum(-1), kl

    def load(self, params: Weights) -> None:
        """Take the parameters `params` of the model in jax."""
        with torch.no_grad():
            for name, values in params.items():
                layer = getattr(self, name)
                layer.weight.copy_(tensor(values["kernel"]).T)
                if "bias" in values:
                    layer.bias.copy_(tensor(values["bias"]))


def training(of: Experiment, params: Weights, dataset: Dataset, how: How) -> Training:
    """The model of an experiment in training, from `params` on.

    Args:
        of: the experiment.
        params: of the model in jax.
        dataset: images of zeros and ones.
        how: PyTorch computes.
    """
    where, images = torch_common.device(), torch_common.images_of(dataset).flatten(1)
    module = TorchWriter(of.model, images.shape[1])
    module.load(params)
    module.to(where)
    batch_size = of.train.batch_size

    def draw() -> tuple[Tensor, ...]:
        chosen = torch.randint(len(images), (batch_size,), device=where)
        noise = torch.randn(of.model.steps, batch_size, of.model.latent, device=where)
        return images[chosen].float(), noise

    def loss(images: Tensor, noise: Tensor) -> Tensor:
        log_likelihood, kl = module(images, noise)
        return -(log_likelihood - kl).mean()

    return Training(module, loss, draw, of.optimizer, how)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    entering, kept, candidate, shown = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(kept) * cell + torch.sigmoid(entering) * torch.tanh(candidate)
    return torch.sigmoid(shown) * torch.tanh(cell), cell
