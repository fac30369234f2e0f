"""How likelihoods depend on the way they are computed, by precision and by samples."""

import dataclasses
import json

from .evaluations import DASH, name, table
from .records import Record

EXACT = "float32"
USUAL_SAMPLES = 5000


def tables(found: list[Record]) -> list[str]:
    """Markdown of every table that there are records for."""
    evaluated = [one for one in found if one.task == "likelihood"]
    made = (_samples_table(evaluated), _precision_table(evaluated), _memory_table(evaluated))
    return [one for one in made if one]


def _samples_table(found: list[Record]) -> str:
    """The bounds of evaluations with more samples than usual."""
    curves = [
        (one, dict(zip(one.x or [], one.values or [], strict=True)))
        for one in found
        if one.metric == "iwae_bound" and (one.num_samples or 0) > USUAL_SAMPLES
    ]
    numbers = sorted({number for _, curve in curves for number in curve})
    rows = [
        (
            name(one),
            f"{one.num_images:,} of {one.split}",
            str(one.protocol.get("split_order")),
            f"{one.epochs:,}",
            *(f"{curve[number]:.2f}" if number in curve else DASH for number in numbers),
        )
        for one, curve in curves
    ]
    title = "What more samples are worth: the bound by samples, of the same images, nats:"
    head = ("experiment", "images", "split", "epochs", *(f"{number:,.0f}" for number in numbers))
    return table(title, head, rows)


def _precision_table(found: list[Record]) -> str:
    exact = {one.identity: one for one in found if one.protocol.get("precision") == EXACT}
    rows = []
    for one in found:
        protocol = {**one.protocol, "precision": EXACT}
        other = exact.get(dataclasses.replace(one, protocol=protocol).identity)
        if one.metric != "log_likelihood" or other is None or other is one:
            continue
        difference = (one.value or 0.0) - (other.value or 0.0)
        rows.append(
            (
                name(one),
                str(one.protocol["precision"]),
                f"{one.value:.4f}",
                f"{other.value:.4f}",
                f"{difference:+.4f}",
                *(f"{number or 0:,}" for number in (one.num_samples, one.num_images, one.epochs)),
            )
        )
    head = ("experiment", "precision", "log-likelihood", EXACT, "difference")
    title = "The same models evaluated with matrix products of another precision, nats:"
    return table(title, (*head, "samples", "images", "epochs"), rows)


def _memory_table(found: list[Record]) -> str:
    """Of evaluations that differ by their samples alone, three or more."""
    groups: dict[str, dict[int, Record]] = {}
    for one in found:
        if one.metric == "peak_memory_gib" and one.num_samples:
            how = [one.experiment, one.split, one.steps, one.num_images, one.protocol]
            groups.setdefault(json.dumps(how, sort_keys=True), {})[one.num_samples] = one
    rows = [
        (name(one), f"{one.num_images:,}", f"{number:,}", f"{one.value:.2f}")
        for group in groups.values()
        if len(group) > 2
        for number, one in sorted(group.items())
    ]
    title = (
        "Largest memory of a process that evaluates, GiB, data, compilation and the pass over the "
        "training set with it:"
    )
    return table(title, ("experiment", "images", "samples", "GiB"), rows)
