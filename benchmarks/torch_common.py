"""What the rivals in PyTorch share: where they compute, and how precisely. It imports torch."""

from typing import Any, Literal

import jax
import numpy as np
import torch
from torch import Tensor

from memjax.errors import InputError

Precision = Literal["float32", "tensorfloat32"]


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
    """Of matrix products and convolutions, for the whole process."""
    rounded = precision == "tensorfloat32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    # By itself torch rounds the operands of convolutions.
    torch.backends.cudnn.allow_tf32 = rounded


def wait(where: torch.device) -> None:
    """Until a device has computed everything."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def tensor(array: Any) -> Tensor:
    """A copy of an array of jax or numpy."""
    return torch.from_numpy(np.array(array))
