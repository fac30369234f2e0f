"""Saving and restoring a run's state; the only import of orbax."""

import contextlib
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from memjax import manifest
from memjax.errors import InputError, WriteError
from memjax.manifest import BrokenCheckpoint

METRIC = "validation_bound"
FOLDER = "checkpoints"
SET_ASIDE = "set_aside"
NEWEST_KEPT = 3
UNMEASURED = -math.inf
_UNFINISHED = ".orbax-checkpoint-tmp"
_LONGEST = 200  # characters of another library's message

logger = logging.getLogger("memjax")
T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one workdir: the newest three, and the best by validation bound.

    Saving is asynchronous: `save` returns once the state is copied, and `close` waits for the
    disk. The workdir may be any address that etils.epath opens (a folder, `gs://bucket/run`).
    Every step has a manifest, against which it is checked before it is restored.
    """

    def __init__(
        self,
        workdir: str,
        *,
        create: bool = True,
        fields: Mapping[str, Any] | None = None,
        may_differ: frozenset[str] = frozenset(),
    ):
        """Open the checkpoints of a workdir.

        Args:
            workdir: folder of the run.
            create: make the folder if it is not there. Of several processes all do it together;
                otherwise each may read by itself.
            fields: of the run, flat: they go into the manifests, and checkpoints of a run with
                others are refused.
            may_differ: names of fields in which they may differ.
        """
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(NEWEST_KEPT),
                policies.BestN(
                    get_metric_fn=_validation_bound, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_validation_bound,
            best_mode="max",
            preservation_policy=keep,
            create=create,
            # Metrics may be broken: they are read before the first save.
            lightweight_initialize=True,
            async_options=ocp.AsyncOptions(
                # The folder of a step is there when `save` returns: what is written of the run
                # afterwards is never older than its checkpoints.
                create_directories_asynchronously=False,
                post_finalization_callback=self._seal,
            ),
            # Whoever makes the folder saves in it, together with all other processes.
            multiprocessing_options=_TOGETHER if create else _alone(),
        )
        path = epath.Path(workdir)
        # Orbax takes absolute paths only; to resolve a bucket's address would spoil it.
        self._folder = (path if path.is_absolute() else path.resolve()) / FOLDER
        self._fields = json.loads(json.dumps(dict(fields or {})))
        self._may_differ = may_differ
        self._whole: set[int] = set()
        self._said_broken: set[int] = set()
        self._saving: int | None = None
        self._manager = _Manager(self._folder, options=options)

    def save(self, state: Any, step: int, validation_bound: float | None = None) -> None:
        """Save a state, unless this step is saved already.

        Args:
            state: a pytree of arrays; of several processes those that `hosts.spread` returns.
            step: its number.
            validation_bound: in nats, if the run has a validation split.

        Raises:
            WriteError: it cannot be written, or the one before it could not be.
        """
        if self._saving is None:
            self._begin()
        if step in self._manager.all_steps():
            return
        # Orbax wants metrics with every step: a step without a bound is never the best.
        measured = validation_bound is not None and math.isfinite(validation_bound)
        metrics = {METRIC: validation_bound if measured else UNMEASURED}
        with self._writing():
            self._manager.wait_until_finished()
            self._saving = step
            if not self._manager.save(step, args=ocp.args.PyTreeSave(state), metrics=metrics):
                raise OSError("Orbax knows a later step")

    def restore(self, like: T, step: int) -> T:
        """The state of a step, with the structure, shapes and dtypes of `like`.

        `like` may hold a part of what was saved: evaluation leaves the optimiser on disk. What is
        an array of numpy there is restored as one, and everything else to a device.

        Raises:
            BrokenCheckpoint: the checkpoint is damaged.
            InputError: it is of another model or another run, or of a newer format.
        """
        self._manager.wait_until_finished()
        try:
            self.check(step)
            return self._restore(like, step)
        except InputError as error:
            others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
            raise type(error)(f"{error}; other steps saved: {others}") from error

    def _restore(self, like: T, step: int) -> T:
        # Restored to this host's first device, from where pmap sends it to all.
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), like)
        placed = jax.tree.map(
            lambda a: (
                ocp.RestoreArgs(restore_type=np.ndarray)
                if isinstance(a, np.ndarray)
                else ocp.ArrayRestoreArgs(sharding=device)
            ),
            like,
        )
        arguments = ocp.args.PyTreeRestore(abstract, restore_args=placed, partial_restore=True)
        try:
            return self._manager.restore(step, args=arguments)
        except Exception as error:  # of many kinds: orbax, tensorstore, the file system
            raise InputError(
                f"{self._folder / str(step)}: cannot be restored ({_first_line(error)}), "
                "expected a checkpoint of this model"
            ) from error

    def check(self, step: int) -> None:
        """Compare a step with its manifest, unless this was done before.

        Raises:
            BrokenCheckpoint: it is damaged.
            InputError: it is of another run, of a newer format, or cannot be read now.
        """
        if step not in self._whole:
            manifest.check(self._folder / str(step), step, self._fields, self._may_differ)
            self._whole.add(step)

    def say_broken(self, step: int, error: BrokenCheckpoint) -> None:
        """Warn of a step that is damaged, once."""
        if step not in self._said_broken:
            logger.warning("%s", error)
            self._said_broken.add(step)

    def set_aside(self, step: int) -> None:
        """Move a step out of the way, where it can be looked at or deleted.

        Raises:
            WriteError: it cannot be moved.
        """
        if jax.process_index() > 0:
            return
        folder, aside = self._folder / str(step), self._folder / SET_ASIDE
        place, number = aside / str(step), 0
        while place.exists():
            number += 1
            place = aside / f"{step}.{number}"
        try:
            aside.mkdir(exist_ok=True)
            folder.rename(place)
        except OSError as error:
            raise WriteError(f"{folder}: cannot be moved to {place} ({error.strerror})") from error
        logger.warning("%s: set aside as %s", folder, place)

    def steps(self) -> list[int]:
        """The steps that are on disk, in order, whole or not."""
        return _steps(self._folder)

    def latest_step(self) -> int | None:
        """The newest step on disk, or None; waits for a save that is under way.

        Raises:
            WriteError: it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
        return max(self.steps(), default=None)

    def best_steps(self) -> list[int]:
        """Whole steps with a validation bound, the best first; says which are not whole."""
        bounds = {}
        for step in self.steps():
            try:
                bounds[step] = self._bound(step)
            except BrokenCheckpoint as error:
                self.say_broken(step, error)
        measured = [step for step, bound in bounds.items() if bound > UNMEASURED]
        return sorted(measured, key=lambda step: bounds[step], reverse=True)

    def close(self) -> None:
        """Wait until everything is on disk.

        Raises:
            WriteError: the last save could not be written.
        """
        with self._writing():
            self._manager.close()

    def _bound(self, step: int) -> float:
        self.check(step)
        try:
            return _validation_bound(self._manager.metrics(step))
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenCheckpoint(
                f"{self._folder / str(step)}: its metrics cannot be read, expected {METRIC}"
            ) from error

    def _begin(self) -> None:
        """Before the first save, see what is on disk now."""
        with self._writing():
            self._clear_unfinished()
            self._manager.reload()

    def _seal(self) -> None:
        """Write the manifest; Orbax calls it in its own thread, just before it commits a step."""
        final = self._folder / str(self._saving)
        unfinished = final.with_name(f"{final.name}{_UNFINISHED}")
        folder = unfinished if unfinished.exists() else final
        self._manager.finish_describing()
        manifest.write(folder, int(final.name), self._fields)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # another process is gone, or a device is full
            raise
        except Exception as error:  # of many kinds, as above
            with contextlib.suppress(OSError):
                self._clear_unfinished()
            path = self._folder / str(self._saving or "")
            raise WriteError(f"{path}: cannot be written ({_first_line(error)})") from error

    def _clear_unfinished(self) -> None:
        """Remove what a kill has left half written."""
        if jax.process_index() > 0:
            return
        for path in self._folder.iterdir():
            if _UNFINISHED in path.name:
                logger.warning("%s: half written, removed", path)
                path.rmtree()


