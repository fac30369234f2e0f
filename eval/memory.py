"""What a model does with its memory: how much, which entries, and what it would be without."""

import functools
import logging
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import lax

from memjax import bounds, data, plots, sampling, training
from memjax.errors import InputError
from memjax.evaluation import log_weights_of_encoding
from memjax.memory import usage
from memjax.types import Array, Batch, Variables
from memjax.workdirs import check_writable

from .episodes import (
    Draw,
    Measure,
    Plan,
    SplitName,
    Writer,
    add_gain,
    as_in_training,
    open_baseline,
    over_episodes,
    shown,
)
from .files import save_figure
from .options import check_at_least, check_picture, check_seeds, split_of
from .records import Record
from .run import Own, Run, Step, open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("memjax")
TARGETS, ENTRIES, MEANS = 6, 12, 8  # rows on the left, rows on the right, and images in these


def memory(
    workdir: str,
    num_batches: int = 50,
    num_samples: int = 100,
    chunk_size: int = 10,
    split: SplitName = "test",
    output: str | None = None,
    baseline: str | None = None,
    data_dir: str | None = None,
    step: Step = "latest",
    seed: int = 0,
    experiment: Own = None,
) -> list[Record]:
    """Measure how a model with addresses uses its memory, and draw it.

    Batches are drawn as in training, of the split. Beside the likelihood and its parts:
    `entropy_prior` of p(a); `nll_shuffled`, with the contents of the memory out of place; where
    the memory is learned, `entropy_posterior` and `dead_entries` as in `memory.usage`.

    Args:
        workdir: of a training run of a model with addresses.
        num_batches: to average over.
        num_samples: importance samples of each target.
        chunk_size: samples together; it changes speed and memory, not the answer.
        split: of the data set.
        output: the PNG; memory.png in the workdir if not given.
        baseline: workdir of another run of memjax's experiments on the same images, such as one
            without memory; `nll_gain` is the NLL of its newest checkpoint less this run's, target
            by target.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        seed: of the batches and of the samples.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Raises:
        InputError: a number below 1, a model without addresses, a picture that cannot be written,
            or anything wrong with the run or the baseline.

    Source: Bornschein et al. 2017, sections 4.1 and 4.2, figures 2B, 3 and 4A.
    """
    check_at_least(num_batches=num_batches, num_samples=num_samples, chunk_size=chunk_size)
    check_seeds(seed=seed)
    check_picture(output)
    run = open_run(workdir, data_dir, step, experiment)
    run.check_addresses()
    draw, most = as_in_training(run, split, seed)
    if num_batches > most:
        logger.warning("%d batches instead of %d: the split has no more", most, num_batches)
    beside = None if baseline is None else open_baseline(run, baseline, data_dir)
    if beside is not None and beside.reads_context and not run.reads_context:
        raise InputError(
            f"--baseline: {beside.experiment.name} reads images in memory, expected a run that "
            f"does not, as {run.experiment.name}"
        )
    writer = Writer(run, "memory", split, seed)
    path = epath.Path(output) if output else run.workdir / "memory.png"
    check_writable(path)
    plan = Plan(split, draw, min(num_batches, most), seed, "batches")
    found = over_episodes(run, plan, use_of_memory(run, num_samples, chunk_size))
    size = found["posterior"].shape[-1]
    posterior = found.pop("posterior")
    if run.model.memory == "learned":
        found |= {name: np.array([x]) for name, x in usage(posterior.mean(axis=(0, 1))).items()}
    sampler = run.experiment.sampler
    protocol = {
        **{"memory_size": size, "memory": run.model.memory, "drawn_by": type(sampler).__name__},
        **{name: value for name, value in vars(sampler).items() if name in ("ways", "shots")},
    }
    if beside is not None:
        add_gain(found, beside, plan, num_samples, chunk_size)
        protocol["baseline"] = beside.said
    reference = run.experiment.reference
    published = {reference.metric: reference.value}
    for one in writer.add(found, protocol, num_samples, published):
        logger.info("%s %s", one.metric, shown(one, 3))
    logger.info("ln M = %.3f", math.log(size))
    save_figure(picture(run, draw, split, seed), path)
    print(path)
    return writer.written


def use_of_memory(run: Run, num_samples: int, chunk_size: int) -> Measure:
    """Measures the likelihood, with the memory as it is and shuffled, and the addresses."""
    model, chunk = run.model, min(chunk_size, num_samples)

    def measure(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        encoding = model.apply(variables, batch, False, method="encode")
        log_q, _ = model.apply(variables, batch, encoding, method="address_log_probs")
        of_shuffle, key = jax.random.split(key)
        shuffled = model.apply(variables, batch, encoding, of_shuffle, method="shuffle_memory")
        (weights, said), (others, _) = (
            log_weights_of_encoding(model, variables, batch, found, key, num_samples, chunk)
            for found in (encoding, shuffled)
        )
        return {
            "nll": -bounds.iwae_bound(weights),
            "nll_shuffled": -bounds.iwae_bound(others),
            **said,
            "posterior": jnp.exp(log_q),
        }

    return measure


def picture(run: Run, draw: Draw, split: SplitName, seed: int) -> "Figure":
    """q(a | x) of a few targets with the entries it prefers, and images that share an entry."""
    images = jnp.asarray(split_of(run, split).images)
    key = training.stream(seed, "samples")
    of_samples, of_places, ink, of_choice, of_targets = jax.random.split(key, 5)

    @jax.jit
    def found(variables: Variables) -> dict[str, Array]:
        batch = data.gather(
            draw(of_places, jnp.int32(0)), images, ink, run.binarisation, run.dataset.maximum
        )
        encoding = run.model.apply(variables, batch, False, method="encode")
        log_q, log_p = run.model.apply(variables, batch, encoding, method="address_log_probs")
        size = log_p.shape[0]
        every = jnp.arange(size)
        generate = functools.partial(sampling.generate, run.model, variables, of_samples)
        # Of a learned memory, what an entry stands for is what is made of it.
        entries = generate(size, batch.context, address=every).means
        # Drawn from p(a), none of them twice.
        address = lax.top_k(log_p + jax.random.gumbel(of_choice, log_p.shape), min(size, ENTRIES))[
            1
        ]
        shared = jnp.repeat(address, MEANS)
        means = generate(len(shared), batch.context, address=shared).means
        chosen = jax.random.permutation(of_targets, batch.images.shape[0])[:TARGETS]
        return {
            "targets": batch.images[chosen],
            "probabilities": jnp.exp(log_q)[chosen],
            "entries": entries if batch.context is None else batch.context,
            "address": address,
            "means": means,
        }

    return plots.memory(**jax.tree.map(np.asarray, found(run.variables)))
