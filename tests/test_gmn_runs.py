"""Training on whole episodes: it learns, and it does not know the devices."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import train
from eval import few_shot, likelihood
from memjax import configs, data, training
from memjax.config import Experiment
from memjax.data import Epochs, WholeEpisodes
from memjax.errors import InputError
from tests import runs, tiny
from train import devices
from train.devices import RunState

SMALL: dict[str, Any] = {"latent": 4, "state": 8, "matching": 6, "prior_hidden": 8, "blocks": 0}
SMALL |= {"maps": (4,), "decoder_maps": (4,), "kernels": (8,), "block_kernels": (3,)}
LENGTH = 3


def experiment(**fields: Any) -> Experiment:
    base = configs.get("gmn_table1")
    few = {"num_epochs": 3, "batch_size": 2 * LENGTH, "save_every": 1, "log_every": 1}
    small = {
        "dataset": "strokes",
        "model": base.model.clone(**SMALL, episode_length=LENGTH),
        "sampler": WholeEpisodes(ways=2, length=LENGTH, steps=20),
        "optimizer": dataclasses.replace(base.optimizer, learning_rate=1e-2, constant_epochs=2),
        "train": dataclasses.replace(base.train, **few),
    }
    return dataclasses.replace(base, **(small | fields))


def test_a_run_learns(tmp_path: Path) -> None:
    train.run(experiment(), str(tmp_path))
    first, *_, last = runs.metrics(tmp_path)
    assert last["objective"] > first["objective"] + 50
    assert last["kl_latent"] >= 0 and "validation_bound" in last
    with pytest.raises(InputError, match="is given its memory with each batch"):
        likelihood(str(tmp_path), num_samples=2)
    sets = {"shots_counted": "total", "num_targets": 2}
    found = few_shot(str(tmp_path), (2,), (3,), **sets, num_episodes=2, num_samples=2)
    assert {one.metric for one in found} >= {"nll", "kl_latent"}
    assert all(np.isfinite(one.value) for one in found)


def gradient(num_devices: int) -> Any:
    """Of one step, from the trace that the optimiser keeps."""
    given = experiment()
    split = data.strokes(num_classes=5, drawings=4)
    keeps = optax.chain(optax.trace(decay=0.0), optax.sgd(0.1))
    model = given.model.clone(image_shape=(28, 28, 1))
    given = dataclasses.replace(given, model=model)
    used = jax.devices()[:num_devices]
    step = devices.make_step(given, keeps, used)
    batch = devices.blank_batch(given, split, 1, num_devices)
    assert batch.context is None and len(batch.images) == 2 * LENGTH // num_devices

    @tiny.quick_jit
    def initial() -> RunState:
        state = training.create_state(model, keeps, batch, seed=3)
        return devices.initial_run_state(model, given.objective, state, batch)

    state = devices.replicate(jax.tree.map(np.asarray, initial()), used)
    plan = given.sampler.plan(0, 0, len(split), 2 * LENGTH)
    call = devices.make_call(given, step, 1, used)
    source = devices.Source.of(given, split, used)
    found = call(state, source, plan, *map(jnp.int32, (0, 0, 1)))
    return jax.tree.map(np.asarray, (found.train.opt_state[0].trace, found.totals))


def test_gradient_does_not_know_the_number_of_devices() -> None:
    one, two = gradient(1), gradient(2)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one[0]))
    assert largest > 1e-2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), one[0], two[0]
    )
    for name, total in one[1].items():
        np.testing.assert_allclose(two[1][name], total, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"sampler": WholeEpisodes(length=2)},
            "^model.episode_length: found 3, expected 2, the images that the sampler draws",
        ),
        ({"sampler": Epochs()}, "^model.episode_length: found 3, expected 1"),
        ({"sampler": WholeEpisodes(length=4)}, "^sampler.length: found 4, expected a divisor"),
        (
            {"sampler": WholeEpisodes(length=3, ways=90, replacement=False)},
            "^ways: found 90, expected at most",
        ),
        (
            {"optimizer": dataclasses.replace(experiment().optimizer, later_rates=(1e-3, 0.0))},
            r"^optimizer.later_rates\[1\]: found 0.0, expected more than 0, and finite",
        ),
    ],
)
def test_what_is_refused_leaves_nothing(fields: Any, message: str, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        train.run(experiment(**fields), str(workdir))
    assert not workdir.exists()
