"""Images that are in memory themselves: a lookup table of M entries has an NLL of ln M."""

import functools
import logging
import math

import jax

from memjax.data import Drawn
from memjax.errors import InputError
from memjax.types import Array

from .episodes import Plan, SplitName, Writer, likelihood_of, over_episodes, shown
from .options import check_at_least, check_seeds, check_some, split_of
from .records import Record
from .run import Own, Step, open_run

logger = logging.getLogger("memjax")


def recall(
    workdir: str,
    memory_size: tuple[int, ...] = (256,),
    num_targets: int = 64,
    num_episodes: int = 20,
    num_samples: int = 100,
    chunk_size: int = 10,
    split: SplitName = "test",
    data_dir: str | None = None,
    step: Step = "latest",
    seed: int = 0,
    experiment: Own = None,
) -> list[Record]:
    """Estimate log p(x | memory) of images that are in memory.

    Args:
        workdir: of a training run whose memory are images.
        memory_size: M, images in memory, any number whatever the model was trained with.
        num_targets: of each memory.
        num_episodes: memories to average over.
        num_samples: importance samples of each target.
        chunk_size: samples together; it changes speed and memory, not the answer.
        split: of the data set.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        seed: of the memories and of the samples.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Raises:
        InputError: a number below 1, a memory larger than the split or smaller than its targets, a
            model that has no images in memory, or anything wrong with the run.
    """
    check_at_least(num_episodes=num_episodes, num_samples=num_samples, chunk_size=chunk_size)
    check_at_least(num_targets=num_targets)
    check_some(memory_size=memory_size)
    check_seeds(seed=seed)
    run = open_run(workdir, data_dir, step, experiment)
    run.check_reads_context()
    count = len(split_of(run, split))
    for size in memory_size:
        if not num_targets <= size <= count:
            raise InputError(
                f"--memory-size: found {size}, expected at least the {num_targets} targets and at "
                f"most the {count} {split} images of {run.dataset.name}"
            )
    writer = Writer(run, "recall", split, seed)
    measure = likelihood_of(run, num_samples, chunk_size)
    for size in memory_size:
        title = f"{size} images in memory"
        drawer = functools.partial(draw, count, size, num_targets)
        plan = Plan(split, drawer, num_episodes, seed, title)
        found = over_episodes(run, plan, measure)
        said = {"memory_size": size, "num_targets": num_targets}
        new = writer.add(found, said, num_samples)
        measures = ", ".join(f"{one.metric} {shown(one, 3)}" for one in new)
        logger.info("%s (ln M = %.3f): %s", title, math.log(size), measures)
    return writer.written


def draw(num_images: int, memory_size: int, num_targets: int, key: Array, episode: Array) -> Drawn:
    """A memory without copies, and targets that are its first entries; labels are places."""
    del episode
    context = jax.random.permutation(key, num_images)[:memory_size]
    targets = context[:num_targets]
    return Drawn(targets, context=context, labels=targets, context_labels=context)
