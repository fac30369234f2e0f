"""Several processes as one run: the same numbers, one that writes, refusals, kills, preemption."""

import dataclasses
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

import train
from eval import likelihood
from memjax import hosts
from memjax.checkpoint import Checkpoints
from memjax.errors import InputError
from memjax.training import TrainState
from train import devices, loop
from train.command import main as train_main
from train.signals import collected

from . import eval_runs, pair_programs, runs
from .pair import Ended, Pair


class Run(NamedTuple):
    """What a pair of processes left, and what one process with four devices did instead."""

    folder: Path
    ended: list[Ended]
    one: TrainState
    ten: TrainState


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pair")
    runs.write_images(folder, pair_programs.IMAGES)
    with Pair(["tests.pair_programs", "trained", str(folder)]) as pair:
        experiment = pair_programs.experiment(folder)
        one = train.run(experiment, str(folder / "alone_one"), stop_at_step=1)
        ten = train.run(experiment, str(folder / "alone_ten"))
        ended = pair.both_ended()
    assert [end.code for end in ended] == [0, 0], ended
    return Run(folder, ended, one, ten)


def restored(workdir: Path, like: TrainState, step: int) -> TrainState:
    checkpoints = Checkpoints(str(workdir), create=False)
    found = checkpoints.restore({"train": like}, step)["train"]
    checkpoints.close()
    return found


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    """Relative to the largest element of an array: single ones may be tiny.

    The biases before a batch norm have no gradient: theirs is rounding, and they stay where they
    began, at zero.
    """

    def check(path: Any, found: jax.Array, expected: jax.Array) -> None:
        name, largest = jax.tree_util.keystr(path), np.abs(np.asarray(expected)).max(initial=0.0)
        if name.endswith("['dense']['bias']"):
            assert max(largest, np.abs(np.asarray(found)).max()) < 1e-4
        else:
            np.testing.assert_allclose(found, expected, 0, tolerance * largest, err_msg=name)

    jax.tree_util.tree_map_with_path(check, found, expected)


def test_one_step_has_the_same_gradient(ran: Run) -> None:
    # After one step Adam's first moment is a multiple of the gradient.
    found = restored(ran.folder / "one", ran.one, 1)
    moments = [leaf for leaf in jax.tree.leaves(ran.one.opt_state) if leaf.ndim > 0]
    assert any(np.abs(moment).max() > 0 for moment in moments)
    assert_close(found.opt_state, ran.one.opt_state, 1e-5)


def test_ten_steps_lead_to_the_same_parameters(ran: Run) -> None:
    found = restored(ran.folder / "ten", ran.ten, 10)
    assert int(found.step) == int(ran.ten.step) == pair_programs.STEPS
    assert jax.tree.leaves(found.batch_stats)
    assert_close((found.params, found.batch_stats), (ran.ten.params, ran.ten.batch_stats), 1e-4)


def test_metrics_are_of_the_whole_batch(ran: Run) -> None:
    lines = runs.metrics(ran.folder / "ten")
    expected = runs.metrics(ran.folder / "alone_ten")
    assert len(lines) == len(expected) == 2
    for line, wanted in zip(lines, expected, strict=True):
        assert line.keys() == wanted.keys() >= {"iwae_bound", "validation_bound"}
        for name, value in wanted.items():
            np.testing.assert_allclose(line[name], value, rtol=1e-4, err_msg=name)


def test_one_process_writes(ran: Run) -> None:
    workdir = ran.folder / "ten"
    (session,) = json.loads((workdir / "sessions.json").read_text())
    assert session["hardware"].startswith("2 processes, each ")
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    here, there = (
        {path.name for path in folder.iterdir() if "likelihood" not in path.name}
        for folder in (workdir, ran.folder / "alone_ten")
    )
    assert here == there | {"results.json", "results.json.lock"}


