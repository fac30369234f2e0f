"""Episodes, each a memory and its targets, measured one after the other.

`Protocol` says how they are drawn, `over_episodes` draws and measures them, `Writer` makes records.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from memjax import bounds, data, training, workdirs
from memjax.data import Drawn
from memjax.errors import InputError
from memjax.evaluation import log_weights_and_diagnostics
from memjax.types import Array, Batch, Variables

from . import records
from .options import split_of
from .records import Record
from .run import Run, check_same_images, open_run

Counted = Literal["per_class", "total"]
SplitName = Literal["train", "valid", "test"]
# Places of an episode's images, from its key and its number.
Draw = Callable[[Array, Array], Drawn]
# Compiled: variables, a batch and a key -> name -> an array.
Measure = Callable[[Variables, Batch, Array], dict[str, Array]]
Found = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the episodes of few-shot learning are drawn.

    Attributes:
        ways: classes.
        shots: images in memory, of each class or in all.
        targets_per_class: where shots are counted per class.
        num_targets: where they are counted in all.
        shots_counted: `per_class`, or `total` as in the code of Generative Matching Networks.
        replacement: whether a class, and an image, can be drawn twice; of `total` alone.
        guaranteed: whether the memory has an image of every target's class; of `total` alone.
        target_classes: how many of the classes have targets, all if None; of `per_class` alone.
    """

    ways: int
    shots: int
    targets_per_class: int = 4
    num_targets: int = 4
    shots_counted: Counted = "per_class"
    replacement: bool = False
    guaranteed: bool = False
    target_classes: int | None = None

    @property
    def memory_size(self) -> int:
        """M."""
        return self.shots * (self.ways if self.shots_counted == "per_class" else 1)

    def check(self, split: data.Split, images: str) -> None:
        """Raises InputError where the split has too few classes or drawings."""
        if self.target_classes is not None and not 1 <= self.target_classes <= self.ways:
            raise InputError(
                f"--target-classes: found {self.target_classes}, expected 1 to the "
                f"{self.ways} classes of an episode"
            )
        if self.shots_counted == "total":
            if self.target_classes is not None:
                raise InputError(
                    f"--target-classes: found {self.target_classes} with shots counted in all, "
                    "expected --shots-counted per_class"
                )
            data.check_set(
                split.labels,
                images,
                ways=self.ways,
                total=self.shots,
                num_targets=self.num_targets,
                replacement=self.replacement,
            )
            return
        for name in ("replacement", "guaranteed"):
            if getattr(self, name):
                raise InputError(
                    f"--{name}: found True with shots counted per class, expected "
                    "--shots-counted total"
                )
        data.check_episode(
            split.labels,
            images,
            ways=self.ways,
            shots=self.shots,
            targets_per_class=self.targets_per_class,
        )

    def drawer(self, split: data.Split) -> Draw:
        """What draws episodes from a split that `check` accepts."""
        assert split.labels is not None, "checked before"
        table = data.class_table(split.labels)
        return lambda key, _: self._draw(key, table)

    def _draw(self, key: Array, table: data.ClassTable) -> Drawn:
        if self.shots_counted == "per_class":
            found = data.draw_episode(
                key,
                table,
                ways=self.ways,
                shots=self.shots,
                targets_per_class=self.targets_per_class,
            )
        else:
            found = data.draw_set(
                key,
                table,
                ways=self.ways,
                total=self.shots,
                num_targets=self.num_targets,
                replacement=self.replacement,
                guaranteed=self.guaranteed,
            )
        # Targets are in the order of their classes.
        shown = slice(self._num_targets)
        return Drawn(
            found.targets[shown], found.context, found.target_labels[shown], found.context_labels
        )

    @property
    def _num_targets(self) -> int:
        if self.shots_counted == "total":
            return self.num_targets
        return (self.target_classes or self.ways) * self.targets_per_class

    def describe(self) -> dict[str, Any]:
        """What a record says of it."""
        per_class = self.shots_counted == "per_class"
        return {
            "ways": self.ways,
            "shots": self.shots,
            "shots_counted": self.shots_counted,
            "memory_size": self.memory_size,
            "num_targets": self._num_targets,
            "replacement": self.replacement,
            "class_guaranteed": True if per_class else self.guaranteed,
            **({"target_classes": self.target_classes} if self.target_classes else {}),
        }


