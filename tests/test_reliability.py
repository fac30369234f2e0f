"""`python -m reliability`: the quick part for real, and that failures would be seen."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reliability import __main__ as program
from reliability import evaluation, inputs, kills, memory, pairs, processes
from reliability.parts import Options, Part

from . import runs

FIGURES = {
    "kills": {
        **{"kills": 3, "kills_survived": 3, "problems": []},
        **{"same_metrics": True, "same_state": True},
    },
    "pairs": {
        "multiprocess_kills": 4,
        "multiprocess_survived": 4,
        "problems": [],
        "same_metrics": True,
        "same_state": True,
    },
    "memory": {"growth": 0.009, "growth_with_saves": 0.029},
    "evaluation": {"kills": 2, "kills_survived": 2, "same_number": True},
    "hostile": {"bad_inputs": 5, "bad_inputs_refused": 5, "crashes": 0, "files_harmed": 0},
}
BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("kills", {"kills_survived": 2}),
    ("kills", {"kills": 0, "kills_survived": 0}),
    ("kills", {"same_metrics": False}),
    ("kills", {"same_state": False}),
    ("kills", {"problems": ["ended before a kill"]}),
    ("pairs", {"multiprocess_survived": 3}),
    ("pairs", {"problems": ["a process went on without the other"]}),
    ("pairs", {"multiprocess_kills": 0, "multiprocess_survived": 0}),
    ("pairs", {"same_metrics": False}),
    ("pairs", {"same_state": False}),
    ("memory", {"growth": 0.01}),
    ("memory", {"growth_with_saves": 0.03}),
    ("evaluation", {"same_number": False}),
    ("evaluation", {"kills_survived": 1}),
    ("hostile", {"bad_inputs_refused": 4}),
    ("hostile", {"crashes": 1}),
    ("hostile", {"files_harmed": 1}),
]


def arguments(folder: Path) -> list[str]:
    """Of a run that saves often and lasts some seconds, without its workdir."""
    images = runs.write_images(folder)
    experiment, _, _, *rest = runs.arguments(images, "", num_epochs=48, save_every=4)
    return [experiment, *rest]


def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    figures = kills.measure(Options(kills=3), tmp_path, arguments(tmp_path))
    assert kills.holds(figures), figures
    assert figures["kills"] == sum(figures["moments"].values()) == 3
    lines = runs.metrics(tmp_path / "killed")
    assert [line["step"] for line in lines] == list(range(4, 193, 4))


def test_kills_that_lose_something_are_seen(tmp_path: Path) -> None:
    # The same run, but for its seed, in the place of the one that was killed.
    short = [*arguments(tmp_path), "--train.num-epochs", "3"]
    for name, seed in (("whole", "0"), ("killed", "1")):
        command = ["train", *short, "--seed", seed, "--workdir", str(tmp_path / name)]
        processes.run(command)
    one, other = (kills.Workdir(tmp_path / name) for name in ("whole", "killed"))
    assert one.steps() == other.steps() == [12] and one.logged() == 12
    assert kills.same_metrics(one, one) and not kills.same_metrics(one, other)
    assert kills.same_state(one.path, one.path)
    assert not kills.same_state(one.path, other.path)
    with (one.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')
    assert one.logged() == 12
    with pytest.raises(ValueError, match="ends in half a line"):
        one.metrics()
    assert not kills.same_metrics(one, one)


def test_first_saves_come_first() -> None:
    found = kills.plan(20, np.random.default_rng(0))
    early, late = found[:7], found[7:]
    assert Counter(early) == {"save": 3, "start": 2, "compilation": 2}
    assert Counter(late) == {"step": 5, "save": 4, "start": 2, "compilation": 2}
    assert found == kills.plan(20, np.random.default_rng(0))
    assert found != kills.plan(20, np.random.default_rng(1))


def test_a_save_is_seen_while_it_lasts(tmp_path: Path) -> None:
    workdir = kills.Workdir(tmp_path)
    assert (workdir.steps(), workdir.unfinished(), workdir.logged()) == ([], set(), 0)
    for name in ("8", "12", "16.orbax-checkpoint-tmp", "set_aside"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert workdir.steps() == [8, 12]
    ((name, _),) = workdir.unfinished()
    assert name == "16.orbax-checkpoint-tmp"
    before = workdir.unfinished()
    (tmp_path / "checkpoints" / name / "default").mkdir()
    assert workdir.unfinished() - before  # begun anew under the same name


def test_memory_is_read_at_every_line(tmp_path: Path) -> None:
    figures = memory.measure(Options(), tmp_path, steps=1000)
    assert (figures["steps"], figures["saves"]) == (1000, 10)
    for name in ("mebibytes", "mebibytes_with_saves"):
        assert len(figures[name]) == 10
        assert 50 < min(figures[name]) <= max(figures[name]) < 10_000
    for name, saves in (("without", [1000]), ("saving", [800, 900, 1000])):
        assert kills.Workdir(tmp_path / name).steps() == saves
        assert len(runs.metrics(tmp_path / name)) == 20


def test_memory_of_no_file_is_read() -> None:
    (before,) = memory.anonymous(os.getpid())
    held = np.ones(2**26, np.uint8)  # so much is always mapped anew
    (after,) = memory.anonymous(os.getpid())
    assert after - before == pytest.approx(held.nbytes, rel=0.1)
    assert memory.anonymous(2**30) == []


def test_growth_is_from_the_lowest_tenth_on() -> None:
    # The beginning does not count, nor what is given back late, nor a peak.
    readings = [100] * 20 + [300] * 30 + [200] * 50
    assert memory.growth(memory.of_tenths(readings)) == 0
    readings[95] = 10_000
    assert memory.growth(memory.of_tenths(readings)) == 0
    leaking = [1000 + i for i in range(100)]
    assert memory.growth(memory.of_tenths(leaking)) == pytest.approx(70 / 1024.5)


def test_a_program_that_fails_is_said() -> None:
    with pytest.raises(
        RuntimeError, match=r"train no_such --workdir nowhere: exit code 2\nerror: .*no_such"
    ):
        processes.run(["train", "no_such", "--workdir", "nowhere"])


def test_a_program_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MOST_SECONDS", 0.5)
    command = ["train", *arguments(tmp_path), "--workdir", str(tmp_path / "run")]
    for wait in (lambda one: one.finish(), lambda one: one.runs_until(lambda: False)):
        with (
            pytest.raises(RuntimeError, match=r"still runs after 0 s, expected an end"),
            processes.started(command) as program,
        ):
            wait(program)
        assert not program.runs()


def test_every_part_has_its_promise() -> None:
    parts = {
        **{"kills": kills, "pairs": pairs, "memory": memory},
        **{"evaluation": evaluation, "hostile": inputs},
    }
    assert parts.keys() == program.PARTS.keys()
    for name, part in parts.items():
        assert program.PARTS[name] == part.PART
        assert part.PART.holds(FIGURES[name]) is True


@pytest.mark.parametrize(("name", "broken"), BROKEN)
def test_a_promise_that_is_broken_is_seen(name: str, broken: dict[str, Any]) -> None:
    assert program.PARTS[name].holds({**FIGURES[name], **broken}) is False


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where figures go of two parts that take no time."""

    def measured(name: str) -> Any:
        def measure(options: Options, folder: Path) -> dict[str, Any]:
            assert not list(folder.iterdir())
            return {"part": name, "kills": options.kills, "seed": options.seed}

        return measure

    parts = {
        "one": Part(measured("one"), lambda figures: figures["seed"] == 0),
        "two": Part(measured("two"), lambda _: True),
    }
    monkeypatch.setattr(program, "PARTS", parts)
    return tmp_path / "results" / "figures.json"


