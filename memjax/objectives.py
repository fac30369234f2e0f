"""What training maximises: Terms of K samples, `[K, B]` -> `[B]`, in nats.

The value is the bound minus the mean penalty; the gradient is the estimator of its gradient.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import lax

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


def vimco(terms: Terms, baseline: bounds.Baseline = "arithmetic") -> Array:
    """The importance-weighted bound of samples with a discrete part, minus the mean penalty.

    The reparameterised part has the gradient of `pathwise`, the discrete part a score-function
    gradient whose signal for a sample is what that sample adds to the bound of the others.

    Args:
        terms: every array `[K, B]`, K at least 2; `log_score` is log q of the discrete part.
        baseline: see `bounds.leave_one_out`.

    Returns:
        `[B]`; unbiased for the gradient of the expected bound.

    Raises:
        InputError: K = 1, which leaves no other samples.

    Source: Bornschein et al. 2017, equations 7 and 8. The term -w^(k) of its learning signal is
    the gradient of the bound through log_posterior.
    """
    weights = terms.log_weights
    if weights.shape[0] < 2:
        raise InputError(
            f"objective vimco: found num_samples {weights.shape[0]}, expected at least 2: a "
            "sample is compared with the others"
        )
    bound = bounds.iwae_bound(weights)
    signal = lax.stop_gradient(bound - bounds.leave_one_out(weights, baseline))
    score = terms.log_score - lax.stop_gradient(terms.log_score)  # zero, with a gradient
    return bound + jnp.sum(signal * score, axis=0) - jnp.mean(terms.penalty, axis=0)


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


@dataclasses.dataclass(frozen=True)
class Vimco:
    """Score-function gradients of the K-sample bound for discrete latent variables.

    Attributes:
        num_samples: K, importance samples per example in a training step; at least 2.
        baseline: `arithmetic` is the mean of the other weights (Bornschein et al. 2017),
            `geometric` their geometric mean (Mnih and Rezende 2016).
    """

    num_samples: int = 4
    baseline: bounds.Baseline = "arithmetic"

    def __call__(self, terms: Terms) -> Array:
        return vimco(terms, self.baseline)
