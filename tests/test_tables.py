"""eval tables: results/README.md and the marked part of README.md, from records alone."""

import json
import shutil
from pathlib import Path

import pytest

from eval import tables
from eval.tables import BEGIN, END
from memjax.configs import mem_vae
from memjax.errors import InputError
from tests import eval_records
from tests.eval_records import PROTOCOL, record

ROOT = Path(__file__).parent.parent
MOVING = {**PROTOCOL, "batch_norm": "moving_average"}


def table_under(page: str, title: str) -> list[dict[str, str]]:
    """Rows of the table that follows a line, each as a dictionary by the head's cells."""
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith(title):
            break
    assert next(lines) == ""
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    head, rule, *rows = cells
    assert set(rule) == {"---"}
    # "ours" stands for nats and for epochs.
    names = [f"{name}.{i}" if head.index(name) != i else name for i, name in enumerate(head)]
    return [dict(zip(names, row, strict=True)) for row in rows]


def by_experiment(page: str, title: str) -> dict[str, dict[str, str]]:
    return {row["experiment"].replace("`", ""): row for row in table_under(page, title)}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def page_of(results: Path, *found: eval_records.Record) -> str:
    eval_records.write(results / "made_up.json", list(found))
    page = tables(str(results), readme=None)
    assert (results / "README.md").read_text() == page + "\n"
    return page


def test_a_row_that_is_there(results: Path) -> None:
    page = page_of(results, record(value=-85.5012, stderr=0.1234))
    row = by_experiment(page, "Test log-likelihood on MNIST")["vae_mnist"]
    assert row == {
        "experiment": "`vae_mnist`",
        "paper": "-85.67",
        "ours": "-85.50 ± 0.12 (images)",
        "epochs: paper": "3,000",
        "ours.4": "3,000",
        "samples": "5,000",
        "protocol": "10,000 test images, contiguous split",
    }


def test_rows_without_a_run_show_a_dash_and_the_command(results: Path) -> None:
    page = page_of(results, record())
    rows = by_experiment(page, "Test log-likelihood on MNIST")
    rows |= by_experiment(page, "Test log-likelihood on OCR letters")
    expected = {}
    for name, experiment in mem_vae.EXPERIMENTS.items():
        command = f"python -m train {name} --workdir runs/{name}"
        if experiment.dataset == "mnist":
            expected[name] = experiment, command
        if experiment.dataset == "ocr_letters":
            # Which of the letters are the papers' test set is not known.
            expected[name] = experiment, command
            expected[f"{name}, random split"] = (
                experiment,
                f"{command}_random --data.split-order random",
            )
    assert set(rows) == set(expected)
    for name, (experiment, command) in expected.items():
        assert rows[name]["paper"] == f"{experiment.reference.value:.2f}"
        if name != "vae_mnist":
            assert rows[name]["ours"] == rows[name]["ours.4"] == rows[name]["samples"] == "-"
            assert rows[name]["protocol"] == f"`{command}`"


def test_each_split_of_the_letters_has_its_row(results: Path) -> None:
    letters = {"experiment": "vae_ocr", "dataset": "ocr_letters", "num_samples": 100_000}
    shuffled = {**PROTOCOL, "split_order": "random"}
    page = page_of(
        results, record(value=-31.0, **letters), record(value=-30.0, protocol=shuffled, **letters)
    )
    rows = by_experiment(page, "Test log-likelihood on OCR letters")
    assert rows["vae_ocr"]["ours"].startswith("-31.00")
    assert rows["vae_ocr, random split"]["ours"].startswith("-30.00")
    assert rows["vae_ocr, random split"]["protocol"] == "10,000 test images, random split"
    assert rows["vae_ocr"]["samples"] == "100,000"


