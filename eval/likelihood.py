"""log p(x) of a split by importance sampling, with its standard error and per-image values."""

import dataclasses
import hashlib
import io
import json
import logging
import math
import resource
import sys
import time
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from memjax import data, hosts, training, workdirs
from memjax.errors import InputError
from memjax.evaluation import pass_statistics
from memjax.products import Precision
from memjax.types import Array, Batch, Variables

from . import records
from .evaluator import Evaluator, evaluate_split, mesh_of_devices, values_of_one
from .options import check_at_least, check_choice, check_seeds, split_of
from .partial import Found, Partial
from .records import Record
from .run import Own, Run, Step, evenly_spaced, open_run, said_of_images

logger = logging.getLogger("memjax")
TASK = "likelihood"
NUMBERS = (1, 5, 50, 500, 5000, 50_000)
PARTS = ("reconstruction_nll", "kl_latent")  # of the ELBO, where the model says them
# The most that one batch of the statistics pass holds.
STATISTICS_IMAGES, STATISTICS_PIXELS = 2**17, 2**27


def likelihood(
    workdir: str,
    num_samples: int = 5000,
    split: Literal["train", "valid", "test"] = "test",
    max_images: int | None = None,
    data_dir: str | None = None,
    step: Step = "latest",
    batch_norm: Literal["pass", "moving_average"] = "pass",
    precision: Literal["float32", "tensorfloat32", "bfloat16"] | None = None,
    binarisation_seed: int = 0,
    seed: int = 0,
    batch_size: int = 100,
    chunk_size: int = 50,
    sample_devices: int = 1,
    experiment: Own = None,
    processes: hosts.Options = hosts.ALONE,
) -> list[Record]:
    """Estimate log p(x) with importance samples; writes results.json and an .npz in the workdir.

    The same command goes on with an evaluation that was interrupted.

    Args:
        workdir: of a training run.
        num_samples: importance samples of each image.
        split: of the data set.
        max_images: evaluate so many of them, evenly spaced; all if not given.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        batch_norm: pass takes the statistics of the whole training set in one batch, as the first
            paper's code does; moving_average those of training.
        precision: of matrix products; that of training if not given.
        binarisation_seed: grey images are binarised once, by this seed.
        seed: of the importance samples.
        batch_size: images together; it changes speed and memory, not the answer.
        chunk_size: samples together; it changes speed and memory, not the answer. A smaller one is
            taken, and said, if that many do not fit into memory.
        sample_devices: devices that share the samples of an image, a divisor of their number; the
            groups of so many share the images. It changes speed and memory, not the answer.
        experiment: as in `memjax.restore`, for a run of one's own experiment.
        processes: whether this is one of several, which share the images, and how they find each
            other.

    Raises:
        InputError: a number below 1, an unknown choice, devices that cannot be divided so, a split
            that is not there, a model that is given its memory, or anything else wrong with the
            run.
    """
    processes.join()
    hosts.end_at_sigterm()  # what is finished is in a file
    with hosts.refused_together():
        check_at_least(
            num_samples=num_samples,
            batch_size=batch_size,
            chunk_size=chunk_size,
            max_images=max_images,
        )
        check_seeds(seed=seed, binarisation_seed=binarisation_seed)
        check_choice("batch_norm", batch_norm, ("pass", "moving_average"))
        check_choice("precision", precision, (None, *get_args(Precision)))
        mesh = mesh_of_devices(sample_devices)
        run = open_run(workdir, data_dir, step, experiment)
        _check_alone(run, workdir)
        origin = records.here()  # of the code that runs, whatever is edited meanwhile
        records.check_file(run.workdir / workdirs.RESULTS)
        split_of(run, split)
    hosts.check_same(
        num_samples=num_samples,
        split=split,
        max_images=max_images,
        step=run.step,
        batch_norm=batch_norm,
        precision=precision,
        binarisation_seed=binarisation_seed,
        seed=seed,
        data_sha256=run.dataset.digest(),
        versions=origin["versions"],
    )
    started = time.monotonic()
    if precision is not None:
        run = dataclasses.replace(run, model=run.model.clone(precision=precision))
    checkpoint = _digest(run.variables)
    run, statistics = with_statistics(run, batch_norm)
    numbers = [number for number in NUMBERS if number < num_samples]
    evaluate = Evaluator(run, num_samples, numbers, seed, binarisation_seed, chunk_size, mesh)
    size = len(run.dataset.splits[split])
    count = len(evenly_spaced(size, max_images))
    protocol = statistics | _protocol(run, binarisation_seed, seed) | said_of_images(size, count)
    partial = Partial.in_file(
        run.workdir / TASK,
        values_of_one(run, split, [*numbers, num_samples]),
        len(hosts.share_of(count)),
        checkpoint=checkpoint,
        data=run.dataset.digest(),
        split=split,
        num_samples=num_samples,
        num_images=count,
        protocol=protocol,
        process=[jax.process_index(), jax.process_count()],  # each keeps those of its share
        origin=origin,
    )
    earlier = partial.seconds
    found = evaluate_split(run, evaluate, split, max_images, batch_size, partial)
    common = {"num_samples": num_samples, "protocol": protocol, **origin}
    common["seconds"] = round(time.monotonic() - started + earlier, 1)
    new = records_of(run, found, split, numbers, common)
    with hosts.refused_together():
        if hosts.is_first():
            write(run, found, numbers, new)
            logger.info("%s", describe(new, bool(getattr(run.model, "num_classes", 0))))
            logger.info("values of each image: %s", run.workdir / file_name(new[0]))
    partial.remove()
    return new


