"""Runs of a few steps on thirty grey images of one's own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memjax import configs
from memjax.config import Experiment
from memjax.training import TrainState

# 24 images to train: four steps an epoch, four images left out. Five is no multiple of two, three
# or four, so that the runs take one device.
BATCH_SIZE, STEPS_PER_EPOCH, EPOCHS = 5, 4, 3
STEPS = STEPS_PER_EPOCH * EPOCHS


def write_images(folder: Path, count: int = 30) -> Path:
    path = folder / "grey.npz"
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 3), dtype=np.uint8)
    np.savez(path, images=images)
    return path


def smaller(model: Any, **sizes: Any) -> Any:
    """A model with other sizes, where these have an effect: changes of others are refused."""
    small = model.clone(**sizes)
    return small.clone(**{field: getattr(model, field) for field in small.idle_fields})


def experiment(dataset: Path | str, **train: Any) -> Experiment:
    """MEM-VAE with batch norm, two samples and images binarised anew in every epoch."""
    base = configs.get("mem_vae_digits")
    fields = {"num_epochs": EPOCHS, "batch_size": BATCH_SIZE, "save_every": 1, "log_every": 1}
    found = dataclasses.replace(
        base,
        dataset=str(dataset),
        model=base.model.clone(hidden=(6, 5), latent=2, slots=(3, 2)),
        objective=dataclasses.replace(base.objective, num_samples=2),
        train=dataclasses.replace(base.train, **{**fields, **train}),
    )
    assert found.model.batch_norm and found.data.binarisation == "every_epoch"
    return found


def arguments(dataset: Path | str, workdir: Path | str, **train: Any) -> list[str]:
    """The command line of `experiment`."""
    fields = {"num_epochs": EPOCHS, "batch_size": BATCH_SIZE, "save_every": 1, "log_every": 1}
    options = [f"--train.{name.replace('_', '-')}={v}" for name, v in {**fields, **train}.items()]
    model = ["--model.hidden", "6", "5", "--model.latent", "2", "--model.slots", "3", "2"]
    return [
        *("mem_vae_digits", "--workdir", str(workdir), "--dataset", str(dataset)),
        *(*model, "--objective.num-samples", "2", *options),
    ]


def assert_same_bits(found: TrainState, expected: TrainState) -> None:
    """Parameters, batch statistics, optimiser, step and seed."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, without what the clock decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["steps_per_second"]
    return lines


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, to see that nothing was written or lost."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
