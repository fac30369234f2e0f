"""Made-up results, for the tests of what is made from them."""

import json
from pathlib import Path
from typing import Any

from eval.records import Record

PROTOCOL = {
    "batch_norm": "pass",
    "binarisation_seed": 0,
    "split_order": "contiguous",
    "precision": "float32",
}


def record(experiment: str = "vae_mnist", **fields: Any) -> Record:
    """A log-likelihood of the whole MNIST test split, as published but for the number."""
    return Record(
        **{
            "experiment": experiment,
            "task": "likelihood",
            "dataset": "mnist",
            "split": "test",
            "metric": "log_likelihood",
            "value": -86.0,
            "stderr": 0.25,
            "seeds": [0],
            "num_samples": 5000,
            "num_images": 10_000,
            "epochs": 3000,
            "steps": 1_800_000,
            "protocol": PROTOCOL,
            "hardware": "1 core of a test",
            "versions": {"jax": "0.10.2"},
            "commit": "0123456789abcdef",
            "dirty": False,
            "seconds": 100.0,
            "trained": {
                "hardware": "2 cores of a test",
                "seconds": 1234.5,
                "commit": "fedcba9876543210; abcdef0123456789",
                "dirty": True,
            },
            "paper": -85.67,
            "paper_epochs": 3000,
            **fields,
        }
    )


def write(path: Path, records: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([vars(one) for one in records]))


def read(path: Path) -> list[Record]:
    return [Record(**entry) for entry in json.loads(path.read_text())]
