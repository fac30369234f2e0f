"""The likelihood of images of classes that a memory shows a few drawings of."""

import logging

from memjax.configs import published
from memjax.errors import InputError

from .episodes import (
    Counted,
    Plan,
    Protocol,
    SplitName,
    Writer,
    add_gain,
    likelihood_of,
    open_baseline,
    over_episodes,
    shown,
)
from .options import check_at_least, check_seeds, check_some, split_of
from .records import Record
from .run import Own, Step, open_run

logger = logging.getLogger("memjax")


def few_shot(
    workdir: str,
    ways: tuple[int, ...] = (8,),
    shots: tuple[int, ...] = (4,),
    targets_per_class: int | None = None,
    num_targets: int | None = None,
    shots_counted: Counted = "per_class",
    replacement: bool = False,
    guaranteed: bool = False,
    target_classes: int | None = None,
    baseline: str | None = None,
    num_episodes: int = 100,
    num_samples: int = 1000,
    chunk_size: int = 10,
    split: SplitName = "test",
    data_dir: str | None = None,
    step: Step = "latest",
    seed: int = 0,
    experiment: Own = None,
) -> list[Record]:
    """Estimate log p(x | memory) over episodes, for every pair of ways and shots.

    Args:
        workdir: of a training run, of a model with or without memory.
        ways: classes of an episode.
        shots: images in memory, of each class or in all.
        targets_per_class: where shots are counted per class, 4 if not given; other drawings than
            in memory.
        num_targets: where shots are counted in all, 4 if not given.
        shots_counted: per_class gives each class as many images; total draws the class of every
            image, as the code of Generative Matching Networks does.
        replacement: of shots counted in all: a class, and an image, may be drawn twice, so that a
            target can be a copy of what is in memory. `copied` is how often.
        guaranteed: of shots counted in all: targets are of classes that memory has an image of.
        target_classes: of shots counted per class: targets are of the first of the classes alone.
            With the same seed, shots and targets of a class, episodes of more classes then have
            the same targets, and more beside them in memory.
        baseline: workdir of another run of memjax's experiments on the same images; `nll_gain` is
            the NLL of its newest checkpoint less this run's, target by target.
        num_episodes: to average over.
        num_samples: importance samples of each target.
        chunk_size: samples together; it changes speed and memory, not the answer.
        split: of the data set.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        seed: of the episodes and of the samples.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Raises:
        InputError: a number below 1, more classes or drawings than there are, or anything wrong
            with the run or the baseline.
    """
    check_at_least(num_episodes=num_episodes, num_samples=num_samples, chunk_size=chunk_size)
    check_some(ways=ways, shots=shots)
    check_seeds(seed=seed)
    run = open_run(workdir, data_dir, step, experiment)
    run.check_sees_no_classes()
    run.check_learns_no_memory()
    images = split_of(run, split)
    per_class = shots_counted == "per_class"
    _check_other_targets(per_class, targets_per_class, num_targets)
    of_class, of_all = (4 if given is None else given for given in (targets_per_class, num_targets))
    protocols = [
        Protocol(
            way, shot, of_class, of_all, shots_counted, replacement, guaranteed, target_classes
        )
        for way in ways
        for shot in shots
    ]
    for protocol in protocols:
        protocol.check(images, run.dataset.name)
    beside = None if baseline is None else open_baseline(run, baseline, data_dir)
    writer = Writer(run, "few_shot", split, seed)
    measure = likelihood_of(run, num_samples, chunk_size)
    for protocol in protocols:
        title = f"{protocol.ways} ways, {protocol.shots} shots"
        plan = Plan(split, protocol.drawer(images), num_episodes, seed, title)
        found = over_episodes(run, plan, measure, copies=replacement)
        said = protocol.describe()
        if beside is not None:
            add_gain(found, beside, plan, num_samples, chunk_size)
            said["baseline"] = beside.said
        paper = published.few_shot_nll(run.experiment.name, said) if split == "test" else None
        new = writer.add(found, said, num_samples, {"nll": paper})
        logger.info("%s: %s", title, ", ".join(f"{one.metric} {shown(one)}" for one in new))
    return writer.written


def _check_other_targets(
    per_class: bool, targets_per_class: int | None, num_targets: int | None
) -> None:
    """Refuse the number of targets that belongs to the other way of counting shots."""
    if per_class and num_targets is not None:
        raise InputError(
            f"--num-targets: found {num_targets} with shots counted per class, expected "
            "--targets-per-class"
        )
    if not per_class and targets_per_class is not None:
        raise InputError(
            f"--targets-per-class: found {targets_per_class} with shots counted in all, expected "
            "--num-targets"
        )
