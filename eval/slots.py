"""What the memory slots of a decoder stand for, and what they are worth."""

import csv
import dataclasses
import io
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from etils import epath

from memjax import plots, sampling, training, workdirs
from memjax.errors import InputError
from memjax.memory import usage

from . import records
from .activations import activations_of
from .evaluator import Evaluator, evaluate_split
from .files import save, save_figure
from .likelihood import with_statistics
from .options import check_at_least, check_choice, check_seeds
from .records import Record
from .run import Own, Run, Step, open_run, said_of_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 3  # slots that are shown of each class

logger = logging.getLogger("memjax")


def slots(
    workdir: str,
    num_samples: int = 500,
    max_images: int | None = 1000,
    data_dir: str | None = None,
    step: Step = "latest",
    batch_norm: Literal["pass", "moving_average"] = "pass",
    binarisation_seed: int = 0,
    seed: int = 0,
    batch_size: int = 100,
    chunk_size: int = 50,
    experiment: Own = None,
) -> list[Record]:
    """Say which classes prefer which slots, draw the slots, and disable them.

    Preferences h_a are averaged over the test images of a class and divided by their sum. A
    disabled layer reads ones in place of its memory, or zeros where that is added. Writes into the
    workdir:

    - slots_disabled.png: the same samples with the memory of each layer, and of all, disabled.

    And of images with labels:

    - slots.png: preferences of classes for slots, and classes placed by the correlation of their
      preferences; slots_<layer>.csv: the same preferences as numbers.
    - slots_top.png: the image of each of the three slots that a class prefers;
      slots_top.csv: which they are.

    Args:
        workdir: of a training run of a model with slots.
        num_samples: importance samples for what disabling a layer costs.
        max_images: test images for the same, evenly spaced.
        data_dir: folder with <dataset>.npz files.
        step: latest, best (by validation bound) or the step of a checkpoint.
        batch_norm: as in `eval likelihood`; the statistics are those of the whole memory.
        binarisation_seed: grey images are binarised once, by this seed.
        seed: of the importance samples and of the pictures.
        batch_size: images together; it changes speed and memory, not the answer.
        chunk_size: samples together; it changes speed and memory, not the answer.
        experiment: as in `memjax.restore`, for a run of one's own experiment.

    Returns:
        For each layer `slot_entropy` in nats and `dead_slots`, of the preferences averaged over all
        test images, see `memory.usage`; `nll_cost` in nats for each disabled set of layers.

    Raises:
        InputError: a model without slots, or anything else wrong with an option or the run.

    Source: Li, Zhu and Zhang 2016, section 5.2 (figure 3), appendices C (figure 6) and D (figure 7,
    table 4).
    """
    check_at_least(
        num_samples=num_samples,
        max_images=max_images,
        batch_size=batch_size,
        chunk_size=chunk_size,
    )
    check_seeds(seed=seed, binarisation_seed=binarisation_seed)
    check_choice("batch_norm", batch_norm, ("pass", "moving_average"))
    run = open_run(workdir, data_dir, step, experiment)
    layers = layers_with_slots(run)
    started, origin = time.monotonic(), records.here()
    records.check_file(run.workdir / workdirs.RESULTS)
    run, statistics = with_statistics(run, batch_norm)
    protocol = {
        **statistics,
        "binarisation_seed": None if run.is_binary else binarisation_seed,
        "split_order": run.experiment.data.split_order,
        "split_seed": run.experiment.data.split_seed,
        "evaluation_seed": seed,
    }
    preferences = preferences_of(run, layers, binarisation_seed, seed, batch_size)
    written = _usage(run, preferences, protocol, origin)
    written += _cost(run, layers, num_samples, max_images, batch_size, chunk_size, protocol, origin)
    seconds = round(time.monotonic() - started, 1)
    written = [dataclasses.replace(one, seconds=seconds) for one in written]
    records.add(run.workdir / workdirs.RESULTS, written)
    _picture(plots.panels(panels_disabled(run, layers, seed)), run.workdir / "slots_disabled.png")
    _draw_classes(run, preferences)
    for one in written:
        logger.info("%s of layer %s: %.3f", one.metric, layers_of(one), one.value)
    return written


def layers_of(one: Record) -> str:
    """The layers that a record is about, as text."""
    return ", ".join(map(str, one.protocol.get("disabled", [one.protocol.get("layer")])))


def layers_with_slots(run: Run) -> tuple[int, ...]:
    """The decoder's layers that read slots, 0 next to x.

    Raises:
        InputError: there are none, or they are disabled.
    """
    counts = getattr(run.model, "slots", ())
    if not isinstance(counts, tuple) or not any(counts):
        raise InputError(
            f"{run.workdir}: {run.experiment.name} has no slots in its layers, expected a model "
            "with"
        )
    if run.model.disabled:
        raise InputError(
            f"{run.workdir}: was trained with model.disabled {run.model.disabled}, expected all of "
            "its memory"
        )
    return tuple(i for i, count in enumerate(counts) if count)


def preferences_of(
    run: Run, layers: Sequence[int], binarisation_seed: int, seed: int, batch_size: int
) -> dict[int, np.ndarray]:
    """Layer -> h_a `[N, M]` of every test image, at one z of its posterior."""
    names = {layer: f"h_a.{layer}" for layer in layers}
    split = run.dataset.splits["test"]
    found = activations_of(
        run, split, list(names.values()), run.binarisation, binarisation_seed, seed, batch_size
    )
    return {layer: found[name] for layer, name in names.items()}


