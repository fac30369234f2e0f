"""Missing pixels of test images, guessed by one model or by several side by side."""

import hashlib
import logging
import re
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from etils import epath
from tqdm import tqdm

from memjax import data, plots, training
from memjax.configs import published
from memjax.data.files import DAMAGE, read_bytes, read_npy
from memjax.errors import InputError
from memjax.evaluation.imputation import impute, missing_at_random
from memjax.types import Array, Batch, Variables
from memjax.workdirs import RESULTS, check_writable

from . import records
from .compare import named
from .files import save_figure
from .likelihood import with_statistics
from .options import check_at_least, check_choice, check_picture, check_seeds
from .records import Record
from .run import Run, Step, check_same_images, evenly_spaced, open_run, said_of_images

BatchNorm = Literal["batch", "pass", "moving_average"]
SHOWN = 64  # images in each panel of the picture

logger = logging.getLogger("memjax")


def imputation(
    workdirs: tyro.conf.Positional[tuple[str, ...]],
    mask: str = "rect-12",
    num_passes: int = 100,
    max_images: int | None = None,
    output: str | None = None,
    data_dir: str | None = None,
    step: Step = "latest",
    batch_norm: BatchNorm = "batch",
    seed: int = 0,
    batch_size: int = 1000,
) -> list[Record]:
    """Guess missing pixels of test images; writes results.json in each workdir, and a picture.

    Grey images are not binarised. All runs miss the same pixels and begin with the same noise.

    Args:
        workdirs: of training runs on the same data set.
        mask: what is missing: rect-N, a square of NxN pixels in the middle; rand-P, each pixel
            with probability P; half, the left one; or the path of an .npy file, `[H, W]` or
            `[H, W, C]`, that is 1 where a pixel is missing and 0 elsewhere.
        num_passes: of the Markov chain.
        max_images: so many of them, evenly spaced; all if not given.
        output: the PNG; imputation_<mask>.png in the first workdir if not given.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        batch_norm: batch takes the statistics of each batch of guesses, as the first paper's code
            does; pass those of the training set in one batch; moving_average those of training.
        seed: of the noise, and of what is missing at random.
        batch_size: most images together, in batches as even as can be; part of the answer if batch
            norm has their statistics.

    Returns:
        Of each run `mse`, the mean squared error of a missing pixel, and `mse_by_pass`.

    Raises:
        InputError: no workdirs, runs on different data, a mask that does not fit the images, a
            batch of one image whose statistics batch norm would take, a picture that cannot be
            written, or anything else wrong with an option or a run.
    """
    check_at_least(num_passes=num_passes, max_images=max_images, batch_size=batch_size)
    check_seeds(seed=seed)
    check_choice("batch_norm", batch_norm, ("batch", "pass", "moving_average"))
    check_picture(output)
    runs = [open_run(workdir, data_dir, step) for workdir in workdirs]
    if not runs:
        raise InputError("imputation: found no workdirs, expected at least one")
    check_same_images(runs)
    mask, fixed = read_mask(mask, runs[0].dataset.image_shape)
    batches = in_batches(len(runs[0].dataset.splits["test"]), max_images, batch_size)
    for run in runs:
        run.check_reads_no_context()
        if batch_norm == "batch":
            _check_batches(run, batches, batch_size)
        records.check_file(run.workdir / RESULTS)
    path = epath.Path(output) if output else runs[0].workdir / f"imputation_{mask}.png"
    check_writable(path)
    written: list[Record] = []
    panels: dict[str, np.ndarray] = {}
    for run, title in named(runs):
        chain = Chain(run, mask, fixed, num_passes, batch_norm, seed, batches)
        new, shown = chain.over_images()
        written += new
        panels |= {"original": shown["original"], "missing": shown["missing"]}
        panels[f"guesses of {title}"] = shown["last"]
        logger.info("%s, %s: mean squared error %.4f", title, mask, new[0].value)
    save_figure(plots.panels(panels), path)
    print(path)
    return written


