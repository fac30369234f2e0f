"""The processes of one run: how they find each other, agree, and which of them writes.

Every host of a pod, or every process of one machine, runs the same program at the same time. What
it decides from outside (files, clocks, signals) has to be decided alike, or the processes wait for
each other without end. In a program of one process all of this does nothing.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from memjax import backend
from memjax.errors import InputError, WriteError

# A process that was not heard of for so long is taken for dead, and the others end.
HEARTBEAT_SECONDS = 30
# The hosts of a pod come minutes apart.
FOUND_WITHIN_SECONDS = 300.0
# Data may have to be downloaded and prepared while others wait. A dead process ends the wait.
LONGEST_WAIT_SECONDS = 24 * 3600
_LINE_BYTES = 1024  # of a refusal, as it is sent to the others

_meetings = itertools.count()
_asked = itertools.count(1)


class Agreed(Exception):
    """What all processes raise at the same place: each may end as it would alone."""


class Refused(Agreed, InputError):
    """An InputError that one process has found, raised on all."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """How the processes of one run find each other.

    Attributes:
        distributed: be one of several processes, which all run this command. Cloud TPU, GKE, Slurm
            and Open MPI say to JAX which; elsewhere the three options below do.
        coordinator_address: HOST:PORT of the process with number 0, on which it listens.
        num_processes: of the run.
        process_id: the number of this process, from 0 on.
    """

    distributed: bool = False
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def join(self) -> None:
        """Meet the other processes, before the first computation.

        Raises:
            InputError: options that do not fit together, no cluster that JAX knows, processes that
                do not find each other, or no such devices as `JAX_PLATFORMS` says.
        """
        self._check()
        backend.configure()
        if not self.distributed:
            backend.check_devices()
        if not self.distributed or jax.distributed.is_initialized():
            return
        try:
            with self._ended_unless_found():
                jax.distributed.initialize(
                    self.coordinator_address,
                    self.num_processes,
                    self.process_id,
                    initialization_timeout=int(2 * FOUND_WITHIN_SECONDS),
                    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                )
        except Exception as error:  # of jax, of the network, of a cluster's own interface
            raise InputError(
                f"--distributed: the processes do not find each other ({_first_line(error)}), "
                "expected a cluster that JAX knows, or the right --coordinator-address, "
                "--num-processes and --process-id"
            ) from error
        _check_devices()

    def _check(self) -> None:
        given = {
            "--coordinator-address": self.coordinator_address,
            "--num-processes": self.num_processes,
            "--process-id": self.process_id,
        }
        for name, value in given.items():
            if value is not None and not self.distributed:
                raise InputError(
                    f"{name}: found {value}, which has no effect without --distributed"
                )
        if self.coordinator_address is not None:
            _check_address(self.coordinator_address)
        if self.num_processes is not None and self.num_processes < 1:
            raise InputError(f"--num-processes: found {self.num_processes}, expected at least 1")
        most = (self.num_processes or sys.maxsize) - 1
        if self.process_id is not None and not 0 <= self.process_id <= most:
            expected = "at least 0" if self.num_processes is None else f"0 to {most}"
            raise InputError(f"--process-id: found {self.process_id}, expected {expected}")

    @contextlib.contextmanager
    def _ended_unless_found(self) -> Iterator[None]:
        """End this process in one line; jax would end it with a trace of C++."""

        def end() -> None:
            this = "this process" if self.process_id is None else f"process {self.process_id}"
            where = self.coordinator_address or "the coordinator of the cluster"
            print(
                f"error: --distributed: {this} did not find the others within "
                f"{FOUND_WITHIN_SECONDS:.0f} s, expected all {self.num_processes or 'processes'} "
                f"to reach {where}",
                file=sys.stderr,
                flush=True,
            )
            os._exit(2)

        timer = threading.Timer(FOUND_WITHIN_SECONDS, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


# As options of a command, without a prefix: `--distributed`, which takes no value, and the others.
Options = Annotated[Processes, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff]
ALONE = Processes()


def _check_address(address: str) -> None:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", address)
    if found is None or not 0 < int(found[2]) < 2**16:
        raise InputError(f"--coordinator-address: found {address}, expected HOST:PORT")
    try:
        socket.getaddrinfo(found[1].strip("[]"), None)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--coordinator-address: found {address}, expected a host that is known here"
        ) from error


def _check_devices() -> None:
    """Every process sees the devices of all, so all of them refuse together."""
    counts = [len(jax.local_devices(process_index=i)) for i in range(jax.process_count())]
    if len(set(counts)) > 1:
        found = ", ".join(map(str, counts))
        raise Refused(
            f"--distributed: found {found} devices in processes 0 to {len(counts) - 1}, expected "
            "the same number in each"
        )


def several() -> bool:
    """Whether this program is one of several processes."""
    # Without the first question the second one would make the first computation.
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes logs and results."""
    return not several() or jax.process_index() == 0