def as_in_training(run: Run, split: SplitName, seed: int) -> tuple[Draw, int]:
    """What draws the batches of one epoch of a split, and how many there are."""
    experiment, images = run.experiment, split_of(run, split)
    sampler, size = experiment.sampler, experiment.train.batch_size
    sampler.check(images, f"{split} images of {run.dataset.name}", size)
    plan = jnp.asarray(sampler.plan(seed, 0, len(images), size))
    tables = sampler.tables(images)
    return lambda key, batch: sampler.draw(tables, plan[batch], key, size), len(plan)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which episodes are drawn.

    Attributes:
        split: that the images come from.
        draw: what an episode is made of.
        num_episodes: E.
        seed: from which episodes and noise follow, whatever is measured of them.
        title: of the progress bar.
    """

    split: SplitName
    draw: Draw
    num_episodes: int
    seed: int
    title: str


def over_episodes(run: Run, plan: Plan, measure: Measure, copies: bool = False) -> Found:
    """Draw episodes and measure each.

    Args:
        run: a trained model.
        plan: which episodes.
        measure: of an episode.
        copies: whether to say which targets are in memory too, as `copied`.

    Returns:
        Name -> `[E, ...]`.
    """
    images = jnp.asarray(split_of(run, plan.split).images)
    places = training.stream(plan.seed, "evaluation_sampler")
    noise = training.stream(plan.seed, "evaluation")
    ink = training.stream(plan.seed, "evaluation_binarisation")

    @jax.jit
    def one(variables: Variables, images: Array, episode: Array) -> dict[str, Array]:
        drawn = plan.draw(jax.random.fold_in(places, episode), episode)
        batch = data.gather(drawn, images, ink, run.binarisation, run.dataset.maximum)
        found = measure(variables, batch, jax.random.fold_in(noise, episode))
        if copies and drawn.context is not None:
            found["copied"] = (drawn.targets[:, None] == drawn.context).any(axis=1)
        return found

    every = [
        jax.tree.map(np.asarray, one(run.variables, images, jnp.int32(episode)))
        for episode in tqdm(range(plan.num_episodes), desc=plan.title, unit="episode", disable=None)
    ]
    return {name: np.stack([found[name] for found in every]) for name in every[0]}


def add_gain(found: Found, baseline: Run, plan: Plan, num_samples: int, chunk_size: int) -> None:
    """Measure another run on the same episodes, and add how far its NLL lies above, `nll_gain`.

    Args:
        found: of `over_episodes`, with the same plan and as many samples.
        baseline: the other run, of the same images.
        plan: which episodes.
        num_samples: importance samples of each target.
        chunk_size: samples together.
    """
    measure = likelihood_of(baseline, num_samples, chunk_size)
    found["nll_gain"] = over_episodes(baseline, plan, measure)["nll"] - found["nll"]


def open_baseline(run: Run, workdir: str, data_dir: str | None) -> Run:
    """The newest checkpoint of another run, for `add_gain`.

    Raises:
        InputError: it is of other images than `run`, sees their classes, binarises otherwise or
            has another likelihood; or anything wrong with it.
    """
    baseline = open_run(workdir, data_dir)
    check_same_images([run, baseline])
    baseline.check_sees_no_classes()
    for name, (found, expected) in {
        "data.binarisation": (baseline.binarisation, run.binarisation),
        "model.likelihood": (baseline.likelihood, run.likelihood),
    }.items():
        if found != expected:
            raise InputError(
                f"--baseline: {name} is {found} in the evaluation of {workdir}, expected "
                f"{expected} as of {run.workdir}"
            )
    return baseline


def likelihood_of(run: Run, num_samples: int, chunk_size: int) -> Measure:
    """Measures `nll` `[B]` by importance samples, and the means of the model's diagnostics."""

    def measure(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        weights, said = log_weights_and_diagnostics(
            run.model, variables, batch, key, num_samples, min(chunk_size, num_samples)
        )
        return {"nll": -bounds.iwae_bound(weights), **said}

    return measure


class Writer:
    """Makes records of one task, and adds them to the run's results.json.

    Raises:
        InputError: there is a results.json that holds something else, or it cannot be written.
    """

    def __init__(self, run: Run, task: str, split: SplitName, seed: int):
        """Remember the code that runs, whatever is edited meanwhile, and when it began."""
        self.run, self.task, self.split, self.seed = run, task, split, seed
        self.written: list[Record] = []
        self._path = run.workdir / workdirs.RESULTS
        self._origin = records.here()
        self._started = time.monotonic()
        records.check_file(self._path)

    def add(
        self,
        found: Found,
        protocol: dict[str, Any],
        num_samples: int | None,
        published: Mapping[str, float | None] = MappingProxyType({}),
    ) -> list[Record]:
        """Make one record of each measure: its mean, and the standard error over episodes.

        Args:
            found: name -> `[E]` or `[E, B]`.
            protocol: what the measures depend on.
            num_samples: importance samples of each target.
            published: name -> the paper's value under this protocol.
        """
        seconds = round(time.monotonic() - self._started, 1)
        self._started = time.monotonic()
        shape = max(found.values(), key=np.size).shape
        make = functools.partial(
            self.run.record,
            self.task,
            self.split,
            num_samples=num_samples,
            num_images=int(np.prod(shape[:2])),
            protocol={**protocol, "episodes": shape[0], **self._common()},
            seconds=seconds,
            **self._origin,
        )
        new = [
            make(name, paper=published.get(name), **mean_over_episodes(values))
            for name, values in found.items()
        ]
        records.add(self._path, new)
        self.written += new
        return new

    def _common(self) -> dict[str, Any]:
        return {
            "precision": self.run.model.precision,
            "image_size": list(self.run.dataset.image_shape),
            "split_order": self.run.experiment.data.split_order,
            "evaluation_seed": self.seed,
        }


def mean_over_episodes(values: np.ndarray) -> dict[str, float | None]:
    """`value` and `stderr` of a measure `[E]` or `[E, B]`, whose targets share a memory."""
    means = values.astype(np.float64).reshape(len(values), -1).mean(axis=1)
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None
    return {"value": float(means.mean()), "stderr": error}


def shown(one: Record, digits: int = 2) -> str:
    """A value with its standard error, for the terminal."""
    error = "" if one.stderr is None else f" ± {one.stderr:.{digits}f}"
    return f"{one.value:.{digits}f}{error}"
