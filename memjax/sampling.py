"""Drawing K samples of the latent variables, and images: the vmap over samples lives here."""

from typing import Any

import jax
import jax.numpy as jnp

from memjax.types import Array, Batch, Generated, Module, Terms, Variables


def example_keys(key: Array, index: Array, sample: Array | int = 0) -> Array:
    """One key per example, the same whichever batch, chunk or device the example is in.

    Args:
        key: a typed key (threefry), folded from the seed and the step by the caller.
        index: `[B]` place of each example in its split.
        sample: the number of the importance sample.

    Returns:
        `[B]` keys.
    """
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), sample))(index)


def sample_keys(key: Array, index: Array, samples: Array) -> Array:
    """`example_keys` of several samples: `[B]` examples, `[K]` numbers of samples -> `[K, B]`."""
    return jax.vmap(lambda sample: example_keys(key, index, sample))(samples)


def sample_terms(
    model: Module, variables: Variables, batch: Batch, keys: Array, train: bool
) -> tuple[Terms, Any]:
    """The Terms of K importance samples, and the batch statistics that came of them.

    The encoder does not depend on the keys, so the vmap computes it once. In training the model
    must name `samples` among its `batch_axes`: batch norm is then over all K * B rows.

    Args:
        model: a linen module that follows `types.Model`.
        variables: `params` and, where there is batch norm, `batch_stats`.
        batch: B examples.
        keys: `[K, B]` typed keys.
        train: whether batch norm uses, and updates, the statistics of this batch.

    Returns:
        Terms with arrays `[K, B]`, and the new `batch_stats` (the old ones if `train` is False).
    """

    def one_sample(sample_keys: Array) -> tuple[Terms, Any]:
        out = model.apply(
            variables,
            batch,
            sample_keys,
            train,
            method=_encode_then_terms,
            mutable=["batch_stats"] if train else False,
        )
        if not train:
            return out, variables.get("batch_stats", {})
        terms, updated = out
        return terms, updated.get("batch_stats", {})

    return jax.vmap(one_sample, axis_name="samples", out_axes=(0, None))(keys)


def sample_terms_of_encoding(
    model: Module,
    variables: Variables,
    batch: Batch,
    encoding: Any,
    keys: Array,
    address: Array | None = None,
) -> Terms:
    """The Terms of K samples of an encoding that is there already; for evaluation.

    Args:
        model: a linen module that follows `types.Model`.
        variables: `params` and `batch_stats`.
        batch: B examples.
        encoding: what `model.encode(batch, train=False)` returned.
        keys: `[K, B]` typed keys.
        address: `[B]`, for a model with addresses: the one that all samples have.

    Returns:
        Terms with arrays `[K, B]`.
    """
    forced = () if address is None else (address,)

    def one_sample(sample_keys: Array) -> Terms:
        return model.apply(variables, batch, encoding, sample_keys, False, *forced, method="terms")

    return jax.vmap(one_sample)(keys)


def initialise(model: Module, key: Array, batch: Batch) -> Variables:
    """The model's variables (`params`, `batch_stats`) at the start of training."""
    keys = example_keys(key, batch.index)
    # Before the first step there is no axis of samples.
    alone = model.clone(batch_axes=tuple(axis for axis in model.batch_axes if axis != "samples"))
    return alone.init(key, batch, keys, True, method=_encode_then_terms)


def blank_batch(image_shape: tuple[int, int, int]) -> Batch:
    """One black image of class 0, with one black image in memory, for the shapes of parameters."""
    image, zero = jnp.zeros((1, *image_shape)), jnp.zeros(1, jnp.int32)
    return Batch(image, zero, labels=zero, context=image)


def generate(
    model: Module,
    variables: Variables,
    key: Array,
    num_images: int,
    context: Array | None = None,
    **chosen: Any,
) -> Generated:
    """Draw images from the prior: means and draws `[num_images, H, W, C]`.

    Args:
        model: a linen module that follows `types.Model`.
        variables: `params` and `batch_stats`.
        key: a typed key.
        num_images: B.
        context: `[M, H, W, C]`, the memory of a model that reads one.
        **chosen: what the model lets one choose, such as `address` or `labels`, `[B]`.
    """
    keys = example_keys(key, jnp.arange(num_images))
    return model.apply(variables, keys, context, **chosen, method="generate")


def reconstruct(model: Module, variables: Variables, batch: Batch, key: Array) -> Array:
    """One reconstruction of each example: means `[B, H, W, C]`."""

    def encode_then_reconstruct(module: Any, batch: Batch, keys: Array) -> Array:
        return module.reconstruct(batch, module.encode(batch, False), keys)

    keys = example_keys(key, batch.index)
    return model.apply(variables, batch, keys, method=encode_then_reconstruct)


def _encode_then_terms(module: Any, batch: Batch, keys: Array, train: bool) -> Terms:
    return module.terms(batch, module.encode(batch, train), keys, train)