def test_fewer_samples_of_the_same_run_and_images_are_said(results: Path) -> None:
    letters = {"experiment": "vae_ocr", "dataset": "ocr_letters"}
    page = page_of(
        results,
        record(value=-31.0, num_samples=100_000, **letters),
        record(value=-31.256, **letters),
        record(value=-40.0, num_samples=50, epochs=20, **letters),
        record(value=-41.0, num_samples=50, num_images=100, **letters),
        record(value=-42.0, num_samples=50, protocol=MOVING, **letters),
    )
    row = by_experiment(page, "Test log-likelihood on OCR letters")["vae_ocr"]
    assert row["samples"] == "100,000 (5,000: -31.26)"


def test_shorter_training_is_said(results: Path) -> None:
    page = page_of(results, record(epochs=30))
    row = by_experiment(page, "Test log-likelihood on MNIST")["vae_mnist"]
    assert row["ours.4"] == "30"
    assert row["protocol"].endswith(", trained for 30 of 3,000 epochs")


def test_seeds_are_said(results: Path) -> None:
    page = page_of(results, record(seeds=[0, 1, 5], stderr_seeds=0.071, stderr=None))
    row = by_experiment(page, "Test log-likelihood on MNIST")["vae_mnist"]
    assert row["ours"] == "-86.00 ± 0.07 (3 seeds)"
    (run,) = table_under(page, "Where these numbers come from")
    assert run["seeds"] == "0, 1, 5"


@pytest.mark.parametrize(
    "lesser",
    [
        {"epochs": 2999},
        {"num_images": 9999},
        {"num_samples": 4999},
        {"split": "valid"},
        {"metric": "elbo"},
        {"protocol": MOVING},
        {"protocol": {**PROTOCOL, "changed": {"model.latent": 10}}},
    ],
)
@pytest.mark.parametrize("lesser_first", [True, False])
def test_the_longest_and_largest_test_run_is_shown(
    results: Path, lesser: dict[str, object], lesser_first: bool
) -> None:
    found = [record(value=-50.0, **lesser), record(value=-86.0)]
    page = page_of(results, *(found if lesser_first else reversed(found)))
    rows = by_experiment(page, "Test log-likelihood on MNIST")
    assert rows["vae_mnist"]["ours"].startswith("-86.00")


def test_both_kinds_of_batch_statistics_are_compared(results: Path) -> None:
    page = page_of(
        results,
        record(value=-87.0, num_images=100),  # a pair of fewer images
        record(value=-88.0, num_images=100, protocol=MOVING),
        record(value=-86.0123),
        record(value=-86.5, protocol=MOVING),
        record(value=-1.0, protocol=MOVING, num_images=3),
        record(value=-85.9, num_samples=100_000),  # without a twin
        record("mem_vae_mnist"),
    )
    assert table_under(page, "Batch statistics") == [
        {
            "experiment": "`vae_mnist`",
            "pass": "-86.012",
            "moving average": "-86.500",
            "difference": "+0.488",
        }
    ]


def test_parameters_stand_beside_the_published_ones(results: Path) -> None:
    counted = {"task": "parameters", "metric": "num_parameters", "split": "none"}
    page = page_of(
        results,
        record(value=1_440_984, paper=1_441_000, **counted),
        record("mem_vae_digits", value=7, paper=None, **counted),
    )
    assert table_under(page, "Number of parameters") == [
        {"experiment": "`vae_mnist`", "paper": "1,441K", "ours": "1,440,984"}
    ]


def test_every_evaluated_run_says_where_it_comes_from(results: Path) -> None:
    found = [
        record("mem_vae_mnist", protocol={**PROTOCOL, "changed": {"model.latent": 10}}),
        record(protocol=MOVING),
        record(epochs=10, steps=6000, commit="b" * 40),
        record(num_images=100, commit="c" * 40),
        record(commit="a" * 40),
    ]
    for order in (found, found[::-1]):
        rows = table_under(page_of(results, *order), "Where these numbers come from")
        runs = [(row["experiment"], row["steps"], row["evaluated with"]) for row in rows]
        moving = rows[3]["evaluated with"]
        assert moving.startswith("batch norm: moving_average")
        with_pass = moving.replace("moving_average", "pass")
        assert runs == [
            ("`vae_mnist`", "1,800,000", with_pass),
            ("`mem_vae_mnist` (latent 10)", "1,800,000", with_pass),
            ("`vae_mnist`", "6,000", with_pass),
            ("`vae_mnist`", "1,800,000", moving),
        ]
        # Of several evaluations of one training, first that of the figure in the table above.
        assert rows[0]["evaluated at commit"] == f"{'a' * 10}, {'c' * 10}"


