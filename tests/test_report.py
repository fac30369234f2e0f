"""eval report: one page that says what was found, needs nothing else, and fits a phone."""

import base64
import dataclasses
import html
import html.parser
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

import train
from eval import records, report
from eval.likelihood import with_statistics
from eval.records import Record
from eval.report import BOUNDS, HEAD, _curves, _pictures, _points, results
from eval.run import open_run
from eval.samples import pictures
from eval.slots import averaged, panels_disabled, preferences_of
from memjax import plots
from memjax.errors import InputError
from tests import eval_runs, runs
from tests.eval_records import record

CHROMIUMS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    *("headless_shell", "chrome-headless-shell"),
)
CHROMIUM = next(filter(None, map(shutil.which, CHROMIUMS)), None)
HEIGHT = 844


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
    # Bounds of both; of each its pictures, samples without memory, preferences of its slots.
    assert len(images) == 1 + 2 * 3
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
    unknown = {"stderr": None, "num_samples": None, "paper_epochs": None}
    of_mask = record(task="imputation", metric="mse", protocol={"mask": "half", "split_seed": 0})
    found = [
        record(steps=7, value=-86.123456789),
        record(steps=8),
        record(steps=7, metric="iwae_bound", value=None),
        *[Record(**{**vars(of_mask), "steps": 7, **unknown})],
    ]
    rows = [dict(zip(HEAD, row, strict=True)) for row in results(found, 7)]
    assert [(row["metric"], row["value"], row["paper"]) for row in rows] == [
        ("log_likelihood", "-86.1235 ± 0.25", "-85.67 (3,000 epochs)"),
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


def screenshot(page: Path, folder: Path, width: int, dark: bool) -> tuple[np.ndarray, Any]:
    """A window `[HEIGHT, width, 3]` of a page, and what the page says of itself in it."""
    measure = """<script>
        for (const one of document.querySelectorAll("details")) one.open = true;
        document.title = JSON.stringify({
            shown: [...document.images].map(one => one.naturalWidth > 0),
            inch: Math.min(...[...document.images].map(
                one => one.clientWidth / (one.naturalWidth / 130))),
            dark: matchMedia("(prefers-color-scheme: dark)").matches,
            width: document.documentElement.scrollWidth, view: innerWidth})</script>"""
    # In a frame, since a window of Chromium lays out nothing in less than 500 pixels. A frame has
    # the scheme of what it is in.
    copy, frame, picture = (folder / name for name in ("copy.html", "frame.html", "page.png"))
    copy.write_text(page.read_text().replace("</body>", f"{measure}</body>"))
    frame.write_text(
        "<!doctype html><style>:root { color-scheme: light dark } body { margin: 0 }</style>"
        f"<iframe src='copy.html' width={width} height={HEIGHT} style='border:0; display:block' "
        "onload='document.title = this.contentDocument.title'></iframe>"
    )
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    dom = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars"),
            *(f"--disable-{name}" for name in quiet),
            *(f"--user-data-dir={folder / 'profile'}", "--allow-file-access-from-files"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *(f"--window-size={width},{HEIGHT}", "--virtual-time-budget=5000"),
            *("--dump-dom", f"--screenshot={picture}", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    title = re.search("<title>(.*?)</title>", dom)
    assert title is not None, dom[:500]
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")), json.loads(html.unescape(title[1]))


@pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(CHROMIUMS)} is installed")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_load_and_nothing_overflows(
    page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    shown, found = screenshot(page, tmp_path, width, dark)
    assert found["shown"] and all(found["shown"])
    assert (found["view"], found["dark"]) == (width, dark)
    assert found["width"] <= width
    assert found["inch"] >= 54  # pixels of a figure's inch: text of 10 points can be read
    assert shown.shape == (HEIGHT, width, 3)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 20
    corner = shown[:8, :8].reshape(-1, 3)
    assert corner.max() < 64 if dark else corner.min() > 192


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


def test_curves_end_at_the_step_that_is_shown(tmp_path_factory: pytest.TempPathFactory) -> None:
    workdir = eval_runs.trained(tmp_path_factory.getbasetemp()).workdir
    for epoch in (1, 2):
        run = open_run(str(workdir), None, step=epoch * eval_runs.STEPS_PER_EPOCH)
        assert _points(run, "iwae_bound")[0] == list(range(1, epoch + 1))


def test_pictures_are_of_the_pass_over_the_training_set(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = open_run(str(eval_runs.trained(tmp_path_factory.getbasetemp()).workdir), None)
    passed = with_statistics(run, "pass")[0]
    found = [base64.b64decode(one.png) for one in _pictures(run, 9, 3)]
    expected, other = (plots.png(plots.panels(pictures(of, 9, 3))) for of in (passed, run))
    assert found[0] == expected != other
    without = panels_disabled(passed, (0, 1), 3, 9)
    assert found[1] == plots.png(plots.panels(without, abreast=2))
    assert len(found) == 3

    of = preferences_of(passed, (0, 1), 0, 3, 1000)
    labels = passed.dataset.splits["test"].labels
    names = [str(digit) for digit in range(10)]
    assert labels is not None
    preferred, other = (
        plots.png(plots.preferences({layer: averaged(of[layer], by) for layer in of}, names))
        for by in (labels, labels[::-1])
    )
    assert found[2] == preferred != other


def test_curves_are_each_run_s_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, drawn, draw = tmp_path_factory.getbasetemp(), {}, plots.curves

    def curves(lines: dict[str, Any], *labels: str) -> Any:
        drawn.update(lines)
        return draw(lines, *labels)

    monkeypatch.setattr(plots, "curves", curves)
    both = [open_run(str(eval_runs.trained(base, seed).workdir), None) for seed in (0, 1)]
    assert len(_curves(both)) == 1
    expected = {
        f"{run.workdir.name}, {BOUNDS[metric]}": _points(run, metric)
        for run in both
        for metric in BOUNDS
        if _points(run, metric)[0]
    }
    assert drawn == expected
    assert len({str(points) for points in drawn.values()}) == len(drawn)


def test_images_without_labels_have_samples_without_memory(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    train.run(runs.experiment(runs.write_images(tmp_path), num_epochs=1), str(workdir))
    run = open_run(str(workdir), None)
    captions = [one.caption for one in _pictures(run, 5, 0)]
    assert captions[1:] == ["the same samples with the memory whole, and disabled"]
    never_whole = dataclasses.replace(run, model=run.model.clone(disabled=(0,)))
    assert len(_pictures(never_whole, 5, 0)) == 1
