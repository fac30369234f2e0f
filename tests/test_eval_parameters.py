"""eval parameters: the published models' counts, and those of a run."""

import json
from pathlib import Path

import jax
import pytest

from eval import parameters
from memjax.errors import InputError
from tests import eval_runs

ROOT = Path(__file__).parent.parent
# Ours, batch norm's scale and shift among them, and as the paper gives them, in thousands.
PUBLISHED = {
    "vae_mnist": (1_440_984, 1_441_000),
    "mem_vae_mnist": (1_550_084, 1_550_000),
    "vae530_mnist": (1_559_184, 1_559_000),
    "vae_ocr": (163_828, 164_000),
    "mem_vae_ocr": (207_528, 208_000),
}


def test_the_five_published_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = parameters(results=str(tmp_path / "results"))
    counts = {record.experiment: (record.value, record.paper) for record in found}
    assert counts == PUBLISHED
    assert {(record.task, record.metric) for record in found} == {("parameters", "num_parameters")}

    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["model", "parameters", "paper"]
    assert [line.split() for line in printed[1:]] == [
        [name, f"{ours:,}", f"{paper // 1000:,}K"] for name, (ours, paper) in PUBLISHED.items()
    ]

    written = tmp_path / "results" / "parameters.json"
    once = written.read_bytes()
    assert [record["value"] for record in json.loads(once)] == [n for n, _ in PUBLISHED.values()]
    parameters(results=str(tmp_path / "results"))
    assert written.read_bytes() == once


def test_committed_counts_are_these() -> None:
    committed = json.loads((ROOT / "results" / "parameters.json").read_text())
    found = {record["experiment"]: (record["value"], record["paper"]) for record in committed}
    assert found == PUBLISHED


def test_a_run_counts_its_own_model(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = eval_runs.trained(tmp_path_factory.getbasetemp())
    workdir = eval_runs.copy(run, tmp_path / "run")
    (found,) = parameters(workdir=str(workdir))
    assert found.value == eval_runs.NUM_PARAMETERS
    assert found.value == sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"]))
    assert found.paper is None
    assert f"mem_vae_digits  {found.value:,}" in capsys.readouterr().out
    (written,) = json.loads((workdir / "results.json").read_text())
    assert written["value"] == found.value
    assert written["protocol"]["changed"]["model.hidden"] == [16, 12]


def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written \(.*\), expected a file in a writ"):
        parameters(results=str(tmp_path / "results"))
    assert (tmp_path / "results").read_text() == "a file"


def test_two_places_for_one_count_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--results: found with --workdir, expected one of the"):
        parameters(workdir=str(tmp_path), results=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_folder_that_is_no_workdir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the workdir of a training run"):
        parameters(workdir=str(tmp_path))