def averaged(preferences: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`[N, M]` preferences -> `[classes, M]`, the mean over each class, divided by its sum.

    That is the text; the authors' code divides the preferences of each image before the mean.
    """
    means = np.stack([preferences[labels == one].mean(axis=0) for one in np.unique(labels)])
    return means / means.sum(axis=1, keepdims=True)


def _usage(
    run: Run,
    preferences: dict[int, np.ndarray],
    protocol: dict[str, Any],
    origin: dict[str, Any],
) -> list[Record]:
    """How evenly slots are read, of preferences averaged over all images."""
    written = []
    for layer, found in preferences.items():
        mean = found.mean(axis=0)
        said = usage(mean / mean.sum())
        named = {"slot_entropy": said["entropy_posterior"], "dead_slots": said["dead_entries"]}
        written += [
            run.record(
                *("slots", "test", metric),
                value=value,
                num_images=len(found),
                protocol={**protocol, "layer": layer},
                **origin,
            )
            for metric, value in named.items()
        ]
    return written


def _cost(
    run: Run,
    layers: tuple[int, ...],
    num_samples: int,
    max_images: int | None,
    batch_size: int,
    chunk_size: int,
    protocol: dict[str, Any],
    origin: dict[str, Any],
) -> list[Record]:
    """How much log p(x) falls, image by image, with the memory of some layers disabled."""

    def log_likelihood(disabled: tuple[int, ...]) -> np.ndarray:
        other = dataclasses.replace(run, model=run.model.clone(disabled=disabled))
        evaluate = Evaluator(
            *(other, num_samples, [], protocol["evaluation_seed"]),
            *(protocol["binarisation_seed"] or 0, chunk_size),
        )
        found, _ = evaluate_split(other, evaluate, "test", max_images, batch_size)
        return np.asarray(found.log_likelihood, np.float64)

    whole = log_likelihood(())
    written = []
    for disabled in _sets(layers):
        cost = whole - log_likelihood(disabled)
        written.append(
            run.record(
                *("slots", "test", "nll_cost"),
                value=float(cost.mean()),
                stderr=float(cost.std(ddof=1) / np.sqrt(len(cost))) if len(cost) > 1 else None,
                num_images=len(cost),
                num_samples=num_samples,
                protocol={
                    **protocol,
                    "disabled": list(disabled),
                    **said_of_images(len(run.dataset.splits["test"]), len(cost)),
                },
                **origin,
            )
        )
    return written


def _sets(layers: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Each layer alone, and all of them."""
    return [*((layer,) for layer in layers), *([layers] if len(layers) > 1 else [])]


def _draw_classes(run: Run, preferences: dict[int, np.ndarray]) -> None:
    """The pictures and numbers of classes, where there are any."""
    labels = run.dataset.splits["test"].labels
    if labels is None:
        logger.info("%s has no labels: no pictures and CSVs of its classes", run.dataset.name)
        return
    by_class = {layer: averaged(found, labels) for layer, found in preferences.items()}
    names = [str(one) for one in np.unique(labels)]
    _picture(plots.preferences(by_class, names), run.workdir / "slots.png")
    _picture(_top_slots(run, by_class, names), run.workdir / "slots_top.png")
    for layer, found in by_class.items():
        numbers = (f"{one:.6g}" for one in found.reshape(-1))
        rows = zip(names, np.reshape(list(numbers), found.shape).tolist(), strict=True)
        head = ["class", *range(found.shape[1])]
        _write_csv(run.workdir / f"slots_{layer}.csv", [head, *([name, *of] for name, of in rows)])


def _top_slots(run: Run, by_class: dict[int, np.ndarray], names: list[str]) -> "Figure":
    """A picture of the slots that each class prefers, which are written down too."""
    rows, shown, titles = [["layer", "class", "rank", "slot", "preference"]], [], []
    for layer, found in by_class.items():
        images = np.asarray(run.model.apply(run.variables, layer, method="slot_images"))
        best = np.argsort(-found, axis=1)[:, :TOP]
        for rank in range(best.shape[1]):
            shown.append(images[best[:, rank]])
            titles.append(f"layer {layer}, {rank + 1}.")
        for name, of_class, slots_of_class in zip(names, found, best, strict=True):
            rows += [
                [str(layer), name, str(rank + 1), str(slot), f"{of_class[slot]:.6g}"]
                for rank, slot in enumerate(slots_of_class)
            ]
    _write_csv(run.workdir / "slots_top.csv", rows)
    return plots.grid(np.stack(shown), titles, names, "", "class")


def panels_disabled(
    run: Run, layers: tuple[int, ...], seed: int, num_images: int = 64
) -> dict[str, np.ndarray]:
    """Samples of the same z with the memory whole, and disabled.

    Args:
        run: of a model with slots, none of them disabled.
        layers: of the decoder, that read slots.
        seed: of the samples.
        num_images: N in each panel.

    Returns:
        Title -> means `[N, H, W, C]` of p(x | z): the whole memory, then each of the layers
        disabled, then all of them.
    """
    key = training.stream(seed, "samples")
    panels = {}
    for disabled in ((), *_sets(layers)):
        model = run.model.clone(disabled=disabled)
        means = jax.jit(
            lambda variables, model=model: (
                sampling.generate(model, variables, key, num_images).means
            )
        )(run.variables)
        panels[_title(disabled)] = np.asarray(means)
    return panels


def _title(disabled: tuple[int, ...]) -> str:
    """What is disabled, in words: `layers 0, 1 and 2 disabled`."""
    if not disabled:
        return "whole memory"
    *first, last = map(str, disabled)
    return f"layers {', '.join(first)} and {last} disabled" if first else f"layer {last} disabled"


def _picture(figure: "Figure", path: epath.Path) -> None:
    save_figure(figure, path)
    print(path)


def _write_csv(path: epath.Path, rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    save(path, text.getvalue())
    print(path)
