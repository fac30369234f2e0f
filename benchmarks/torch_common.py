"""What the rivals in PyTorch share: where they compute, how precisely, how they train.

It imports torch.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor, nn

from memjax.config import OptimizerConfig
from memjax.data import Dataset
from memjax.errors import InputError
from memjax.products import Precision

Weights = Mapping[str, Any]
# Of the optimiser: what `Optimizer` does, and what changes the learning rate after the first epochs
# and no step's cost.
DONE = ("learning_rate", "b1", "b2", "epsilon", "clip_global_norm", "clip_element")
LATER = ("constant_epochs", "later_rates", "decay")


class How(NamedTuple):
    """How PyTorch computes.

    Attributes:
        compiled: by `torch.compile`, else eager.
        precision: of matrix products and convolutions; `bfloat16` is PyTorch's autocast, whose
            results are bfloat16 where ours are float32.
    """

    compiled: bool = False
    precision: Precision = "float32"

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, computed so."""
        set_precision(self.precision)
        made = torch.compile(function) if self.compiled else function
        if self.precision != "bfloat16":
            return made
        return torch.autocast(device().type, torch.bfloat16)(made)


def device() -> torch.device:
    """The kind of device that jax computes on.

    Raises:
        InputError: it is one that this torch cannot compute on.
    """
    backend = jax.default_backend()
    if backend == "cpu":
        return torch.device("cpu")
    if backend == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise InputError(f"torch: found no {backend}, expected one, as jax computes there")


def set_precision(precision: Precision) -> None:
    """Of matrix products and convolutions of float32, for the whole process."""
    rounded = precision == "tensorfloat32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    # By itself torch rounds the operands of convolutions.
    torch.backends.cudnn.allow_tf32 = rounded


def images_of(dataset: Dataset) -> Tensor:
    """The images to train on, `[N, C, H, W]` uint8, on the device."""
    images = torch.from_numpy(dataset.splits["train"].images)
    return images.permute(0, 3, 1, 2).contiguous().to(device())


def wait(where: torch.device) -> None:
    """Until a device has computed everything."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def tensor(array: Any) -> Tensor:
    """A copy of an array of jax or numpy."""
    return torch.from_numpy(np.array(array))


class Optimizer:
    """Clipping and fused Adam, of `training.make_optimizer` in its first epochs."""

    def __init__(self, parameters: Sequence[nn.Parameter], fields: OptimizerConfig):
        """Take the parameters.

        Raises:
            InputError: a field asks for what is not done here, so that steps would not be the same.
        """
        for field in dataclasses.fields(fields):
            value = getattr(fields, field.name)
            if field.name not in (*DONE, *LATER) and value != field.default:
                raise InputError(
                    f"optimizer.{field.name}: found {value}, expected {field.default}, as the "
                    "rivals in PyTorch have it"
                )
        self._parameters, self._fields = parameters, fields
        self._adam = torch.optim.Adam(
            parameters,
            lr=fields.learning_rate,
            betas=(fields.b1, fields.b2),
            eps=fields.epsilon,
            fused=True,
        )

    def step(self, loss: Tensor) -> None:
        """Go down the gradient of a loss."""
        self._adam.zero_grad()
        loss.backward()
        if self._fields.clip_global_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._fields.clip_global_norm)
        if self._fields.clip_element:
            nn.utils.clip_grad_value_(self._parameters, self._fields.clip_element)
        self._adam.step()


class Training:
    """A model in training, whose steps can be timed."""

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        draw: Callable[[], tuple[Tensor, ...]],
        optimizer: OptimizerConfig,
        how: How,
    ):
        """Compile, take three steps.

        Args:
            module: whose parameters are trained, on the device.
            loss: of what is drawn, a number.
            draw: images and noise of a step, on the device.
            optimizer: its fields; the learning rate stays that of the first epochs.
            how: the loss is computed; its gradient follows.
        """
        self._device, self._draw, self._loss = device(), draw, how.function(loss)
        self._optimizer = Optimizer(list(module.parameters()), optimizer)
        self.seconds(3)

    def loss(self) -> float:
        """Of images and noise that are drawn anew."""
        return self._loss(*self._draw()).item()

    def seconds(self, count: int) -> float:
        """Take `count` steps; returns how long they took."""
        wait(self._device)
        started = time.monotonic()
        for _ in range(count):
            self._optimizer.step(self._loss(*self._draw()))
        wait(self._device)
        return time.monotonic() - started
