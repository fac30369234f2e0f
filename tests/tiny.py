"""Small models and batches, and compiled ways to run them (op by op takes ten times as long)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax import sampling
from memjax.models.mem_vae import MemVAE
from memjax.types import Batch, Terms, Variables

IMAGE_SHAPE = (3, 4, 1)
SIZES = {"image_shape": IMAGE_SHAPE, "hidden": (8, 6), "latent": 3, "slots": (5, 2)}

# Compiling takes most of the time, and half as long without optimisation.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
initialise = quick_jit(sampling.initialise, static_argnums=0)
generate = quick_jit(sampling.generate, static_argnums=(0, 3))
reconstruct = quick_jit(sampling.reconstruct, static_argnums=0)
terms_and_statistics = quick_jit(sampling.sample_terms, static_argnums=(0, 4))


def mem_vae(**fields: Any) -> MemVAE:
    return MemVAE(**{**SIZES, **fields})


def vae(**fields: Any) -> MemVAE:
    return mem_vae(slots=(), local_reconstruction=(), **fields)


def batch(count: int = 7) -> Batch:
    """Images of zeros and ones, from places 10, 11, ... of their split."""
    drawn = np.random.default_rng(0).integers(0, 2, (100, *IMAGE_SHAPE))
    return Batch(jnp.asarray(drawn[:count], jnp.float32), 10 + jnp.arange(count))


@jax.jit
def _keys(index: jax.Array, samples: jax.Array) -> jax.Array:
    return sampling.sample_keys(jax.random.key(7), index, samples)


def keys(examples: Batch, num_samples: int) -> jax.Array:
    """`[K, B]`."""
    return _keys(examples.index, jnp.arange(num_samples))


def terms(
    model: MemVAE, variables: Variables, examples: Batch, num_samples: int, train: bool = False
) -> Terms:
    """The Terms of K samples, `[K, B]`."""
    drawn = keys(examples, num_samples)
    return terms_and_statistics(model, variables, examples, drawn, train)[0]


@functools.partial(quick_jit, static_argnums=(0, 4))
def training_gradient(
    model: MemVAE, params: Any, statistics: Any, examples: Batch, num_samples: int
) -> tuple[jax.Array, Any]:
    """The mean objective of a training batch and its gradient."""

    def value(params: Any) -> jax.Array:
        drawn = keys(examples, num_samples)
        variables = {"params": params, "batch_stats": statistics}
        terms, _ = sampling.sample_terms(model, variables, examples, drawn, True)
        return jnp.mean(terms.log_weights - terms.penalty)

    return jax.value_and_grad(value)(params)


@functools.partial(quick_jit, static_argnums=(0, 3))
def encode(model: MemVAE, variables: Variables, examples: Batch, train: bool = False) -> Any:
    found = model.apply(variables, examples, train, method="encode", mutable=["batch_stats"])
    return found[0]


@functools.cache
def variables(model: MemVAE, seed: int = 0) -> Variables:
    """Variables with nothing left at zero, one or the identity, as after some training."""
    alone = model.clone(batch_axes=())
    shapes = jax.eval_shape(lambda: sampling.initialise(alone, jax.random.key(0), batch(4)))
    generator = np.random.default_rng(seed)

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = generator.normal(0, 0.4, leaf.shape)
        # Positive variances, scales around one, shifts that leave most rectified units alive.
        name = path[-1].key
        values += {"scale": 1.0, "shift": 0.5}.get(name, 0.0)
        return jnp.asarray(np.abs(values) + 0.2 if name == "variance" else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(drawn, {"batch_stats": {}, **shapes})
