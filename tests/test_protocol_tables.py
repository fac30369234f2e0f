"""Tables of how likelihoods depend on the way they are computed, from records alone."""

from typing import Any

from eval import protocol_tables
from eval.records import Record
from tests.eval_records import PROTOCOL, record
from tests.test_tables import table_under


def at(precision: str, **fields: Any) -> Record:
    return record(protocol={**PROTOCOL, "precision": precision}, **fields)


def peak(num_samples: int, value: float, **fields: Any) -> Record:
    return record(metric="peak_memory_gib", num_samples=num_samples, value=value, **fields)


def rows(found: list[Record], title: str) -> list[dict[str, str]]:
    return table_under("\n\n".join(protocol_tables.tables(found)), title)


def test_another_precision_stands_beside_float32_of_the_same_evaluation() -> None:
    found = [
        at("float32", value=-86.0, num_images=1000),
        at("bfloat16", value=-86.0123, num_images=1000),
        at("bfloat16", value=-85.0),  # of all images: nothing to compare it with
        at("bfloat16", value=1.0, metric="elbo", num_images=1000),
        at("float32", value=2.0, metric="elbo", num_images=1000),
    ]
    (row,) = rows(found, "The same models evaluated with")
    assert (row["precision"], row["difference"]) == ("bfloat16", "-0.0123")
    assert (row["log-likelihood"], row["float32"]) == ("-86.0123", "-86.0000")
    assert (row["samples"], row["images"], row["epochs"]) == ("5,000", "1,000", "3,000")


def test_bounds_are_shown_over_more_samples_than_usual() -> None:
    def bounds(numbers: list[float], values: list[float], **fields: Any) -> Record:
        given = {"num_samples": int(numbers[-1]), "x": numbers, "values": values, "value": None}
        return record(metric="iwae_bound", **(given | fields))

    found = [
        bounds([1, 5000], [-90.0, -86.0]),
        bounds([1, 5000, 100_000], [-90.0, -86.004, -85.5], num_images=1000),
        bounds([1, 50_000], [-80.0, -70.0], protocol={**PROTOCOL, "split_order": "random"}),
    ]
    one, other = rows(found, "What more samples are worth")
    assert (one["images"], one["split"], one["epochs"]) == ("1,000 of test", "contiguous", "3,000")
    assert (one["1"], one["5,000"], one["50,000"], one["100,000"]) == (
        *("-90.00", "-86.00"),
        *("-", "-85.50"),
    )
    assert (other["split"], other["5,000"], other["50,000"]) == ("random", "-", "-70.00")


def test_memory_is_shown_over_three_numbers_of_samples() -> None:
    found = [peak(5000, 1.25), peak(50, 1.2), peak(500, 1.0), peak(5, 9.0, num_images=1)]
    made = rows(found, "Largest memory of a process")
    assert [row["samples"] for row in made] == ["50", "500", "5,000"]
    assert [row["GiB"] for row in made] == ["1.20", "1.00", "1.25"]


def test_nothing_is_made_of_nothing() -> None:
    assert protocol_tables.tables([at("float32"), peak(50, 1.0), peak(500, 1.0)]) == []
    of_training = record(task="training", metric="peak_memory_gib")
    assert protocol_tables.tables([of_training] * 3) == []
