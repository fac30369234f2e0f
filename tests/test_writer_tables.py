"""The table and the picture of recurrent writers, from records alone."""

from pathlib import Path
from typing import Any

import pytest
from etils import epath

from eval import tables, writer_tables
from eval.evaluations import evaluations
from eval.records import Record
from memjax import configs
from tests import eval_records
from tests.eval_records import PROTOCOL, record
from tests.test_tables import table_under

VALUES = {"log_likelihood": -84.0, "elbo": -88.0, "reconstruction_nll": 62.0, "kl_latent": 26.0}


def evaluation(experiment: str, values: dict[str, float] = VALUES, **fields: Any) -> list[Record]:
    dataset = configs.get(experiment).dataset
    return [
        record(experiment, dataset=dataset, metric=metric, value=value, **fields)
        for metric, value in values.items()
    ]


def changed(steps: int) -> dict[str, Any]:
    return {"protocol": {**PROTOCOL, "changed": {"model.steps": steps}}}


def rows(found: list[Record]) -> list[dict[str, str]]:
    return table_under("\n\n".join(writer_tables.tables(found)), "Recurrent writers")


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    # A VAE says the same of itself, and is no writer.
    others = [*evaluation("vae_mnist"), record()]
    assert writer_tables.tables(others) == []
    assert writer_tables.draw(others, epath.Path(tmp_path)) == []


def test_four_numbers_side_by_side() -> None:
    found = [*evaluation("draw_mnist"), *evaluation("avme_mnist")]
    assert rows(found)[0] == {
        **{"experiment": "`avme_mnist`", "data": "binarized_mnist", "T": "12"},
        **{"reconstruction": "62.00 ± 0.25", "KL": "26.00 ± 0.25", "ELBO": "-88.00 ± 0.25"},
        **{"NLL": "84.00 ± 0.25", "paper": "80.50 (reconstruction_nll)"},
        **{"images": "10,000", "samples": "5,000", "epochs": "3,000"},
    }
    assert [row["experiment"] for row in rows(found)] == ["`avme_mnist`", "`draw_mnist`"]
    assert rows(found)[1]["paper"] == "-80.97 (elbo)" and rows(found)[1]["T"] == "64"


def test_what_a_row_is_of() -> None:
    (row,) = rows(evaluation("avme_mnist_conditional"))
    assert row["experiment"] == "`avme_mnist_conditional`, given y"
    for field, of in (("dataset", "digits"), ("model.latent", 2)):
        (row,) = rows(evaluation("avme_mnist", protocol={**PROTOCOL, "changed": {field: of}}))
        assert row["paper"] == "-"  # which is of the experiment as it is
    (row,) = rows(evaluation("avme_mnist", epochs=15.514))
    assert row["epochs"] == "15.5"


@pytest.mark.parametrize(
    ("name", "classes", "given"),
    [("avme_digits_conditional", 0, False), ("avme_digits", 10, True)],
)
def test_labels_are_those_of_the_run(name: str, classes: int, given: bool) -> None:
    of = {"protocol": {**PROTOCOL, "changed": {"model.num_classes": classes}}}
    (row,) = rows(evaluation(name, **of))
    assert row["experiment"].endswith(", given y") == given


def test_bounds_in_training_are_drawn(tmp_path: Path) -> None:
    curve = {"task": "training", "metric": "iwae_bound", "x": [1.0, 2.0], "values": [-120.0, -99.0]}
    found = [
        record("draw_mnist", dataset="binarized_mnist", split=split, **curve)
        for split in ("train", "valid")
    ]
    (picture,) = writer_tables.draw(found, epath.Path(tmp_path))
    assert picture.endswith("(figures/writer_training.png)")
    assert (tmp_path / "figures" / "writer_training.png").read_bytes().startswith(b"\x89PNG")
    others = [record("avme_digits", dataset="digits", **curve)]
    assert writer_tables.draw(others, epath.Path(tmp_path)) == []


def test_runs_by_their_number_of_steps(tmp_path: Path) -> None:
    found = [one for steps in (32, 1) for one in evaluation("avme_digits", **changed(steps))]
    found += evaluation("avme_digits")
    assert [row["T"] for row in rows(found)] == ["1", "12", "32"]
    (picture,) = writer_tables.draw(found, epath.Path(tmp_path))
    assert picture.endswith("(figures/writer_steps.png)")
    assert (tmp_path / "figures" / "writer_steps.png").read_bytes().startswith(b"\x89PNG")
    assert writer_tables.draw(evaluation("avme_digits"), epath.Path(tmp_path)) == []
    wider = {"protocol": {**PROTOCOL, "changed": {"model.steps": 4, "model.latent": 20}}}
    others = [*evaluation("avme_digits"), *evaluation("avme_digits", **wider)]
    assert writer_tables.draw(others, epath.Path(tmp_path)) == []


@pytest.mark.parametrize("longer_first", [False, True])
def test_the_run_that_was_trained_longest_is_shown(longer_first: bool) -> None:
    short, long = evaluation("avme_mnist", steps=5), evaluation("avme_mnist", steps=7)
    long = [one for one in long if one.metric != "kl_latent"]
    found = [*long, *short] if longer_first else [*short, *long]
    (group,) = evaluations(found, "likelihood", "elbo")
    assert {one.steps for one in group.values()} == {7}
    assert rows(found)[0]["KL"] == "-"


def test_what_has_not_run_is_listed_with_its_command(tmp_path: Path) -> None:
    timed = record("draw_mnist", task="benchmark", metric="step_seconds")
    shorter = evaluation("avme_digits", **changed(3))
    eval_records.write(tmp_path / "some.json", [*evaluation("avme_mnist"), timed, *shorter])
    found = table_under(tables(str(tmp_path)), "Not run yet as they are")
    commands = {row["experiment"].strip("`"): row["command"] for row in found}
    assert "avme_mnist" not in commands and "vae_mnist" not in commands
    assert commands["gmn_table1"] == "`python -m train gmn_table1 --workdir runs/gmn_table1`"
    assert {"draw_mnist", "avme_digits", "vma_table1"} <= set(commands)