@pytest.mark.parametrize("count", [1, 4])
def test_one_process_goes_on_with_the_checkpoint(ran: Run, tmp_path: Path, count: int) -> None:
    workdir = Path(shutil.copytree(ran.folder / "one", tmp_path / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda *_, **__: jax.devices()[:count])
        state = train.run(pair_programs.experiment(ran.folder), str(workdir))
    assert_close((state.params, state.batch_stats), (ran.ten.params, ran.ten.batch_stats), 1e-4)
    firsts = [one["first_step"] for one in json.loads((workdir / "sessions.json").read_text())]
    assert firsts == [0, 1]


def test_likelihoods_are_those_of_one_process(ran: Run, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(ran.folder / "ten", tmp_path / "run"))
    (path,) = workdir.glob("likelihood_*.npz")
    (workdir / "results.json").unlink()
    there = dict(np.load(path))
    path.unlink()
    with eval_runs.one_device():
        likelihood(str(workdir), **pair_programs.EVALUATION)
    here = dict(np.load(path))  # the same name: the same protocol
    assert len(here["log_likelihood"]) == 8 and here.keys() == there.keys()
    for name in ("log_likelihood", "iwae_bound", "effective_sample_size"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-5)
    found, expected = (
        {record["metric"]: record["value"] for record in json.loads(file.read_text())}
        for file in (ran.folder / "ten" / "results.json", workdir / "results.json")
    )
    np.testing.assert_allclose(found["log_likelihood"], expected["log_likelihood"], rtol=1e-6)


def test_what_one_refuses_all_refuse_alike(ran: Run) -> None:
    first, second = (re.findall(r"^refused \d: .*$", end.said, re.MULTILINE) for end in ran.ended)
    assert first == second
    seed, missing, batch = first
    assert seed == "refused 0: seed: found 1 in process 1, expected 0 as in process 0"
    assert "missing.npz" in missing
    assert batch == (
        "refused 2: train.batch_size: found 10, which does not divide by the 4 devices of 2 "
        "processes, expected 8 or 12"
    )
    assert not list(ran.folder.glob("refused_*"))


def test_what_one_cannot_restore_all_refuse(ran: Run) -> None:
    for end in ran.ended:
        said = re.findall(r"^unread: .*$", end.said, re.MULTILINE)
        assert said == ["unread: step 10: cannot be restored in process 1"]


def test_a_command_that_one_refuses_ends_both(tmp_path: Path) -> None:
    images, missing = runs.write_images(tmp_path), tmp_path / "missing.npz"
    commands = [
        ["train", *runs.arguments(path, tmp_path / "run", batch_size=12)]
        for path in (images, missing)
    ]
    with Pair(*commands) as pair:
        ended = pair.both_ended()
    for end in ended:
        assert end.code == 2 and "Traceback" not in end.said
        (line,) = [line for line in end.said.splitlines() if line.startswith("error: ")]
        assert "missing.npz" in line
    assert not (tmp_path / "run").exists()


def saved_steps(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    found = folder.iterdir() if folder.exists() else ()
    return sorted(int(path.name) for path in found if path.name.isdecimal())


def test_preempted_and_killed_it_is_the_same_run(tmp_path: Path) -> None:
    workdir = tmp_path / "killed"
    images = runs.write_images(tmp_path, pair_programs.IMAGES)
    command = ["train", *runs.arguments(images, workdir, **pair_programs.ENDLESS)]

    # SIGTERM to the second process: both save the same step, and say which.
    with Pair(command) as pair:
        pair.wait_for(lambda: bool(saved_steps(workdir)))
        pair.processes[1].send_signal(signal.SIGTERM)
        ended = pair.both_ended()
    assert [end.code for end in ended] == [128 + signal.SIGTERM] * 2, ended
    (step,) = {int(n) for end in ended for n in re.findall(r"stopped at step (\d+);", end.said)}
    assert saved_steps(workdir)[-1] == step
    assert not any("Traceback" in end.said for end in ended)

    # SIGKILL to it: the first one does not hang.
    with Pair(command) as pair:
        pair.wait_for(lambda: saved_steps(workdir)[-1] > step)
        pair.processes[1].kill()
        first = pair.ended(0)
    assert first.code not in (0, None) and first.seconds < 90, first
    assert "process 0 of 2" in first.said or "another task died" in first.said
    assert "Traceback" not in first.said

    # Both again: bit by bit the run that nobody stopped.
    last = saved_steps(workdir)[-1] + 3
    arguments = ["resumed", str(tmp_path), "--steps", str(last)]
    with Pair(["tests.pair_programs", *arguments]) as pair:
        ended = pair.both_ended()
    assert [end.code for end in ended] == [0, 0], ended
    assert saved_steps(workdir)[-1] == saved_steps(tmp_path / "unbroken")[-1] == last
    assert runs.metrics(workdir) == runs.metrics(tmp_path / "unbroken")


ADDRESS = "--coordinator-address"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([ADDRESS, "a:1"], "--coordinator-address: found a:1, which has no effect without --dist"),
        (["--num-processes", "2"], "--num-processes: found 2, which has no effect without --dist"),
        *(
            (["--distributed", ADDRESS, wrong], f"found {wrong}, expected HOST:PORT")
            for wrong in ("host", "host:70000", "host:0", ":1", "a:b:1", "a b:1", "host:\u0661")
        ),
        (
            ["--distributed", ADDRESS, "no.such.host.invalid:1234"],
            "found no.such.host.invalid:1234, expected a host that is known here",
        ),
        (["--distributed", "--num-processes", "0"], "--num-processes: found 0, expected at least"),
        (["--distributed", "--process-id", "-1"], "--process-id: found -1, expected at least 0"),
        (
            ["--distributed", "--num-processes", "2", "--process-id", "2"],
            "--process-id: found 2, expected 0 to 1",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["vae_digits", "--workdir", str(tmp_path / "run"), *options]
    assert train_main(arguments) == 2
    assert message in capsys.readouterr().err


def test_without_a_cluster_it_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_found(*_: Any, **__: Any) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", none_found)
    assert train_main(["vae_digits", "--workdir", str(tmp_path / "run"), "--distributed"]) == 2
    said = capsys.readouterr().err
    assert "--distributed: the processes do not find each other (coordinator_address sh" in said
    assert "expected a cluster that JAX knows" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_processes_that_do_not_find_each_other_end_in_one_line(number: int) -> None:
    """Without ours, jax ends them with a trace of C++."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = (
        "from memjax import hosts; hosts.FOUND_WITHIN_SECONDS = 2.0; "
        f"hosts.Processes(True, '{address}', 2, {number}).join()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        f"error: --distributed: process {number} did not find the others within 2 s, expected all "
        f"2 to reach {address}"
    )
    assert "***" not in ended.stderr


def test_a_save_does_not_move_the_step_at_which_all_stop(tmp_path: Path) -> None:
    """Orbax would ask jax with the number of the step, far ahead of ours."""
    program = f"""
import os, signal, socket, time
import jax, jax.numpy as jnp
from jax.experimental import multihost_utils
from memjax.checkpoint import Checkpoints

free = socket.socket()
free.bind(("127.0.0.1", 0))
port = free.getsockname()[1]
free.close()
jax.distributed.initialize(f"127.0.0.1:{{port}}", 1, 0)
reached = multihost_utils.reached_preemption_sync_point
checkpoints = Checkpoints({str(tmp_path)!r})
assert not reached(1)
checkpoints.save({{"kernel": jnp.ones(3)}}, 5000)
os.kill(os.getpid(), signal.SIGTERM)
for asked in range(2, 200):
    time.sleep(0.1)
    if reached(asked):
        print("stops")
        break
checkpoints.close()
os._exit(0)
"""
    ended = subprocess.run([sys.executable, "-uc", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "stops\n"), ended.stderr


def test_one_process_decides_alone() -> None:
    assert not hosts.several() and hosts.is_first() and hosts.devices() == jax.local_devices()
    with pytest.raises(InputError, match="mine") as refused, hosts.refused_together():
        raise InputError("mine")
    assert not isinstance(refused.value, hosts.Refused)
    with pytest.raises(KeyError), hosts.ended_at_once():
        raise KeyError
    assert not hosts.preempted() and not hosts.ends_alone(KeyError())
    np.testing.assert_array_equal(hosts.share_of(5), np.arange(5))
    tree = {"a": np.arange(3)}
    assert hosts.joined(tree, 3) is tree and hosts.spread(tree) is tree and hosts.of_first(7) == 7


@pytest.fixture
def third_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were a process among others."""
    monkeypatch.setattr(hosts, "several", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax, "process_index", lambda: 2)


@pytest.mark.usefixtures("third_of_four")
@pytest.mark.parametrize("count", [1, 3, 8, 9, 10])
def test_shares_cover_everything_once(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.append(hosts.share_of(count))
    monkeypatch.setattr(hosts, "_meet", lambda what: None)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda tree: np.stack(shares))
    np.testing.assert_array_equal(hosts.joined(shares[2], count), np.arange(count))


@pytest.mark.usefixtures("third_of_four")
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a.npz: broken"), 2, "error: a.npz: broken\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            jax.errors.JaxRuntimeError("UNKNOWN: peer closed\nmore"),
            1,
            "error: process 2 of 4: UNKNOWN: peer closed; if another process has ended, start all "
            "of them again, and they go on from the last checkpoint\n",
        ),
        (
            ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"),
            1,
            "error: process 2 of 4: UNKNOWN: Gloo AllGather failed: Connection reset by peer; if "
            "another process has ended, start all of them again, and they go on from the last "
            "checkpoint\n",
        ),
    ],
)
def test_who_fails_alone_ends_at_once(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Exited(BaseException):
        pass

    def leave(code: int) -> None:
        raise Exited(code)

    monkeypatch.setattr(hosts.os, "_exit", leave)
    with pytest.raises(Exited) as exited, hosts.ended_at_once():
        raise error
    assert exited.value.args == (code,)
    assert capsys.readouterr().err == said


@pytest.mark.usefixtures("third_of_four")
def test_what_all_raise_ends_as_it_would_alone() -> None:
    for error in (train.Stopped(signal.SIGTERM, 3), train.NonFiniteError("x"), hosts.Refused("x")):
        with pytest.raises(type(error)), hosts.ended_at_once():
            raise error


@pytest.mark.usefixtures("third_of_four")
def test_sigterm_ends_at_once_where_all_have_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(number: int, frame: Any) -> None:
        """As jax does."""

    before = signal.signal(signal.SIGTERM, keep)
    try:
        monkeypatch.setattr(hosts, "preempted", lambda: False)
        assert loop._stop([]) is None and signal.getsignal(signal.SIGTERM) is keep
        monkeypatch.setattr(hosts, "preempted", lambda: True)
        assert loop._stop([]) == signal.SIGTERM
        # Its own first one may come later than that of the others.
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("third_of_four")
def test_an_interrupt_is_told_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    with collected() as received:
        assert signal.getsignal(signal.SIGTERM) == before  # jax's own
        handler = signal.getsignal(signal.SIGINT)
        monkeypatch.setattr(signal, "raise_signal", told.append)
        assert callable(handler)
        handler(signal.SIGINT, None)
    assert received == [signal.SIGINT] and told == [signal.SIGTERM]


@pytest.mark.usefixtures("third_of_four")
@pytest.mark.parametrize(
    ("size", "together", "expected"),
    [(6, 1, "4 or 8"), (3, 1, "4"), (50, 10, "40 or 80"), (30, 10, "40")],
)
def test_batches_that_do_not_divide_are_refused(
    size: int, together: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "devices", jax.devices)
    with pytest.raises(InputError, match=rf"found {size}, .* 4 processes, expected {expected}$"):
        devices.choose(size, together)
    assert devices.choose(40 * together, together) == jax.devices()


def test_processes_have_as_many_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda process_index: [None] * (process_index + 3))
    with pytest.raises(hosts.Refused, match="found 3, 4 devices in processes 0 to 1, expected"):
        hosts._check_devices()


def test_the_processes_are_named_beside_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    from memjax import provenance

    alone = provenance.hardware()
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert provenance.hardware() == f"4 processes, each {alone}"


def test_fields_of_processes_are_frozen() -> None:
    assert dataclasses.replace(hosts.ALONE, distributed=True) != hosts.ALONE
