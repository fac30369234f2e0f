"""How much a linear classifier makes of what a recognition network finds in an image."""

import logging
import time
import warnings
from typing import Literal

import numpy as np

from memjax import data, workdirs
from memjax.configs import published
from memjax.data import Split
from memjax.errors import InputError

from . import records
from .activations import activations_of
from .likelihood import with_statistics
from .options import check_at_least, check_choice, check_seeds
from .records import Record
from .run import Own, Run, Step, open_run

# Of lambda. Far beyond (1e-300, 1e300) scikit-learn's solver never ends; in between it takes less
# than a second on the digits.
SMALLEST, LARGEST = 1e-10, 1e3

logger = logging.getLogger("memjax")


def features(
    workdir: str,
    regularisation: float = 1e-4,
    binarise: bool = False,
    data_dir: str | None = None,
    step: Step = "latest",
    batch_norm: Literal["pass", "moving_average"] = "pass",
    binarisation_seed: int = 0,
    seed: int = 0,
    batch_size: int = 1000,
    experiment: Own = None,
) -> list[Record]:
    """Classify test images by a linear support vector machine on a model's features.

    The features are the last hidden layer of the recognition network. The machine is scikit-learn's
    LinearSVC, trained on the training split.

    Args:
        workdir: of a training run on images with labels.
        regularisation: of the machine: lambda, where lambda / 2 times the squared norm of its
            weights is added to the mean squared hinge loss; from 1e-10 to 1e3.
        binarise: grey images once, by a seed, as in training; by default they are taken as they
            are, as by the authors' code.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        batch_norm: as in `eval likelihood`.
        binarisation_seed: of the images.
        seed: of the noise, for features that depend on it, and of the machine.
        batch_size: images together; it changes speed and memory, not the answer.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Returns:
        `accuracy` on the test split.

    Raises:
        InputError: images without labels, or of other classes in the test split, a model that is
            given its memory or the labels, or anything else wrong with an option or the run.

    Source: Li, Zhu and Zhang 2016, appendix A, whose code trains the machine by stochastic gradient
    descent on the hinge loss, with the same lambda.
    """
    check_at_least(batch_size=batch_size)
    check_seeds(seed=seed, binarisation_seed=binarisation_seed)
    check_choice("batch_norm", batch_norm, ("pass", "moving_average"))
    if not SMALLEST <= regularisation <= LARGEST:
        expected = f"expected {SMALLEST:g} to {LARGEST:g}"
        raise InputError(f"--regularisation: found {regularisation}, {expected}")
    run = open_run(workdir, data_dir, step, experiment)
    _check(run)
    started, origin = time.monotonic(), records.here()
    records.check_file(run.workdir / workdirs.RESULTS)
    run, statistics = with_statistics(run, batch_norm)
    binarisation = run.binarisation if binarise else "none"
    found = {
        name: features_of(
            run, run.dataset.splits[name], binarisation, binarisation_seed, seed, batch_size
        )
        for name in ("train", "test")
    }
    right = classified(found, run, regularisation, seed)
    protocol = {
        **statistics,
        "classifier": "LinearSVC",
        "regularisation": regularisation,
        "binarisation_seed": binarisation_seed if binarisation == "fixed" else None,
        "split_order": run.experiment.data.split_order,
        "split_seed": run.experiment.data.split_seed,
        "evaluation_seed": seed,
    }
    written = run.record(
        *("features", "test", "accuracy"),
        value=float(right.mean()),
        stderr=float(right.std(ddof=1) / np.sqrt(len(right))) if len(right) > 1 else None,
        num_images=len(right),
        paper=published.features_accuracy(run.experiment.name, protocol),
        seconds=round(time.monotonic() - started, 1),
        protocol=protocol,
        **origin,
    )
    records.add(run.workdir / workdirs.RESULTS, [written])
    logger.info("%s: accuracy %.2f%%", run.experiment.name, 100 * (written.value or 0.0))
    return [written]


def _check(run: Run) -> None:
    run.check_reads_no_context()
    if classes := getattr(run.model, "num_classes", 0):
        raise InputError(
            f"{run.workdir}: {run.experiment.name} was trained with model.num_classes {classes}, "
            "expected a model whose features do not know the label"
        )
    labels, of_test = (run.dataset.splits[name].labels for name in ("train", "test"))
    if labels is None or of_test is None:
        raise InputError(f"{run.dataset.name}: has no labels, expected images with labels")
    if len(np.unique(labels)) < 2:
        raise InputError(f"{run.dataset.name}: has one class, expected at least two")
    if not np.isin(of_test, labels).all():
        raise InputError(
            f"{run.dataset.name}: has test images of classes without training images, expected the "
            "same classes in both"
        )


def features_of(
    run: Run,
    split: Split,
    binarisation: data.Binarisation,
    binarisation_seed: int,
    seed: int,
    batch_size: int,
) -> np.ndarray:
    """`[N, D]`, the features of every image of a split."""
    return activations_of(
        run, split, ["features"], binarisation, binarisation_seed, seed, batch_size
    )["features"]


def classified(
    found: dict[str, np.ndarray], run: Run, regularisation: float, seed: int
) -> np.ndarray:
    """Whether each test image `[N]` is classified as what it is, 1 or 0."""
    from sklearn.exceptions import ConvergenceWarning  # scikit-learn takes a second to import
    from sklearn.svm import LinearSVC

    # scikit-learn's C multiplies the sum of the losses, where lambda divides their mean.
    machine = LinearSVC(C=1 / (regularisation * len(found["train"])), dual=False, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(found["train"], run.dataset.splits["train"].labels)
    if machine.n_iter_ >= machine.max_iter:
        logger.warning("the machine has not converged in %d iterations", machine.max_iter)
    right = machine.predict(found["test"]) == run.dataset.splits["test"].labels
    return right.astype(np.float64)
