"""The notebooks run from beginning to end, in a folder of their own."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


class Expected(NamedTuple):
    """What makes a notebook short, which shows as well that every cell runs, and what it gives."""

    length: str
    shorter: str
    printed: tuple[str, ...]
    pictures: int


EXPECTED = {
    "01_mem_vae.ipynb": Expected(
        "num_epochs=40, save_every=40",
        "num_epochs=1, save_every=1",
        ("vae_digits: 25 steps", "mem_vae_digits: step 25"),
        pictures=3,
    ),
    "02_variational_memory_addressing.ipynb": Expected(
        "steps=600",
        "steps=3",
        ("vma_few_shot: 3 steps", "summed out: ", "memory shuffled: NLL ", "4-shot accuracy"),
        pictures=2,
    ),
    "03_recurrent_writer.ipynb": Expected(
        "num_epochs=60, save_every=60",
        "num_epochs=1, save_every=1",
        ("avme_digits, T = 1: 25 updates", "avme_digits_conditional, T = 12: reconstruction "),
        pictures=2,
    ),
}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a clone, whose notebooks/ a kernel may write to."""
    for package in ("memjax", "train", "eval"):
        (tmp_path / package).symlink_to(ROOT / package, target_is_directory=True)
    (tmp_path / "notebooks").mkdir()
    # As a reader has it: the devices of the machine, not four virtual ones on a few cores.
    flags = os.environ["XLA_FLAGS"].split()
    kept = [flag for flag in flags if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join(kept))
    return tmp_path


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path: Path, clone: Path) -> None:
    text, expected = path.read_text(encoding="utf-8"), EXPECTED[path.name]
    assert text.count(expected.length) == 1
    notebook = nbformat.reads(text.replace(expected.length, expected.shorter), as_version=4)
    resources = {"metadata": {"path": str(clone / "notebooks")}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    for text in expected.printed:
        assert text in printed
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == expected.pictures
    assert not list((clone / "notebooks").iterdir())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_committed_without_large_outputs(path: Path) -> None:
    assert path.stat().st_size < 100_000
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sizes = [len(json.dumps(output)) for cell in cells for output in cell.get("outputs", [])]
    assert max(sizes, default=0) < 20_000
