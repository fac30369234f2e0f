"""results.json: what several evaluations add at the same time is all there."""

import dataclasses
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from etils import epath

from eval import records
from memjax import locks, workdirs
from memjax.errors import InputError, WriteError
from reliability import __main__ as reliability
from tests import eval_records

ROOT = Path(__file__).parent.parent
EACH = 12
ADD = f"""
import sys
from etils import epath
from eval import records
from tests import eval_records
path, process = epath.Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range({EACH}):
    records.add(path, [eval_records.record(seeds=[process, number])])
"""


def seeds(path: Path) -> set[tuple[int, ...]]:
    return {tuple(one.seeds) for one in eval_records.read(path)}


def test_threads_lose_no_record(tmp_path: Path) -> None:
    path, start = tmp_path / "new" / "results.json", threading.Barrier(4)

    def add(thread: int) -> None:
        start.wait()
        for number in range(EACH):
            records.add(epath.Path(path), [eval_records.record(seeds=[thread, number])])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(add, range(4))) == [None] * 4
    assert seeds(path) == {(thread, number) for thread in range(4) for number in range(EACH)}
    assert {file.name for file in path.parent.iterdir()} == {"results.json", "results.json.lock"}


def test_processes_lose_no_record(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    command = [sys.executable, "-c", ADD, str(path)]
    started = [
        subprocess.Popen(
            [*command, str(process)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    for one in started:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    for one in started:
        one.communicate()
        assert one.returncode == 0
    assert seeds(path) == {(process, number) for process in range(2) for number in range(EACH)}


def test_whoever_adds_waits_for_the_lock(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "results.json")
    thread = threading.Thread(target=records.add, args=(path, [eval_records.record(seeds=[1])]))
    with locks.held(epath.Path(tmp_path / "results.json.lock")):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not path.exists()
        # Written meanwhile by who holds it: the other reads it afterwards.
        eval_records.write(Path(path), [eval_records.record(seeds=[0])])
    thread.join(60)
    assert seeds(Path(path)) == {(0,), (1,)}


def test_figures_of_reliability_are_not_lost_either(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "reliability.json")
    with ThreadPoolExecutor(8) as pool:
        parts = [f"part {number}" for number in range(24)]
        list(pool.map(lambda name: reliability.add(path, name, {"name": name}), parts))
    assert json.loads(path.read_text()) == {name: {"name": name} for name in parts}


def test_a_file_of_something_else_is_kept_and_the_lock_let_go(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "results.json")
    path.write_text("{}")
    for _ in range(2):
        with pytest.raises(InputError, match=r"results\.json: expected a JSON list of memjax rec"):
            records.add(path, [eval_records.record()])
    assert path.read_text() == "{}"
    path.unlink()
    records.add(path, [eval_records.record()])
    assert len(records.load(path)) == 1


def test_a_lock_that_is_not_waited_for_names_its_holder(tmp_path: Path) -> None:
    path = epath.Path(tmp_path / "lock")
    with locks.held(path):
        with pytest.raises(locks.InUse) as caught, locks.held(path):
            pass
        assert str(caught.value) == path.read_text().strip()
        path.write_text("")
        with pytest.raises(locks.InUse, match=r"^another process$"), locks.held(path):
            pass


def test_a_lock_that_cannot_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    path = epath.Path(tmp_path / "results.json")
    records.add(path, [eval_records.record()])
    assert len(records.load(path)) == 1
    assert "results.json.lock: cannot be locked ([Errno 95] Operation not" in caplog.text


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/dev/null/results.json", "Not a directory"),
        ("{}", "Is a directory"),
        ("{}/" + "a" * 300, "File name too long"),
        ("/proc/results.json", "No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_refused_before(place: str, reason: str, tmp_path: Path) -> None:
    path = epath.Path(place.format(tmp_path))
    with pytest.raises(InputError) as caught:
        workdirs.check_writable(path)
    expected = "expected a file in a writable folder"
    assert str(caught.value) == f"{path}: cannot be written ({reason}), {expected}"
    with pytest.raises(WriteError, match=": cannot be written"), workdirs.writing(path):
        workdirs.write_whole(path, "text")
    assert not list(tmp_path.iterdir())


def test_what_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    for place in ("new.json", "new/folder/new.json", "old.json"):
        (tmp_path / "old.json").write_text("old")
        workdirs.check_writable(epath.Path(tmp_path / place))
        assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    workdirs.check_writable(epath.Path("gs://bucket/results.json"))


@pytest.mark.parametrize(
    "fields",
    [{"split": "tests"}, {"protocol": {**eval_records.PROTOCOL, "mask": "k" * 100}}, {"steps": -1}],
)
def test_what_load_would_refuse_is_not_written(tmp_path: Path, fields: dict[str, object]) -> None:
    path = epath.Path(tmp_path / "results.json")
    records.add(path, [eval_records.record()])
    with pytest.raises(InputError, match="expected"):
        records.add(path, [eval_records.record("mem_vae_mnist", **fields)])
    assert [one.experiment for one in records.load(path)] == ["vae_mnist"]


def test_a_benchmark_replaces_one_of_fewer_rounds_and_small_pages(tmp_path: Path) -> None:
    def add(task: str, **protocol: object) -> list[int | None]:
        new = eval_records.record(task=task, metric="step_seconds", protocol=protocol)
        records.add(path, [dataclasses.replace(new, value=float(protocol["rounds"]))])
        return [one.value for one in records.load(path)]

    path = epath.Path(tmp_path / "benchmarks.json")
    add("benchmark", rounds=5)
    assert add("benchmark", rounds=9, huge_pages=True) == [9.0]
    assert add("benchmark", rounds=3, changed={"model.latent": 8}) == [9.0, 3.0]
    add("likelihood", rounds=5)
    assert add("likelihood", rounds=9) == [9.0, 3.0, 5.0, 9.0]