@pytest.mark.parametrize("other", [{"seeds": [1]}, {"trained": {"commit": "d" * 40}}])
def test_trainings_of_one_length_have_rows_of_their_own(
    results: Path, other: dict[str, object]
) -> None:
    page = page_of(results, record(), record(num_images=100, **other))
    assert len(table_under(page, "Where these numbers come from")) == 2


def test_where_numbers_come_from(results: Path) -> None:
    (row,) = table_under(page_of(results, record(dirty=True)), "Where these numbers come from")
    assert row == {
        "experiment": "`vae_mnist`",
        "seeds": "0",
        "steps": "1,800,000",
        "trained on": "2 cores of a test",
        "seconds": "1,234",
        "trained at commit": "fedcba9876, abcdef0123 (changed)",
        "evaluated with": "batch norm: pass, float32, jax 0.10.2",
        "evaluated at commit": "0123456789 (changed)",
    }


def curve(split: str = "train", **fields: object) -> eval_records.Record:
    points = {"x": [1.0, 2.0, 3.0], "values": [-100.0, -90.0, -88.0]}
    training = {"task": "training", "metric": "iwae_bound", "value": None, "stderr": None}
    return record(split=split, **{**training, **points, **fields})


def test_curves_are_drawn_and_shown(results: Path) -> None:
    page = page_of(results, record(), curve())
    picture = results / "figures" / "bound_mnist.png"
    assert "(figures/bound_mnist.png)" in page
    once = picture.read_bytes()
    assert once.startswith(b"\x89PNG")
    page_of(results, record(), curve(values=[-100.0, -70.0, -60.0]))
    assert picture.read_bytes() != once
    page_of(results, record(), curve())
    assert picture.read_bytes() == once


@pytest.mark.parametrize(
    "other",
    [
        {"split": "valid"},  # MNIST is trained on train and valid together
        {"protocol": {**PROTOCOL, "changed": {"model.latent": 10}}},
        {"epochs": 30},
        {"experiment": "mem_vae_mnist"},  # of which the table has no likelihood
    ],
)
def test_curves_are_of_the_longest_unchanged_training(
    results: Path, other: dict[str, object]
) -> None:
    page_of(results, record(), curve())
    alone = (results / "figures" / "bound_mnist.png").read_bytes()
    page_of(results, record(), curve(values=[-1.0, -2.0, -3.0], **other), curve())
    assert (results / "figures" / "bound_mnist.png").read_bytes() == alone


def step_seconds(**fields: object) -> eval_records.Record:
    timed = {"task": "benchmark", "metric": "step_seconds", "dataset": "random", "split": "train"}
    return record(
        "vma_few_shot", **{**timed, "value": 0.01234, "protocol": {"rounds": 7}, **fields}
    )


def test_times_of_changed_experiments_have_rows_of_their_own(results: Path) -> None:
    changed = {"rounds": 7, "changed": {"model.maps": [32, 32], "model.latent": 8}}
    slow = step_seconds(value=12.345, protocol=changed)
    mapped = step_seconds(protocol={"rounds": 9, "huge_pages": True})
    page = page_of(results, step_seconds(value=2.0), mapped, slow)
    rows = table_under(page, "Times, medians of alternating rounds")
    assert [(row["what"], row["seconds"], row["hardware"]) for row in rows] == [
        ("a step of training", "0.0123", "1 core of a test, huge pages"),
        (
            "a step of training, `--model.maps 32 32`, `--model.latent 8`",
            *("12.35", "1 core of a test"),
        ),
    ]