def _check_alone(run: Run, workdir: str) -> None:
    if run.reads_context:
        raise InputError(
            f"{workdir}: {run.experiment.name} is given its memory with each batch, expected "
            "`eval few-shot` or `eval recall` for it"
        )


def _protocol(run: Run, binarisation_seed: int, seed: int) -> dict[str, Any]:
    """What an estimate depends on, beside the batch statistics and the images."""
    drawn = run.experiment.data
    return {
        "binarisation_seed": None if run.is_binary else binarisation_seed,
        "split_order": drawn.split_order,
        "split_seed": drawn.split_seed,
        "merge_validation": drawn.merge_validation,
        "precision": run.model.precision,
        "image_size": list(run.dataset.image_shape),
        "evaluation_seed": seed,
    }


def _digest(variables: Variables) -> str:
    """SHA-256 of parameters and batch statistics."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(variables):
        found.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return found.hexdigest()


def with_statistics(run: Run, batch_norm: str) -> tuple[Run, dict[str, Any]]:
    """The run with the batch statistics asked for, and what the protocol says of them."""
    if not jax.tree.leaves(run.variables.get("batch_stats", {})):
        return run, {"batch_norm": "none"}
    said: dict[str, Any] = {"batch_norm": batch_norm}
    if batch_norm == "moving_average":
        return run, said
    images = run.dataset.splits["train"].images
    most = min(STATISTICS_IMAGES, max(1, STATISTICS_PIXELS // math.prod(run.dataset.image_shape)))
    if len(images) > most:
        said["statistics_images"] = most
        logger.warning("batch statistics of the first %d of %d images", most, len(images))
    index = jnp.arange(min(len(images), most))
    experiment = run.experiment
    # The training set as the last epoch saw it.
    epoch = max(0, run.step - 1) // (len(images) // experiment.train.batch_size)
    key = training.binarisation_key(
        experiment.seed, epoch if experiment.data.binarisation == "every_epoch" else None
    )

    @jax.jit
    def statistics(variables: Variables, images: Array) -> Variables:
        pixels = data.prepare_images(
            images, index, key, experiment.data.binarisation, run.dataset.maximum
        )
        noise = training.stream(experiment.seed, "statistics")
        return pass_statistics(run.model, variables, Batch(pixels, index), noise)

    variables = statistics(run.variables, jnp.asarray(images[: len(index)]))
    return dataclasses.replace(run, variables=variables), said


def records_of(
    run: Run, everything: Found, split: str, numbers: list[int], common: dict[str, Any]
) -> list[Record]:
    """The records of an evaluation.

    Args:
        run: that was evaluated.
        everything: `[N]` images.
        split: of the data set.
        numbers: of samples, below the last, at which there are bounds.
        common: fields of all records.
    """
    found, said = everything
    num_samples = common["num_samples"]
    common = {**common, "num_images": len(found.log_likelihood)}
    curve = np.asarray(found.iwae_bound, dtype=np.float64).mean(axis=-1)
    named = {
        "log_likelihood": found.log_likelihood,
        "elbo": found.iwae_bound[0],
        "effective_sample_size": found.effective_sample_size,
        # The model's own words; its ELBO with a KL in closed form is the same quantity as above.
        **{name: values for name, values in said.items() if name != "elbo"},
    }
    new = [
        run.record(TASK, split, metric, **_mean_and_error(values), **common)
        for metric, values in named.items()
    ]
    # Of the whole process so far: data, compilation and the pass over the training set too.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gib = peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, elsewhere KiB
    new.append(run.record(TASK, split, "peak_memory_gib", value=round(gib, 3), **common))
    new.append(
        run.record(
            TASK,
            split,
            "iwae_bound",
            x=[float(number) for number in (*numbers, num_samples)],
            values=curve.tolist(),
            **common,
        )
    )
    return new


def write(run: Run, everything: Found, numbers: list[int], new: list[Record]) -> None:
    """Add the records to results.json and write the per-image values beside it.

    Raises:
        InputError: results.json holds something else.
        WriteError: the workdir cannot be written.
    """
    found, _ = everything
    values = io.BytesIO()
    np.savez_compressed(
        values,
        log_likelihood=found.log_likelihood,
        effective_sample_size=found.effective_sample_size,
        iwae_bound=found.iwae_bound,
        num_samples=np.array([*numbers, new[0].num_samples]),
        protocol=json.dumps(new[0].protocol),
    )
    path = run.workdir / file_name(new[0])
    with workdirs.writing(path):
        workdirs.write_whole(path, values.getvalue())
    records.add(run.workdir / workdirs.RESULTS, new)


def file_name(one: Record) -> str:
    """Of the per-image values of an evaluation: another protocol or checkpoint has another name."""
    protocol = json.dumps(one.protocol, sort_keys=True)
    digest = hashlib.sha256(f"{one.steps} {one.num_images} {protocol}".encode()).hexdigest()[:8]
    return f"{TASK}_{one.split}_{one.num_samples}_{digest}.npz"


def _mean_and_error(values: Any) -> dict[str, float | None]:
    count = len(values)
    error = float(np.std(values, ddof=1, dtype=np.float64) / np.sqrt(count)) if count > 1 else None
    return {"value": float(np.mean(values, dtype=np.float64)), "stderr": error}


def describe(written: list[Record], given_labels: bool = False) -> str:
    """Lines for the terminal; with `given_labels` the density is that of x given its label."""
    by_metric = {record.metric: record for record in written}
    main, curve = by_metric["log_likelihood"], by_metric["iwae_bound"]
    density = "p(x | y)" if given_labels else "p(x)"
    error = "" if main.stderr is None else f" ± {main.stderr:.2f}"
    lines = [
        f"{main.experiment}: log {density} = {main.value:.2f}{error} nats, "
        f"{main.num_images} {main.split} images, {main.num_samples} samples, {main.seconds:.0f} s"
    ]
    parts = [by_metric[name] for name in PARTS if name in by_metric]
    if parts:
        said = [f"{one.metric} {one.value:.2f}{_of_paper(one)}" for one in parts]
        lines.append(f"{', '.join(said)} nats")
    lines[0] += _of_paper(main)
    steps = [f"K={x:.0f}: {y:.2f}" for x, y in zip(curve.x or [], curve.values or [], strict=True)]
    size = by_metric["effective_sample_size"].value
    lines.append(f"bound {', '.join(steps)}; effective sample size {size:.0f}")
    return "\n".join(lines)


def _of_paper(one: Record) -> str:
    return "" if one.paper is None else f" (paper: {one.paper:.2f})"