def test_parts_replace_their_own_figures(output: Path, capsys: pytest.CaptureFixture) -> None:
    assert program.main(["--parts", "one", "two", "--output", str(output)]) == 0
    before = json.loads(output.read_text())
    command = ["--parts", "one", "--kills", "5", "--seed", "1", "--output", str(output)]
    assert program.main(command) == 1
    after = json.loads(output.read_text())
    assert after["two"] == before["two"]
    assert (before["one"]["kills"], after["one"]["kills"]) == (20, 5)
    for figures in after.values():
        assert figures.keys() >= {"hardware", "versions", "commit", "dirty", "seconds"}
    said = capsys.readouterr().out
    assert "one: holds: part one, kills 20, seed 0" in said
    assert "one: DOES NOT HOLD: part one, kills 5, seed 1" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parts", "three"], "--parts: found three, expected some of one, two"),
        (["--kills", "0"], "--kills: found 0, expected at least 1"),
        (["--seed", "-1"], "--seed: found -1, expected at least 0"),
    ],
)
def test_bad_options(
    output: Path, options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert program.main(["--parts", "one", *options, "--output", str(output)]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not output.exists()


@pytest.mark.parametrize("text", ["{", "[1]", '{"kills": 20}'])
def test_a_file_of_something_else_is_kept(
    output: Path, text: str, capsys: pytest.CaptureFixture
) -> None:
    output.parent.mkdir()
    output.write_text(text)
    assert program.main(["--output", str(output), "--parts", "one"]) == 2
    assert "figures.json: expected the JSON of `python -m reliability`" in capsys.readouterr().err
    assert output.read_text() == text


def test_a_part_that_cannot_be_measured_does_not_stop_the_others(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def measure(options: Options, folder: Path) -> dict[str, Any]:
        raise RuntimeError("exit code 2: no such experiment")

    monkeypatch.setitem(program.PARTS, "one", Part(measure, lambda _: True))
    assert program.main(["--parts", "one", "two", "--output", str(output)]) == 1
    assert [*json.loads(output.read_text())] == ["two"]
    said = capsys.readouterr().out
    assert "one: DOES NOT HOLD: exit code 2: no such experiment\ntwo: holds: part two" in said
