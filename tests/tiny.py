"""Small models and batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax import sampling
from memjax.models.mem_vae import MemVAE
from memjax.types import Batch, Variables

IMAGE_SHAPE = (3, 4, 1)
SIZES = {"image_shape": IMAGE_SHAPE, "hidden": (8, 6), "latent": 3, "slots": (5, 2)}


def mem_vae(**fields: Any) -> MemVAE:
    return MemVAE(**{**SIZES, **fields})


def vae(**fields: Any) -> MemVAE:
    return mem_vae(slots=(), local_reconstruction=(), **fields)


def batch(count: int = 7) -> Batch:
    """Images of zeros and ones, from places 10, 11, ... of their split."""
    drawn = np.random.default_rng(count).integers(0, 2, (count, *IMAGE_SHAPE))
    return Batch(jnp.asarray(drawn, jnp.float32), 10 + jnp.arange(count))


def keys(examples: Batch, num_samples: int) -> jax.Array:
    return sampling.sample_keys(jax.random.key(7), examples.index, jnp.arange(num_samples))


def variables(model: MemVAE, seed: int = 0) -> Variables:
    """Variables with nothing left at zero, one or the identity, as after some training."""
    created = sampling.initialise(model, jax.random.key(seed), batch(4))
    generator = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * generator.standard_normal(leaf.shape, np.float32),
        created["params"],
    )
    stats = jax.tree.map(
        lambda leaf: jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), jnp.float32),
        created.get("batch_stats", {}),
    )
    return {"params": params, "batch_stats": stats}
