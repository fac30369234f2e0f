"""eval tables: what came of crashes that were tried."""

import json
from pathlib import Path

import pytest
from etils import epath

from eval import reliability_tables, tables
from memjax.errors import InputError
from tests.test_tables import table_under

TITLE = "What is lost in crashes"
ORIGIN = {"seconds": 1234.5, "hardware": "2 cores", "commit": "0123456789abcdef", "dirty": False}
FIGURES = {
    "kills": {"kills": 20, "kills_survived": 19, "steps_lost": 7, "same_state": False, **ORIGIN},
    "memory": {"steps": 20_000, "growth": 0.0031, "saves": 10, "growth_with_saves": 0.01, **ORIGIN},
    "evaluation": {
        **{"samples": 100_000, "kills": 2, "kills_survived": 2, "same_number": True},
        **{**ORIGIN, "dirty": True},
    },
    "hostile": {
        **{"bad_inputs": 500, "bad_inputs_refused": 500, "crashes": 0, "files_harmed": 0},
        **ORIGIN,
    },
    "pairs": {
        **{"multiprocess_kills": 3, "multiprocess_survived": 3, "longest_seconds": 17.3},
        **{"same_state": True, **ORIGIN},
    },
}


def test_figures_become_rows(tmp_path: Path) -> None:
    (tmp_path / "reliability.json").write_text(json.dumps(FIGURES))
    page = tables(str(tmp_path))
    rows = table_under(page, TITLE)
    assert [row["part"] for row in rows] == [f"`{name}`" for name in FIGURES]
    assert [row["found"] for row in rows] == [
        "19 of 20 kills of a training survived, 7 steps taken again, the same bits at the end: no",
        "memory of a training grown by 0.31% over 20,000 steps, by 1.00% with 10 saves",
        "2 of 2 kills of an evaluation of 100,000 samples survived, the same number: yes",
        "500 of 500 broken inputs refused, 0 crashes, 0 files harmed",
        "3 of 3 kills of one of two processes survived, the other ended within 17.3 s, the same "
        "bits at the end: yes",
    ]
    assert {row["seconds"] for row in rows} == {"1,234"}
    assert [row["commit"] for row in rows][1:3] == ["0123456789", "0123456789 (changed)"]


def test_without_figures_there_is_no_table(tmp_path: Path) -> None:
    assert reliability_tables.tables(epath.Path(tmp_path)) == []


@pytest.mark.parametrize("text", ["{", "[1]", '{"kills": 1}', '{"kills": {}}', '{"luck": {}}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "reliability.json").write_text(text)
    with pytest.raises(InputError, match=r"reliability\.json: expected the JSON of `python -m rel"):
        reliability_tables.tables(epath.Path(tmp_path))