def in_batches(size: int, most: int | None, batch_size: int) -> list[np.ndarray]:
    """Places `[B]` of the images of each batch, at most `batch_size`, the largest batches first.

    As even as can be: a last batch of what is left over would have statistics of few images.

    Args:
        size: images of the split.
        most: so many of them, evenly spaced; all if None.
        batch_size: B at most.
    """
    places = evenly_spaced(size, most)
    return np.array_split(places, -(-len(places) // batch_size))


def _check_batches(run: Run, batches: list[np.ndarray], batch_size: int) -> None:
    """Raises InputError where batch norm would take the statistics of one image: no variance."""
    if len(batches[-1]) == 1 and jax.tree.leaves(run.variables.get("batch_stats", {})):
        count = sum(map(len, batches))
        raise InputError(
            f"--batch-norm: found batch with a batch of one image (of {count}, by --batch-size "
            f"{batch_size}), expected at least 2 images in each, or pass or moving_average"
        )


def read_mask(mask: str, image_shape: tuple[int, int, int]) -> tuple[str, np.ndarray | float]:
    """The name of a mask, and what is missing: bool `[H, W, C]`, or the probability of each pixel.

    A file is named after its contents too, so that two are never taken for one.

    Raises:
        InputError: an unknown name, a size or probability out of range, or a file that does not
            fit.
    """
    height, width, _ = image_shape
    missing = np.zeros((height, width, 1), bool)
    if mask == "half":
        missing[:, : width // 2] = True
    elif match := re.fullmatch(r"rect-(\d{1,9})", mask):
        side = int(match[1])
        if not 1 <= side <= min(height, width):
            raise InputError(
                f"--mask: found {mask}, expected rect-1 to rect-{min(height, width)} in images of "
                f"{height}x{width}"
            )
        top, left = (height - side) // 2, (width - side) // 2
        missing[top : top + side, left : left + side] = True
        mask = f"rect-{side}"
    elif match := re.fullmatch(r"rand-(\d*\.?\d+)", mask):
        if not 0 < (probability := float(match[1])) <= 1:
            raise InputError(f"--mask: found {mask}, expected a probability above 0 and up to 1")
        return f"rand-{probability:g}", probability
    elif mask.endswith(".npy"):
        missing = _mask_of_file(mask, image_shape)
        digest = hashlib.sha256(np.ascontiguousarray(missing).tobytes()).hexdigest()
        # It names a picture, also where a backslash parts folders.
        mask = f"{epath.Path(mask).stem[:80]}-{digest[:8]}".replace("\\", "_")
    else:
        raise InputError(
            f"--mask: found {mask}, expected rect-N, rand-P, half or the path of an .npy file"
        )
    return mask, np.broadcast_to(missing, image_shape)


def _mask_of_file(path: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    try:
        found = read_npy(read_bytes(epath.Path(path)))
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read as an .npy file ({error})") from error
    if found.shape not in (image_shape, image_shape[:2]):
        raise InputError(
            f"{path}: found a mask of {found.shape}, expected {image_shape[:2]} or {image_shape} "
            "as the images"
        )
    expected = "expected 0 and, where it is missing, 1"
    if found.dtype.kind not in "biuf":
        raise InputError(f"{path}: found values of type {found.dtype.name}, {expected}")
    if (other := found[~np.isin(found, (0, 1))]).size:
        raise InputError(f"{path}: found the value {other[0]}, {expected}")
    if not found.any():
        raise InputError(f"{path}: leaves no pixel out, expected 1 where one is missing")
    return np.broadcast_to(found.astype(bool).reshape(*image_shape[:2], -1), image_shape)


class Chain:
    """The Markov chain of a run over the test images, batch by batch."""

    def __init__(
        self,
        run: Run,
        mask: str,
        fixed: np.ndarray | float,
        num_passes: int,
        batch_norm: BatchNorm,
        seed: int,
        batches: list[np.ndarray],
    ):
        """What is missing is `fixed`, as `read_mask` says of `mask`; batches as of `in_batches`."""
        of_batch = batch_norm == "batch"
        self._run, said = with_statistics(run, "moving_average" if of_batch else batch_norm)
        of_batch = of_batch and said["batch_norm"] != "none"
        self._fixed, self._num_passes, self._batches = fixed, num_passes, batches
        self._key = training.stream(seed, "imputation")
        self._mask = mask
        self._protocol = {
            **said,
            **({"batch_norm": "batch", "batch_size": len(batches[0])} if of_batch else {}),
            **({"given_labels": True} if getattr(run.model, "num_classes", 0) else {}),
            "mask": mask,
            "passes": num_passes,
            "split_order": run.experiment.data.split_order,
            "split_seed": run.experiment.data.split_seed,
            "evaluation_seed": seed,
        }

        @jax.jit
        def over_batch(
            variables: Variables, batch: Batch, missing: Array
        ) -> tuple[Array, Array, Array]:
            key = jax.random.fold_in(self._key, 1)
            last, errors = impute(
                self._run.model, variables, batch, missing, key, num_passes, of_batch
            )
            return last, errors, missing.sum(axis=(1, 2, 3))

        self._over_batch = over_batch

    def over_images(self) -> tuple[list[Record], dict[str, np.ndarray]]:
        """The records of the run, and the first images: `original`, `missing`, `last` guess."""
        run, started, origin = self._run, time.monotonic(), records.here()
        split = run.dataset.splits["test"]
        count = sum(map(len, self._batches))
        found = []
        shown: list[dict[str, np.ndarray]] = []
        with tqdm(total=count, unit="image", disable=None) as bar:
            for places in self._batches:
                index = jnp.asarray(places)
                batch = self._batch(split.images, index, split.labels)
                missing = self._missing(index)
                last, errors, counts = self._over_batch(run.variables, batch, missing)
                found.append((np.asarray(errors, np.float64), np.asarray(counts, np.float64)))
                if sum(len(one["last"]) for one in shown) < SHOWN:
                    shown.append(_pictured(batch.images, missing, last))
                bar.update(len(index))
        errors = np.concatenate([one for one, _ in found], axis=-1)
        counts = np.concatenate([one for _, one in found])
        common = {
            "num_images": count,
            "protocol": {**self._protocol, **said_of_images(len(split), count)},
            "seconds": round(time.monotonic() - started, 1),
            **origin,
        }
        new = self._records(errors, counts, common)
        records.add(run.workdir / RESULTS, new)
        panels = {name: np.concatenate([one[name] for one in shown])[:SHOWN] for name in shown[0]}
        return new, panels

    def _batch(self, images: np.ndarray, index: Array, labels: np.ndarray | None) -> Batch:
        rows, maximum = np.asarray(index), self._run.dataset.maximum
        pixels = data.prepare_images(jnp.asarray(images[rows]), index, self._key, "none", maximum)
        return Batch(pixels, index, None if labels is None else jnp.asarray(labels[rows]))

    def _missing(self, index: Array) -> Array:
        shape = self._run.dataset.image_shape
        if isinstance(self._fixed, float):
            key = jax.random.fold_in(self._key, 0)
            return missing_at_random(key, index, shape, self._fixed)
        return jnp.broadcast_to(jnp.asarray(self._fixed), (len(index), *shape))

    def _records(
        self, errors: np.ndarray, counts: np.ndarray, common: dict[str, Any]
    ) -> list[Record]:
        """Of squared errors `[P, N]` summed over each image's `counts` missing pixels."""
        if not counts.sum():
            raise InputError(
                f"--mask: {self._mask} left no pixel out, expected some that are missing"
            )
        by_pass = errors.sum(axis=-1) / counts.sum()
        paper = published.imputation_mse(self._run.experiment.name, common["protocol"])
        mean = self._run.record(
            "imputation",
            "test",
            "mse",
            value=float(by_pass[-1]),
            stderr=_error_of_ratio(errors[-1], counts),
            paper=paper,
            **common,
        )
        passes = [float(number) for number in range(1, len(errors) + 1)]
        values = [float(f"{value:.6g}") for value in by_pass]
        curve = self._run.record(
            "imputation", "test", "mse_by_pass", x=passes, values=values, **common
        )
        return [mean, curve]


def _pictured(images: Array, missing: Array, last: Array) -> dict[str, np.ndarray]:
    """The first images of a batch: `original`, `missing` in grey, `last` guess."""
    panels = {"original": images, "missing": jnp.where(missing, 0.3, images), "last": last}
    return {name: np.asarray(one[:SHOWN]) for name, one in panels.items()}


def _error_of_ratio(errors: np.ndarray, counts: np.ndarray) -> float | None:
    """Standard error over images of a sum of errors by a sum of counts, to first order."""
    if len(counts) < 2:
        return None
    residuals = errors - errors.sum() / counts.sum() * counts
    return float(residuals.std(ddof=1) / np.sqrt(len(counts)) / counts.mean())
