"""eval report: one page that says what was found, needs nothing else, and fits a phone."""

import base64
import html
import html.parser
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from eval import records, report
from eval.records import Record
from eval.report import HEAD, _points, results
from eval.run import open_run
from memjax.errors import InputError
from tests import eval_runs
from tests.eval_records import record

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(html.parser.HTMLParser):
    """What a page holds: tags with their attributes, the text of table cells, all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self._in_cell = True
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"


@pytest.fixture(autouse=True)
def _one_device() -> Iterator[None]:
    with eval_runs.one_device():
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two seeds, one of them evaluated."""
    base = tmp_path_factory.getbasetemp()
    evaluated = eval_runs.evaluated(base)
    other = eval_runs.trained(base, 1).workdir
    with eval_runs.one_device():
        return Path(report((str(evaluated), str(other)), output=str(base / "deep" / "page.html")))


def test_page_shows_results_pictures_and_configuration(
    page: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = Page(page.read_text())
    workdir = eval_runs.evaluated(tmp_path_factory.getbasetemp())
    for one in records.load(epath.Path(workdir / "results.json")):
        if one.value is not None:
            assert one.metric in found.cells
            assert any(cell.startswith(f"{one.value:.6g}") for cell in found.cells)
    assert "evaluated_0" in found.text  # one experiment twice: runs by their folders
    assert "mem_vae_digits_1" in found.text
    assert "Not evaluated yet." in found.text
    assert '"name": "mem_vae_digits"' in found.text
    assert "8x8 digits of scikit-learn. digits, seed 1," in found.text
    assert "-, 8x8" not in found.text  # no paper has these data
    sessions = json.loads((workdir / "sessions.json").read_text())
    assert sessions[0]["hardware"] in found.cells
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    # Bounds of both; of each its pictures and the preferences of its slots.
    assert len(images) == 1 + 2 * 2
    for attributes in images:
        kind, _, data = str(attributes["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert attributes["alt"]


def test_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    found = Page(text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in found.tags}
    named = [attributes.get("src") or attributes.get("href") for _, attributes in found.tags]
    assert all(one is None or one.startswith("data:") for one in named)
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        found.tags
    )


def test_rows_are_of_the_step_and_say_what_they_are_of() -> None:
    of_mask = record(task="imputation", metric="mse", protocol={"mask": "half", "split_seed": 0})
    found = [
        record(steps=7, value=-86.123456789),
        record(steps=8),
        record(steps=7, metric="iwae_bound", value=None),
        *[Record(**{**vars(of_mask), "steps": 7, "stderr": None, "num_samples": None})],
    ]
    rows = [dict(zip(HEAD, row, strict=True)) for row in results(found, 7)]
    assert [(row["metric"], row["value"], row["paper"]) for row in rows] == [
        ("log_likelihood", "-86.1235 ± 0.25", "-85.67"),
        ("mse", "-86", "-85.67"),
    ]
    assert (rows[1]["of"], rows[1]["samples"]) == ("mask half", "-")


def test_names_are_text_and_not_tags(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    trained = eval_runs.trained(tmp_path_factory.getbasetemp())
    workdir = eval_runs.copy(trained, tmp_path / "run")
    new = record("mem_vae_digits", metric="<script>alert(1)</script>", steps=20)
    records.add(epath.Path(workdir / "results.json"), [new])
    path = report((str(workdir),), output=str(tmp_path / "page.html"))
    assert "<script>" not in Path(path).read_text()
    assert "<script>alert(1)</script>" in Page(Path(path).read_text()).cells


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workdirs": ()}, "report: found no workdirs, expected at least one"),
        ({"output": "page.pdf"}, "--output: found page.pdf, expected a name that ends in .html"),
        ({"num_images": 0}, "--num-images: found 0, expected 1 to 1,000"),
        (
            {"output": "/dev/null/page.html"},
            "/dev/null/page.html: cannot be written (Not a directory), expected a file in a "
            "writable folder",
        ),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        report(**{"workdirs": ("nowhere",), **options})
    assert str(caught.value) == said


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [360, 1200])
def test_pictures_load_and_nothing_overflows(page: Path, tmp_path: Path, width: int) -> None:
    measure = """<script>document.title = JSON.stringify({
        shown: [...document.images].every(one => one.naturalWidth > 0),
        width: document.documentElement.scrollWidth, view: window.innerWidth})</script>"""
    # In a frame, since a window of Chromium is never narrower than 500 pixels.
    copy, frame = tmp_path / "copy.html", tmp_path / "frame.html"
    copy.write_text(page.read_text().replace("</body>", f"{measure}</body>"))
    frame.write_text(
        f"<iframe src='copy.html' width={width} height=900 style='border:0' "
        "onload='document.title = this.contentDocument.title'></iframe>"
    )
    dom = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--allow-file-access-from-files", "--virtual-time-budget=5000", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    title = re.search("<title>(.*?)</title>", dom)
    assert title is not None, dom[:500]
    found = json.loads(html.unescape(title[1]))
    assert found["shown"]
    assert found["view"] == width
    assert found["width"] <= width


def test_numbers_that_are_none_are_left_out_of_curves(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    trained = eval_runs.trained(tmp_path_factory.getbasetemp())
    workdir = eval_runs.copy(trained, tmp_path / "run")
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[0] = lines[0].replace('"iwae_bound": ', '"iwae_bound": NaN, "was": ')
    path.write_text("\n".join(lines) + "\n")
    run = open_run(str(workdir), None)
    assert [len(points) for points in _points(run, "iwae_bound")] == [1, 1]