def devices() -> list[jax.Device]:
    """The devices of all processes; those of each together, in the order of the processes."""
    if not several():
        return jax.local_devices()
    return [
        device
        for process in range(jax.process_count())
        for device in jax.local_devices(process_index=process)
    ]


def own(of: Any) -> list[jax.Device]:
    """Those of some devices that belong to this process."""
    return [device for device in of if device.process_index == jax.process_index()]


def gathered(tree: Any) -> Any:
    """The arrays of all processes, `[P, ...]`; they may come minutes apart."""
    if several():
        # Collectives on CPUs give up when a process is half a minute late.
        _meet("gather")
    return multihost_utils.process_allgather(tree)


def of_first(number: int) -> int:
    """The first process's number."""
    return int(gathered(np.int32(number))[0]) if several() else number


def check_same(**values: Any) -> None:
    """Refuse processes that were started differently.

    Args:
        values: name -> what has to be the same everywhere, as JSON writes it.

    Raises:
        Refused: names the first value that differs, and the process.
    """
    if not several():
        return
    with refused_together():
        ours = _flat(values)
        theirs = json.loads(_line_of_first(json.dumps(ours, sort_keys=True)))
        for name in sorted(ours.keys() | theirs.keys()):
            found, expected = ours.get(name), theirs.get(name)
            if found != expected:
                raise InputError(
                    f"{name}: found {found} in process {jax.process_index()}, expected {expected} "
                    "as in process 0"
                )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(values)).items():
        if isinstance(value, dict):
            found |= {f"{name}.{below}": of for below, of in _flat(value).items()}
        else:
            found[name] = value
    return found


def _line_of_first(line: str) -> str:
    size = of_first(len(line.encode()))
    return _sent(line, size)[0]


def _sent(line: str, size: int) -> list[str]:
    """A line of every process, of at most `size` bytes each."""
    letters = np.zeros(size, np.uint8)
    content = np.frombuffer(line.encode()[:size], np.uint8)
    letters[: len(content)] = content
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in gathered(letters)]


@contextlib.contextmanager
def refused_together() -> Iterator[None]:
    """What one process refuses inside, all refuse: the first of them says why.

    Raises:
        Refused: the InputError of a process, in all of them; the only one's own if there is one.
    """
    if not several():
        yield
        return
    found: InputError | None = None
    try:
        yield
    except InputError as error:
        found = error
    lines = [line for line in _sent(str(found or ""), _LINE_BYTES) if line]
    if lines:
        raise Refused(lines[0]) from found


def preempted() -> bool:
    """Whether all processes are to stop now, since one of them got SIGTERM.

    All processes have to ask equally often, between the same computations.
    """
    return several() and multihost_utils.reached_preemption_sync_point(next(_asked))


