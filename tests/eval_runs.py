"""A tiny trained run on the 8x8 digits, for the tests of what comes after training."""

import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from etils import epath

import train
from eval import likelihood
from memjax import config, configs, manifest
from memjax.config import Experiment
from memjax.types import Variables

BATCH_SIZE = 125
STEPS_PER_EPOCH = 1297 // BATCH_SIZE
EPOCHS = 2
K, IMAGES = 20, 30
EVALUATION: dict[str, Any] = {
    **{"num_samples": K, "max_images": IMAGES},
    **{"chunk_size": 7, "batch_size": 12},  # neither divides the other
}
SIZES = {"hidden": (16, 12), "latent": 4, "slots": (3, 2)}
NUM_PARAMETERS = (
    (64 * 16 + 16 * 12 + 2 * 12 * 4 + 4 * 12 + 12 * 16 + 16 * 64)  # products
    + (16 + 12 + 2 * 4 + 12 + 16 + 64)  # their biases
    + 2 * (16 + 12 + 12 + 16)  # scale and shift of batch norm
    + (2 * 16 * 3 + 3 + 2 * 12 * 2 + 2)  # slots, their keys and biases
    + 9 * (16 + 12)  # composition
)


class Trained(NamedTuple):
    """A run, as it was asked for and as `train.run` returned it."""

    workdir: Path
    experiment: Experiment
    variables: Variables


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Programs for four virtual devices compile and run slower than for one, on a few cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:1])
        patch.setattr(jax, "local_device_count", lambda *_, **__: 1)
        yield


def experiment(seed: int = 0) -> Experiment:
    base = configs.get("mem_vae_digits")
    changed = {"num_epochs": EPOCHS, "batch_size": BATCH_SIZE, "save_every": 1, "log_every": 1}
    return dataclasses.replace(
        base,
        seed=seed,
        model=base.model.clone(**SIZES),
        train=dataclasses.replace(base.train, **changed),
    )


def trained(folder: Path, seed: int = 0) -> Trained:
    """Train once in a session; `folder` is the session's, nobody writes to what is returned."""
    return _trained(folder, seed)


def evaluated(folder: Path, seed: int = 0) -> Path:
    """A copy of the run's workdir with its likelihood; nobody writes to it either."""
    return _evaluated(folder, seed)


@functools.cache
def _trained(folder: Path, seed: int) -> Trained:
    workdir = folder / f"mem_vae_digits_{seed}"
    with one_device():
        state = train.run(experiment(seed), str(workdir))
    return Trained(workdir, experiment(seed), jax.tree.map(np.asarray, state.variables))


@functools.cache
def _evaluated(folder: Path, seed: int) -> Path:
    workdir = copy(trained(folder, seed), folder / f"evaluated_{seed}")
    with one_device():
        likelihood(str(workdir), **EVALUATION)
    return workdir


def copy(run: Trained, to: Path) -> Path:
    """A workdir that a test may write to."""
    return Path(shutil.copytree(run.workdir, to))


def edit_config(workdir: Path, **fields: Any) -> None:
    """Change fields in config.json, those of a node by a dictionary: `data={"split_seed": 1}`.

    The digest of the images goes, so that other data pass for those of the training. The manifests
    of the checkpoints, which know the fields too, are written anew.
    """
    path = workdir / "config.json"
    document = json.loads(path.read_text())
    del document["data_sha256"]
    for name, value in fields.items():
        old = document["fields"][name]
        document["fields"][name] = old | value if isinstance(value, dict) else value
    path.write_text(json.dumps(document))
    for folder in (workdir / "checkpoints").iterdir():
        manifest.write(epath.Path(folder), int(folder.name), config.flatten(document["fields"]))
