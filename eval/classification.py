"""Which class of the memory a target is of, by a model that was never trained to classify."""

import logging

import jax
import jax.numpy as jnp

from memjax.configs import published
from memjax.evaluation import log_joint_of_addresses
from memjax.types import Array, Batch, Variables

from .episodes import Measure, Plan, Protocol, SplitName, Writer, over_episodes
from .options import check_at_least, check_seeds, check_some, split_of
from .records import Record
from .run import Own, Run, Step, open_run

logger = logging.getLogger("memjax")


def classification(
    workdir: str,
    ways: tuple[int, ...] = (5, 20),
    shots: tuple[int, ...] = (1, 5),
    targets_per_class: int = 1,
    num_episodes: int = 1000,
    num_samples: int = 0,
    chunk_size: int = 10,
    split: SplitName = "test",
    data_dir: str | None = None,
    step: Step = "latest",
    seed: int = 0,
    experiment: Own = None,
) -> list[Record]:
    """Accuracy of few-shot classification, for every pair of ways and shots.

    `accuracy_q` takes the class with the largest sum of q(a | x), `accuracy_posterior` that with
    the largest sum of p(a | x), which is proportional to p(a) p(x | m_a).

    Args:
        workdir: of a training run of a model with addresses.
        ways: classes of an episode.
        shots: images of each class in memory.
        targets_per_class: images to classify, other drawings than in memory.
        num_episodes: to average over.
        num_samples: importance samples of p(x | m_a) at every address; 0 leaves the posterior out.
        chunk_size: samples together; it changes speed and memory, not the answer.
        split: of the data set.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        seed: of the episodes and of the samples.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Raises:
        InputError: a number below 1, more classes or drawings than there are, a model without
            addresses, or anything wrong with the run.

    Source: Bornschein et al. 2017, section 4.2, few-shot classification.
    """
    check_at_least(num_episodes=num_episodes, chunk_size=chunk_size)
    check_at_least(0, num_samples=num_samples)
    check_some(ways=ways, shots=shots)
    check_seeds(seed=seed)
    run = open_run(workdir, data_dir, step, experiment)
    run.check_reads_context()
    run.check_addresses()
    images = split_of(run, split)
    protocols = [Protocol(way, shot, targets_per_class) for way in ways for shot in shots]
    for protocol in protocols:
        protocol.check(images, run.dataset.name)
    writer = Writer(run, "classification", split, seed)
    for protocol in protocols:
        title = f"{protocol.ways}-way {protocol.shots}-shot"
        plan = Plan(split, protocol.drawer(images), num_episodes, seed, title)
        measure = accuracy_of(run, protocol.ways, num_samples, chunk_size)
        found = over_episodes(run, plan, measure)
        said = protocol.describe()
        paper = published.accuracy(run.experiment.name, said) if split == "test" else None
        new = writer.add(found, said, num_samples or None, {"accuracy_q": paper})
        logger.info("%s: %s", title, ", ".join(map(describe, new)))
    return writer.written


def describe(one: Record) -> str:
    """An accuracy with its 95% interval over episodes, for the terminal."""
    assert one.value is not None
    interval = "" if one.stderr is None else f" ± {196 * one.stderr:.1f}"
    return f"{one.metric} {100 * one.value:.1f}{interval}%"


def accuracy_of(run: Run, ways: int, num_samples: int, chunk_size: int) -> Measure:
    """Measures `accuracy_q` `[B]` and, with samples, `accuracy_posterior` `[B]`, 1 where right."""

    def measure(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        assert batch.labels is not None and batch.context_labels is not None
        encoding = run.model.apply(variables, batch, False, method="encode")
        log_q, _ = run.model.apply(variables, batch, encoding, method="address_log_probs")
        probabilities = {"accuracy_q": jnp.exp(log_q)}
        if num_samples:
            log_joint = log_joint_of_addresses(
                run.model, variables, batch, key, num_samples, min(chunk_size, num_samples)
            )
            probabilities["accuracy_posterior"] = jax.nn.softmax(log_joint, axis=0).T
        return {
            name: (most_probable(of_address, batch.context_labels, ways) == batch.labels) * 1.0
            for name, of_address in probabilities.items()
        }

    return measure


def most_probable(of_address: Array, classes: Array, ways: int) -> Array:
    """The class `[B]` with the largest sum: probabilities `[B, M]` of entries of classes `[M]`."""
    return jnp.argmax(of_address @ jax.nn.one_hot(classes, ways), axis=-1)
