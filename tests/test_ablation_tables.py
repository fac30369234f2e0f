"""eval tables: what a changed field is worth, from records of several seeds alone."""

from typing import Any

from eval import ablation_tables
from eval.records import Record
from tests.eval_records import PROTOCOL, record
from tests.test_tables import table_under

TITLE = "Choices on ocr_letters"


def seeds(value: float, experiment: str = "mem_vae_ocr", /, **fields: Any) -> Record:
    common = {"dataset": "ocr_letters", "epochs": 200, "seeds": [0, 1, 2], "stderr_seeds": 0.03}
    return record(experiment, value=value, **{**common, **fields})


def changed(**fields: Any) -> dict[str, Any]:
    return {**PROTOCOL, "changed": {f"model.{name}": of for name, of in fields.items()}}


def rows(*found: Record) -> list[tuple[str, ...]]:
    (made,) = ablation_tables.tables(list(found))
    return [tuple(row.values()) for row in table_under(made, TITLE)]


def test_the_unchanged_experiment_comes_first_and_is_subtracted() -> None:
    found = rows(
        seeds(-30.5, "vae_ocr"),
        seeds(-29.9, protocol=changed(slots=[30, 70]), stderr_seeds=0.04),
        seeds(-30.0),
        seeds(-30.1, protocol={**PROTOCOL, "batch_norm": "moving_average"}),
    )
    assert found == [
        ("`mem_vae_ocr`", "pass", "-30.00 ± 0.25 ± 0.03 (3 seeds)", "-"),
        ("`vae_ocr`", "pass", "-30.50 ± 0.25 ± 0.03 (3 seeds)", "-0.50 ± 0.04"),
        ("`mem_vae_ocr` (slots 30 70)", "pass", "-29.90 ± 0.25 ± 0.04 (3 seeds)", "+0.10 ± 0.05"),
        ("`mem_vae_ocr`", "moving_average", "-30.10 ± 0.25 ± 0.03 (3 seeds)", "-0.10"),
    ]


def test_runs_of_other_lengths_or_samples_stand_in_tables_of_their_own() -> None:
    of_slots, longer = changed(slots=[30, 70]), {"epochs": 400, "steps": 128_400}
    found = [
        *(seeds(-30.0), seeds(-29.9, protocol=of_slots)),
        *(seeds(-29.0, **longer), seeds(-28.9, protocol=of_slots, **longer)),
        *(seeds(-29.5, num_samples=50), seeds(-29.4, num_samples=50, protocol=of_slots)),
    ]
    assert len(ablation_tables.tables(found)) == 3


def test_one_seed_or_nothing_changed_makes_no_table() -> None:
    of_slots = changed(slots=[30, 70])
    alone = [record("mem_vae_ocr"), record("mem_vae_ocr", protocol=of_slots)]
    assert ablation_tables.tables(alone) == []
    assert ablation_tables.tables([seeds(-30.0), seeds(-30.5, "vae_ocr")]) == []
    assert ablation_tables.tables([seeds(-29.9, protocol=of_slots)]) == []
    of_others = seeds(-29.9, protocol=of_slots, seeds=[3, 4])
    assert ablation_tables.tables([seeds(-30.0), of_others]) == []
