"""What the papers publish in tables of their own: nats of a negative log-likelihood, accuracies.

Reference holds the one figure of an experiment; these depend on how it is evaluated.
"""

from collections.abc import Mapping
from typing import Any

SHOTS = (1, 2, 3, 4, 5, 10, 19)


def _table(rows: Mapping[int, tuple[float, ...]]) -> dict[tuple[int, int], float]:
    return {
        (ways, shots): nll
        for ways, values in rows.items()
        for shots, nll in zip(SHOTS, values, strict=True)
    }


# Bornschein et al. 2017, Table 1: negative log-likelihoods in 28x28, by ways and shots. Theirs
# count shots per class (16 classes with 19 images in all could not reach 77.0), those of
# Generative Matching Networks in all.
TABLE_1 = {
    "vma_table1": (
        "per_class",
        _table(
            {
                1: (86.5, 83.0, 79.6, 79.0, 76.5, 76.2, 73.9),
                2: (87.2, 83.3, 80.9, 79.3, 79.1, 77.0, 75.0),
                4: (87.5, 83.3, 81.2, 80.7, 79.5, 78.6, 76.7),
                16: (89.6, 85.1, 81.5, 81.9, 81.3, 79.8, 77.0),
            }
        ),
    ),
    "gmn_table1": (
        "total",
        _table(
            {
                1: (83.3, 78.9, 75.7, 72.9, 70.1, 59.9, 45.8),
                2: (86.4, 84.9, 82.4, 81.0, 78.8, 71.4, 61.2),
                4: (88.3, 87.3, 86.7, 85.4, 84.0, 80.2, 73.7),
            }
        ),
    ),
}
# Section 4.2. The value with memory is the best of several, each with its own shots in training.
FEW_SHOT = {"vae_few_shot": 90.8, "soft_few_shot": 73.4, "vma_few_shot": 68.8}
# Section 4.2, by q(a | x): by ways and shots.
ACCURACY = {(5, 1): 0.91, (5, 5): 0.97, (20, 1): 0.77, (20, 5): 0.90}

# Li, Zhu and Zhang 2016, Table 2: mean squared errors of missing pixels of all test images, after
# 100 passes. Batch norm has the statistics of a batch of guesses, so its size is part of them.
IMPUTATION_PROTOCOL = {"passes": 100, "batch_norm": "batch", "batch_size": 1000}
IMPUTATION = {
    "vae_mnist": {"rect-12": 0.1403, "rand-0.6": 0.0194, "half": 0.0550},
    "mem_vae_mnist": {"rect-12": 0.1362, "rand-0.6": 0.0187, "half": 0.0539},
}

# Appendix A: accuracy of a linear support vector machine on the features of grey images.
FEATURES = {"vae_mnist": 0.9790, "mem_vae_mnist": 0.9803}


def few_shot_nll(experiment: str, protocol: Mapping[str, Any]) -> float | None:
    """The published value for an experiment under a protocol, None if there is none."""
    if experiment == "vae_few_shot":  # whatever is in memory
        return FEW_SHOT[experiment]
    counted, table = TABLE_1.get(experiment, ("", {}))
    if protocol["shots_counted"] != counted:
        return None
    return table.get((protocol["ways"], protocol["shots"]))


def accuracy(experiment: str, protocol: Mapping[str, Any]) -> float | None:
    """The published accuracy by q(a | x) under a protocol, None if there is none."""
    if experiment != "vma_few_shot":
        return None
    return ACCURACY.get((protocol["ways"], protocol["shots"]))


def imputation_mse(experiment: str, protocol: Mapping[str, Any]) -> float | None:
    """The published mean squared error of a missing pixel, None if there is none."""
    # A protocol names its images where they are not all of the split.
    if "images" in protocol or not IMPUTATION_PROTOCOL.items() <= protocol.items():
        return None
    return IMPUTATION.get(experiment, {}).get(protocol["mask"])


def features_accuracy(experiment: str, protocol: Mapping[str, Any]) -> float | None:
    """The published accuracy of a classifier on features, None if there is none."""
    if protocol["binarisation_seed"] is not None or protocol["regularisation"] != 1e-4:
        return None
    return FEATURES.get(experiment)