def ratio(rival: str, value: float, **protocol: object) -> eval_records.Record:
    said = {"job": "mem_vae_mnist", "rival": rival, "device": "2 cores", "precision": "float32"}
    seconds = {"ours_seconds": 0.02, "rival_seconds": 0.02 * value}
    return step_seconds(metric="ratio", value=value, protocol={**said, **seconds, **protocol})


def test_rivals_have_a_row_each_and_in_the_readme_a_column(results: Path) -> None:
    readme = results / "page.md"
    readme.write_text("<!-- results: begin --><!-- results: end -->")
    half = {"precision": "bfloat16", "ours_seconds": 0.01, "huge_pages": True}
    found = [ratio("limit", 0.5), ratio("torch_eager", 1.5), ratio("limit", 0.25, **half)]
    last = ratio("limit", 0.6, rounds=9, ours_seconds=0.04, rival_seconds=0.024)
    eval_records.write(results / "made_up.json", [*found, last])
    page = tables(str(results), readme=str(readme))
    rows = table_under(page, "Seconds of a training step, of an")
    assert [(row["rival"], row["precision"], row["rival's"], row["ratio"]) for row in rows] == [
        ("torch_eager", "float32", "0.03", "1.50"),
        ("limit", "float32", "0.024", "0.60"),
        ("limit", "bfloat16", "0.005", "0.25"),
    ]
    short = table_under(readme.read_text(), "Seconds of a training step, of an")
    assert [[*row.values()] for row in short] == [
        ["`mem_vae_mnist`", "float32", "0.02 to 0.04", "1.50", "0.60", "2 cores"],
        ["`mem_vae_mnist`", "bfloat16", "0.01", "-", "0.25", "2 cores, huge pages"],
    ]
    assert [row["device"] for row in rows] == ["2 cores", "2 cores", "2 cores, huge pages"]
    assert "Times" not in page  # no row of the table of times


def test_what_was_timed_again_stays_where_its_job_is(results: Path) -> None:
    half, other = {"precision": "bfloat16"}, {"job": "avme_mnist"}
    found = [ratio("limit", 0.5, **half), ratio("limit", 2.0, **other), ratio("limit", 0.75)]
    last = [ratio("limit", 3.0, device="a third"), ratio("torch_eager", 0.6)]
    eval_records.write(results / "made_up.json", [*found, *last])
    rows = table_under(tables(str(results)), "Seconds of a training step, of an")
    assert [row["ratio"] for row in rows] == ["0.60", "0.75", "0.50", "2.00", "3.00"]


def over_memory(curve: str, values: list[float]) -> eval_records.Record:
    return step_seconds(
        metric="step_seconds_by_memory",
        value=None,
        protocol={"curve": f"dense, {curve}"},
        x=[16, 48, 1024],
        values=values,
    )


def test_seconds_over_memory_are_drawn_and_shown(results: Path) -> None:
    page = page_of(
        results,
        over_memory("hard", [2.0, 3.0, 4.0]),
        over_memory("soft features", [1.0, 3.5, 9.0]),
        over_memory("soft pixels", [1.0, 4.0, 4.0]),
    )
    rows = table_under(page, "Seconds of a training step")
    assert [row["entries"] for row in rows] == ["16", "48", "1,024"]
    assert [row["dense, soft features"] for row in rows] == ["1.00", "3.50", "9.00"]
    assert "against dense, soft features: faster from 48 entries on." in page
    assert "against dense, soft pixels: not faster at the largest size." in page
    assert (results / "figures" / "addressing_speed.png").read_bytes().startswith(b"\x89PNG")


def gradient(values: list[float], **changed: object) -> eval_records.Record:
    return step_seconds(
        metric="gradient_gib_by_steps",
        value=None,
        protocol={"changed": {"objective.num_samples": 5, **changed}},
        x=[16, 64],
        values=values,
    )


