"""eval record: runs into results/, seeds of one experiment as one record."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval import record
from eval.records import Record
from memjax.errors import InputError
from tests import eval_records, eval_runs
from tests.runs import contents


def made_up(folder: Path, found: list[Record], metrics: str | None = None) -> Path:
    """A workdir with these results, and what `record` reads of the run itself."""
    eval_records.write(folder / "results.json", found)
    fields = {
        "name": found[0].experiment,
        "seed": max([0, *found[-1].seeds]),
        "objective": {"num_samples": 3},
        "train": {"validation_samples": 5},
    }
    (folder / "config.json").write_text(json.dumps({"format_version": 1, "fields": fields}))
    if metrics is not None:
        (folder / "metrics.jsonl").write_text(metrics)
    return folder


def seed(folder: Path, number: int, value: float, **fields: object) -> Path:
    one = eval_records.record(value=value, seeds=[number], **fields)
    return made_up(folder / str(number), [one])


def of_metric(found: list[Record], metric: str, task: str = "likelihood") -> Record:
    (one,) = [one for one in found if (one.metric, one.task) == (metric, task)]
    return one


# ---- real runs


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of the tiny run, evaluated; not to be written to."""
    return [eval_runs.evaluated(tmp_path_factory.getbasetemp(), number) for number in (0, 1)]


def test_two_seeds_become_one_record(evaluated: list[Path], tmp_path: Path) -> None:
    before = [contents(workdir) for workdir in evaluated]
    written = record(tuple(map(str, evaluated)), results=str(tmp_path))
    path = tmp_path / "mem_vae_digits.json"
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.lock"}
    assert [(one.metric, one.value, one.values) for one in eval_records.read(path)] == [
        (one.metric, one.value, one.values) for one in written
    ]
    assert [contents(workdir) for workdir in evaluated] == before

    zero, one = (eval_records.read(workdir / "results.json") for workdir in evaluated)
    for metric in ("log_likelihood", "elbo", "effective_sample_size"):
        both, a, b = (of_metric(found, metric) for found in (written, zero, one))
        assert a.value != b.value
        assert both.seeds == [0, 1]
        assert both.value == pytest.approx((a.value + b.value) / 2)
        assert both.stderr == pytest.approx((a.stderr + b.stderr) / 2)
        assert both.stderr_seeds == pytest.approx(abs(a.value - b.value) / 2)
        assert both.seconds == pytest.approx(a.seconds + b.seconds)
        assert both.protocol == a.protocol
    both, a, b = (of_metric(found, "iwae_bound") for found in (written, zero, one))
    assert both.x == [1, 5, eval_runs.K]
    np.testing.assert_allclose(both.values, (np.array(a.values) + b.values) / 2)


