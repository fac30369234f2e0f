"""What training maximises: Terms of K samples, `[K, B]` -> `[B]`, in nats.

The value is the bound minus the mean penalty; the gradient is the estimator of its gradient.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from memjax import bounds
from memjax.errors import InputError
from memjax.types import Array, Terms


def pathwise(terms: Terms) -> Array:
    """The importance-weighted bound of reparameterised samples, minus the mean penalty.

    Args:
        terms: every array `[K, B]`; K = 1 is the ELBO with a sampled KL.

    Returns:
        `[B]`. The gradient weighs the samples by their normalised importance weights.

    Raises:
        InputError: part of the latent variables is not reparameterised.

    Source: Burda, Grosse and Salakhutdinov 2015, equations 8 and 13.
    """
    _require_reparameterised(terms, "pathwise")
    return bounds.iwae_bound(terms.log_weights) - jnp.mean(terms.penalty, axis=0)


def analytic_elbo(terms: Terms) -> Array:
    """The ELBO with the KL in closed form, averaged over K samples, minus the mean penalty.

    Args:
        terms: every array `[K, B]`.

    Returns:
        `[B]`, the same expectation as `pathwise` at K = 1, without the noise of a sampled KL.

    Raises:
        InputError: part of the latent variables is not reparameterised.

    Source: Kingma and Welling 2014, equation 3.
    """
    _require_reparameterised(terms, "analytic_elbo")
    return jnp.mean(terms.log_likelihood - terms.kl - terms.penalty, axis=0)


def _require_reparameterised(terms: Terms, objective: str) -> None:
    if not terms.reparameterised:
        raise InputError(
            f"objective {objective}: the model draws discrete variables, "
            "expected a model whose samples are all reparameterised"
        )


@dataclasses.dataclass(frozen=True)
class Pathwise:
    """Reparameterised gradients of the K-sample bound.

    Attributes:
        num_samples: K, importance samples per example in a training step.
        kl: `sampled` is log q - log p at the drawn z, as the importance-weighted bound needs;
            `analytic` is the closed form, which makes the objective the ELBO for every K.
    """

    num_samples: int = 1
    kl: Literal["sampled", "analytic"] = "sampled"

    def __call__(self, terms: Terms) -> Array:
        return analytic_elbo(terms) if self.kl == "analytic" else pathwise(terms)
