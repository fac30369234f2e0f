"""Training with a memory that is drawn anew for each step."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

import train
from memjax import configs
from memjax.config import Experiment
from memjax.data import Episodes, Epochs, Recall
from memjax.errors import InputError
from memjax.models.vma import VMA
from memjax.objectives import Vimco
from tests import runs


def experiment(name: str, **fields: Any) -> Experiment:
    base = configs.get(name)
    small = {"hidden": (6,), "maps": (2,) * 6, "latent": 2, "matching": 3}
    few = {"num_epochs": 2, "batch_size": 4, "save_every": 1, "log_every": 1}
    given = dataclasses.replace(
        base,
        dataset="strokes",
        model=runs.smaller(base.model, **small),
        train=dataclasses.replace(base.train, **few),
    )
    return dataclasses.replace(given, **fields)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("vma_recall", Recall(60)), ("vma_few_shot", Episodes(ways=2, shots=2, steps=3))],
)
def test_a_run_resumes_in_the_same_bits(name: str, sampler: Any, tmp_path: Path) -> None:
    given = experiment(name, sampler=sampler)
    whole = train.run(given, str(tmp_path / "whole"))
    train.run(given, str(tmp_path / "parts"), stop_at_step=2)
    runs.assert_same_bits(train.run(given, str(tmp_path / "parts")), whole)
    for line in runs.metrics(tmp_path / "whole"):
        assert line["elbo"] <= line["iwae_bound"]
        assert 0 <= line["same_class"] <= 1
        assert line["kl_address"] >= 0 and "validation_bound" in line


def test_a_log_says_how_a_learned_memory_is_used(tmp_path: Path) -> None:
    given = experiment("vma_learned_mnist")
    few = dataclasses.replace(given.train, num_epochs=1, batch_size=500)
    given = dataclasses.replace(given, model=given.model.clone(memory_size=5), train=few)
    train.run(given, str(tmp_path))
    (line,) = runs.metrics(tmp_path)
    # At the start nothing is preferred: nearly even, and never more than ln M.
    for name in ("entropy_prior", "entropy_posterior"):
        assert 0.5 * math.log(5) < line[name] <= math.log(5) + 1e-6
    assert line["dead_entries"] == 0 and "posterior" not in line


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": Vimco(1)}, "objective vimco: found num_samples 1, expected at least 2"),
        ({"sampler": Recall(3)}, "sampler.memory_size: found 3"),
        ({"sampler": Episodes(ways=90)}, "sampler.ways: found 90"),
        ({"sampler": Episodes(ways=4, shots=20)}, "strokes"),
        (
            {"sampler": Episodes(ways=2, shots=2), "model": VMA(memory="learned", hidden=(4,))},
            "model.memory: found learned with Episodes",
        ),
        ({"sampler": Epochs()}, "model.memory: found episode with Epochs"),
        ({"objective": configs.get("vae_ocr").objective}, "objective pathwise: the model draws"),
    ],
)
def test_what_is_refused_leaves_nothing(fields: Any, message: str, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        train.run(experiment("vma_recall", **({"sampler": Recall(60)} | fields)), str(workdir))
    assert not workdir.exists()