def test_what_rematerialisation_saves_is_a_ratio(results: Path) -> None:
    again = gradient([0.1, 0.25], **{"model.rematerialise": True})
    page = page_of(results, gradient([9.0, 9.0]), gradient([0.4, 1.5]), again)
    rows = table_under(page, "GiB that the gradient")
    assert [row["T"] for row in rows] == ["16", "64"]
    assert [row["kept"] for row in rows] == ["0.40", "1.50"]
    assert [row["ratio"] for row in rows] == ["4.0", "6.0"]


def test_seeds_together_stand_beside_runs_of_their_own(results: Path) -> None:
    of_seeds = {"metric": "step_seconds_by_seeds", "value": None, "x": [1.0, 3.0]}
    old, new = (step_seconds(values=values, **of_seeds) for values in ([9.0, 9.0], [0.5, 1.2]))
    (row,) = table_under(page_of(results, old, new), "Seconds of a step of several seeds")
    assert (row["seeds"], row["together"], row["apart"], row["ratio"]) == (
        *("3", "1.20", "1.50", "1.25"),
    )


def test_no_curves_no_picture(results: Path) -> None:
    assert "figures" not in page_of(results, record())
    assert not (results / "figures").exists()


# ---- README.md


README = f"# A page\n\nwords\n{BEGIN}\nold | table\n{END}\nmore words \n\n\n"


def test_only_the_marked_part_of_the_page_changes(results: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    eval_records.write(results / "made_up.json", [record()])
    page = tables(str(results), str(readme))
    once = readme.read_text()
    before, marked = once.split(BEGIN)
    marked, after = marked.split(END)
    assert before == "# A page\n\nwords\n"
    assert after == "\nmore words \n\n\n"
    assert "old | table" not in marked
    assert marked.strip() in page
    rows = by_experiment(marked, "Test log-likelihood on MNIST")
    assert rows["vae_mnist"]["ours"] == "-86.00 ± 0.25 (images)"
    assert by_experiment(marked, "Test log-likelihood on OCR letters")

    tables(str(results), str(readme))
    assert readme.read_text() == once


@pytest.mark.parametrize(
    "text", ["", "no marks\n", f"one {BEGIN} mark\n", f"{END} first, {BEGIN} then\n"]
)
def test_a_page_without_marks_is_left_alone(results: Path, tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(InputError, match=r"README.md: not found or without its marks, expected <"):
        tables(str(results), str(readme))
    assert readme.read_text() == text


def test_a_missing_page_is_not_made(results: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"README.md: not found or without its marks, expected <"):
        tables(str(results), str(tmp_path / "README.md"))
    assert not (tmp_path / "README.md").exists()


def test_committed_pages_are_as_generated(tmp_path: Path) -> None:
    if not (ROOT / "results" / "README.md").exists():
        pytest.skip("results/README.md is not there yet: python -m eval tables")
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    tables(str(tmp_path / "results"), str(tmp_path / "README.md"))
    for page in ("results/README.md", "README.md"):
        assert (tmp_path / page).read_text() == (ROOT / page).read_text()
    marked = (ROOT / "README.md").read_text()
    assert marked.count(BEGIN) == marked.count(END) == 1
    pictures = {path.name for path in (tmp_path / "results" / "figures").glob("*")}
    assert pictures == {path.name for path in (ROOT / "results" / "figures").glob("*")}


# ---- what is refused


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder, expected the folder of `eval record`"):
        tables(str(tmp_path / "results"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{}}", "3", json.dumps([{"experiment": "vae_mnist"}])])
def test_file_that_holds_no_records_is_named(results: Path, text: str) -> None:
    (results / "README.md").write_text("before")
    (results / "broken.json").write_text(text)
    with pytest.raises(InputError, match=r"broken\.json: expected a JSON list of memjax records"):
        tables(str(results), readme=None)
    assert (results / "README.md").read_text() == "before"


def test_page_that_cannot_be_written_is_said(results: Path) -> None:
    (results / "README.md").mkdir()
    with pytest.raises(InputError, match=r"README\.md: cannot be written \(.*\), expected a fil"):
        tables(str(results), readme=None)