def end_at_sigterm(but_one: bool = False) -> None:
    """Let SIGTERM end this process at once, as it would alone; jax keeps it for `preempted`.

    Args:
        but_one: let one pass before. Hosts get theirs some time apart, and that of this one may
            come when all have agreed to stop already.
    """
    # The kernel keeps the usual effect from the first process of a container.
    ends: Any = signal.SIG_DFL if os.getpid() != 1 else _exit_by_signal

    def pass_once(number: int, frame: Any) -> None:
        del frame
        signal.signal(number, ends)

    if several():
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, pass_once if but_one else ends)


def _exit_by_signal(number: int, frame: Any) -> None:
    del frame
    os._exit(128 + number)


def share_of(count: int) -> np.ndarray:
    """Which of `count` things are this process's, of as many as every other process's.

    The last one fills up: `joined` leaves its copies out.
    """
    if not several():
        return np.arange(count)
    each = -(-count // jax.process_count())
    return np.minimum(jax.process_index() * each + np.arange(each), count - 1)


def joined(tree: Any, count: int) -> Any:
    """Arrays `[..., count]` of all processes from the `[..., n]` that each has of its share."""
    if not several():
        return tree
    parts = gathered(tree)
    return jax.tree.map(lambda every: np.concatenate(every, axis=-1)[..., :count], parts)


def spread(tree: Any, axes: Any = None) -> Any:
    """Arrays of this process as arrays of all of them: what orbax saves.

    Args:
        tree: of arrays.
        axes: None for arrays that are the same in all processes, 0 for those of which each process
            has its part of the first axis; a tree as `tree`, or None for all.
    """
    if not several():
        return tree
    mesh = Mesh(np.array(devices()), ("devices",))
    leaves, structure = jax.tree.flatten(tree)
    parted = jax.tree.leaves(axes, is_leaf=lambda axis: axis is None)
    if axes is None:
        parted = [None] * len(leaves)
    made = [
        multihost_utils.host_local_array_to_global_array(
            leaf, mesh, PartitionSpec() if axis is None else PartitionSpec("devices")
        )
        for leaf, axis in zip(leaves, parted, strict=True)
    ]
    return jax.tree.unflatten(structure, made)


def ends_alone(error: BaseException | None) -> bool:
    """Whether an error is of this process, while the others go on."""
    return error is not None and several() and not isinstance(error, Agreed)


@contextlib.contextmanager
def ended_at_once() -> Iterator[None]:
    """End this process where it fails alone: the usual end would wait for the others.

    They notice that it is gone, and end too. An error of jax is said in one line, since it is
    mostly that another process is gone.
    """
    try:
        yield
    except BaseException as error:
        if not ends_alone(error):
            raise
        os._exit(_said(error))  # runs no handlers: jax's own waits for all processes


def _said(error: BaseException) -> int:
    """Say what happened; returns the exit code."""
    here = f"process {jax.process_index()} of {jax.process_count()}"
    code, line = 1, ""
    if isinstance(error, InputError):
        code, line = 2, f"error: {error}"
    elif isinstance(error, WriteError):
        line = f"error: {here}: {error}; once it can be, the same command on all of them goes on"
    elif isinstance(error, KeyboardInterrupt):
        code, line = 130, "interrupted"
    elif _is_of_runtime(error):
        line = (
            f"error: {here}: {_first_line(error)}; if another process has ended, start all of them "
            "again, and they go on from the last checkpoint"
        )
    else:
        line = f"error: {here} failed\n{''.join(traceback.format_exception(error)).rstrip()}"
    print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    return code


def _is_of_runtime(error: BaseException) -> bool:
    """Whether XLA says it: as an error of jax or, of a call under way, as a status in a word."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return True
    return isinstance(error, ValueError) and re.match("[A-Z_]+: ", str(error)) is not None


def _meet(what: str) -> None:
    """Wait until all processes are here."""
    from memjax import checkpoint  # takes seconds to import

    checkpoint.wait_for_all(f"memjax_{what}_{next(_meetings)}", LONGEST_WAIT_SECONDS)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