class _Manager(ocp.CheckpointManager):
    """Orbax's own, but for when it describes a step and when it stops."""

    def finish_describing(self) -> None:
        """Wait for what is still to be written about a step.

        Orbax writes it in a thread of its own, and waits for that one only after it has called
        `_seal`, which on a busy machine read a description half written.
        """
        self._non_blocking_metadata_store.wait_until_finished()

    def reached_preemption(self, step: int) -> bool:
        """No: the run asks by itself.

        Orbax would ask jax with the number of the step, and jax then stops at the next number
        beyond: one that `hosts.preempted`, which counts its questions, comes to hours later.
        """
        del step
        return False


def newest_whole(opened: Sequence[Checkpoints], steps: Iterable[int]) -> int:
    """The first of some steps that is whole in all of the checkpoints.

    Says of those before it what is wrong with them.

    Raises:
        InputError: none is whole; or one is of another run or cannot be read now, in which case
            nobody knows whether it is.
    """
    first: BrokenCheckpoint | None = None
    for step in steps:
        for one in opened:
            try:
                one.check(step)
            except BrokenCheckpoint as error:
                one.say_broken(step, error)
                first = first or error
                break
        else:
            if first is not None:
                logger.warning("step %d is taken instead", step)
            return step
    raise InputError(f"no checkpoint can be read, expected one that is whole: {first}") from first


def latest_step(workdir: str) -> int | None:
    """The newest step that a workdir holds, whole or not, or None."""
    return max(_steps(epath.Path(workdir) / FOLDER), default=None)


def _steps(folder: epath.Path) -> list[int]:
    with manifest.reading(folder):
        if not manifest.is_folder(folder):
            return []
        named = [path for path in folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", path.name)]
        return sorted(int(path.name) for path in named if manifest.is_folder(path))


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    # What tensorstore says ends with the cause, after long paths.
    return line if len(line) <= _LONGEST else f"{line[:60]} ... {line[60 - _LONGEST :]}"


def wait_for_all(what: str, seconds: int) -> None:
    """Return when all processes have called this with the same new name, whatever they compute."""
    ocp.multihost.get_barrier_sync_fn()(key=what, timeout_ms=1000 * seconds)


_TOGETHER = ocp.options.MultiprocessingOptions()


def _alone() -> ocp.options.MultiprocessingOptions:
    """For a process that does not wait for the others."""
    if jax.process_count() == 1:
        return _TOGETHER
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process_{this}"
    )


def _validation_bound(metrics: dict[str, float] | None) -> float:
    # None of a step that was being deleted when the process was killed.
    return UNMEASURED if metrics is None else metrics[METRIC]