def test_training_curves_come_along(evaluated: list[Path], tmp_path: Path) -> None:
    written = record(tuple(map(str, evaluated)), results=str(tmp_path))
    curves = {one.split: one for one in written if one.task == "training"}
    assert set(curves) == {"train", "valid"}
    lines = [
        [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        for workdir in evaluated
    ]
    for split, name in (("train", "iwae_bound"), ("valid", "validation_bound")):
        assert curves[split].x == [1, 2]
        assert curves[split].seeds == [0, 1]
        assert curves[split].metric == "iwae_bound"
        assert curves[split].num_samples == {"train": 1, "valid": 5}[split]
        assert (curves[split].epochs, curves[split].steps) == (2, 2 * eval_runs.STEPS_PER_EPOCH)
        expected = np.mean([[line[name] for line in run] for run in lines], axis=0)
        np.testing.assert_allclose(curves[split].values, expected, atol=1e-4)


def test_recording_twice_changes_nothing(evaluated: list[Path], tmp_path: Path) -> None:
    workdirs = tuple(map(str, evaluated))
    record(workdirs, results=str(tmp_path))
    once = contents(tmp_path)
    record(workdirs, results=str(tmp_path))
    assert contents(tmp_path) == once
    # A run that is named twice counts once, in whatever order.
    record((workdirs[1], workdirs[0], workdirs[1]), results=str(tmp_path))
    twice = eval_records.read(tmp_path / "mem_vae_digits.json")
    (first,) = [one for one in twice if one.metric == "log_likelihood"]
    assert first.seeds == [0, 1]


# ---- made-up results


def test_mean_and_error_over_three_seeds(tmp_path: Path) -> None:
    workdirs = [seed(tmp_path, number, value) for number, value in ((2, -86), (0, -85), (1, -84.4))]
    (found,) = record(tuple(map(str, workdirs)), results=str(tmp_path / "results"))
    assert found.seeds == [0, 1, 2]
    assert found.value == pytest.approx(-85.13333333)
    # Deviations -0.8667, 0.1333, 0.7333: sqrt(1.30667 / 2 / 3).
    assert found.stderr_seeds == pytest.approx(0.46666667)
    assert found.stderr == pytest.approx(0.25)
    assert found.seconds == 300


def test_one_seed_is_copied_as_it_is(tmp_path: Path) -> None:
    workdir = seed(tmp_path, 0, -86)
    record((str(workdir),), results=str(tmp_path / "results"))
    assert eval_records.read(tmp_path / "results" / "vae_mnist.json") == eval_records.read(
        workdir / "results.json"
    )


@pytest.mark.parametrize(
    "different",
    [
        {"epochs": 30},
        {"num_samples": 50},
        {"num_images": 100},
        {"split": "valid"},
        {"protocol": {**eval_records.PROTOCOL, "batch_norm": "moving_average"}},
        {"protocol": {**eval_records.PROTOCOL, "changed": {"model.latent": 10}}},
    ],
)
def test_what_differs_by_more_than_the_seed_stays_apart(
    tmp_path: Path, different: dict[str, object]
) -> None:
    workdirs = (str(seed(tmp_path, 0, -86)), str(seed(tmp_path, 1, -85, **different)))
    found = record(workdirs, results=str(tmp_path / "results"))
    assert [(one.value, one.seeds) for one in found] == [(-86, [0]), (-85, [1])]
    assert all(one.stderr_seeds is None for one in found)


def test_experiments_go_to_files_of_their_own_beside_what_is_there(tmp_path: Path) -> None:
    results = tmp_path / "results"
    older = eval_records.record(epochs=30)
    eval_records.write(results / "vae_mnist.json", [older])
    eval_records.write(results / "other.json", [older])
    memory = eval_records.record("mem_vae_mnist", seeds=[1])
    workdirs = (seed(tmp_path, 0, -86), made_up(tmp_path / "1", [memory]))
    record(tuple(map(str, workdirs)), results=str(results))
    assert [one.epochs for one in eval_records.read(results / "vae_mnist.json")] == [30, 3000]
    assert eval_records.read(results / "mem_vae_mnist.json") == [memory]
    assert eval_records.read(results / "other.json") == [older]


def test_a_newer_evaluation_replaces_the_older(tmp_path: Path) -> None:
    workdir = seed(tmp_path, 0, -86)
    record((str(workdir),), results=str(tmp_path / "results"))
    seed(tmp_path, 0, -85, commit="fedcba")
    record((str(workdir),), results=str(tmp_path / "results"))
    (found,) = eval_records.read(tmp_path / "results" / "vae_mnist.json")
    assert (found.value, found.commit) == (-85, "fedcba")


def metrics(epochs: range) -> str:
    """The lines that training writes."""
    lines = [{"step": 600 * e, "epoch": e, "iwae_bound": -90 - 1 / e} for e in epochs]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    workdir = made_up(tmp_path / "run", [eval_records.record()], metrics(range(1, 1001)))
    found = record((str(workdir),), results=str(tmp_path / "results"))
    curve = of_metric(found, "iwae_bound", "training")
    assert len(curve.x) == 200
    assert (curve.x[0], curve.x[-1]) == (1, 1000)
    assert set(np.diff(curve.x)) == {5, 6}
    assert curve.values == [round(-90 - 1 / x, 4) for x in curve.x]


def test_curves_are_of_training_whatever_was_evaluated(tmp_path: Path) -> None:
    # A count of parameters says nothing of training, and the evaluation is of an earlier step.
    nothing = {"num_samples": None, "num_images": None, "epochs": None, "steps": None}
    count = eval_records.record(
        task="parameters", metric="num_parameters", split="none", seeds=[], protocol={}, **nothing
    )
    workdirs = []
    for number in (0, 1):
        one = eval_records.record(seeds=[number], epochs=1, steps=600)
        workdirs.append(made_up(tmp_path / str(number), [count, one], metrics(range(1, 4))))
    found = record(tuple(map(str, workdirs)), results=str(tmp_path / "results"))
    curve = of_metric(found, "iwae_bound", "training")
    assert (curve.seeds, curve.epochs, curve.steps) == ([0, 1], 3, 1800)
    assert curve.protocol == {"split_order": "contiguous"}
    assert of_metric(found, "num_parameters", "parameters").seeds == []


def test_curves_over_other_epochs_stay_apart(tmp_path: Path) -> None:
    workdirs = [
        made_up(tmp_path / str(number), [eval_records.record(seeds=[number])], metrics(epochs))
        for number, epochs in enumerate((range(1, 9), range(2, 9, 2)))
    ]
    found = record(tuple(map(str, workdirs)), results=str(tmp_path / "results"))
    curves = {tuple(one.seeds): one.x for one in found if one.task == "training"}
    assert curves == {(0,): [1, 2, 3, 4, 5, 6, 7, 8], (1,): [2, 4, 6, 8]}


@pytest.mark.parametrize("line", ['{"step": 2400, "epo', '{"iwae_bound": 3}', "5", "[]"])
def test_a_line_that_is_not_whole_is_left_out(tmp_path: Path, line: str) -> None:
    text = metrics(range(1, 4)) + line
    workdir = made_up(tmp_path / "run", [eval_records.record()], text)
    found = record((str(workdir),), results=str(tmp_path / "results"))
    assert of_metric(found, "iwae_bound", "training").x == [1, 2, 3]


def test_origins_of_all_seeds_are_kept(tmp_path: Path) -> None:
    trained = {"commit": "aaa", "dirty": False, "hardware": "a card", "seconds": 2.0}
    workdirs = [
        seed(tmp_path, 0, -86, trained=trained),
        seed(tmp_path, 1, -85, commit="fff; 0123456789abcdef", hardware="another", dirty=True),
    ]
    (found,) = record(tuple(map(str, workdirs)), results=str(tmp_path / "results"))
    assert (found.commit, found.dirty) == ("0123456789abcdef; fff", True)
    assert found.hardware == "1 core of a test; another"
    assert found.trained == {
        "commit": "aaa; fedcba9876543210; abcdef0123456789",
        "dirty": True,
        "hardware": "a card; 2 cores of a test",
        "seconds": 1236.5,
    }


# ---- what is refused


def test_run_without_results_names_the_command(tmp_path: Path) -> None:
    first, second = seed(tmp_path, 0, -86), seed(tmp_path, 1, -85)
    (second / "results.json").unlink()
    expected = f"python -m eval likelihood --workdir {second}"
    with pytest.raises(InputError, match=expected):
        record((str(first), str(second)), results=str(tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_folder_that_is_no_workdir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the workdir of a training run"):
        record((str(tmp_path),), results=str(tmp_path / "results"))
    assert not list(tmp_path.iterdir())


def test_no_workdirs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="record: found no workdirs, expected at least one"):
        record((), results=str(tmp_path))


def test_results_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    workdir = seed(tmp_path, 0, -86)
    (tmp_path / "results").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written \(.*\), expected a file in a writ"):
        record((str(workdir),), results=str(tmp_path / "results"))
    assert (tmp_path / "results").read_text() == "a file"


def test_results_that_are_something_else_are_kept(tmp_path: Path) -> None:
    workdir = seed(tmp_path, 0, -86)
    other = tmp_path / "results" / "vae_mnist.json"
    other.parent.mkdir()
    other.write_text('{"mine": 1}')
    with pytest.raises(
        InputError, match=r"vae_mnist\.json: expected a JSON list of memjax records"
    ):
        record((str(workdir),), results=str(tmp_path / "results"))
    assert other.read_text() == '{"mine": 1}'
