"""The bound on the validation split."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import bounds, configs, data, sampling, training
from memjax.data import Split
from memjax.types import Batch
from train.shares import Shares
from train.validation import make_validation

from . import tiny

# Ten images: two whole batches of four and a half one.
IMAGES = np.random.default_rng(0).integers(0, 239, (10, *tiny.IMAGE_SHAPE), dtype=np.uint8)
BASE = configs.get("mem_vae_digits")


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("binarisation", ["none", "every_epoch"])
def test_mean_bound_over_the_split(num_devices: int, binarisation: Any) -> None:
    model = tiny.mem_vae()
    experiment = dataclasses.replace(
        BASE,
        seed=5,
        model=model,
        data=dataclasses.replace(BASE.data, binarisation=binarisation),
        train=dataclasses.replace(BASE.train, batch_size=4, validation_samples=3),
    )
    variables = tiny.variables(model)
    validate = make_validation(
        experiment, Split(IMAGES), 238, Shares((), jax.devices()[:num_devices])
    )
    found = validate(variables, experiment.seed)
    # All images at once; the moving averages and one binarisation that belongs to the seed.
    key, index = training.stream(5, "validation"), jnp.arange(10)
    fixed = "none" if binarisation == "none" else "fixed"
    ink = training.stream(5, "validation_binarisation")
    batch = Batch(data.prepare_images(jnp.asarray(IMAGES), index, ink, fixed, 238), index)
    keys = sampling.sample_keys(key, index, jnp.arange(3))
    terms, _ = tiny.terms_and_statistics(model, variables, batch, keys, False)
    expected = float(bounds.iwae_bound(terms.log_weights).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert validate(variables, experiment.seed) == found
