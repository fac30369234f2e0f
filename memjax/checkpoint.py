"""Saving and restoring a run's state; the only import of orbax."""

import math
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from memjax.errors import InputError

METRIC = "validation_bound"
FOLDER = "checkpoints"
NEWEST_KEPT = 3
UNMEASURED = -math.inf

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one workdir: the newest three, and the best by validation bound.

    Saving is asynchronous: `save` returns once the state is copied, and `close` waits for the
    disk. The workdir may be any address that etils.epath opens (a folder, `gs://bucket/run`).
    """

    def __init__(self, workdir: str, *, create: bool = True):
        """Open the checkpoints of a workdir.

        Args:
            workdir: folder of the run.
            create: make the folder if it is not there. Of several processes all do it together;
                otherwise each may read by itself.
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
            # Whoever makes the folder saves in it, together with all other processes.
            multiprocessing_options=_TOGETHER if create else _alone(),
        )
        path = epath.Path(workdir)
        # Orbax takes absolute paths only; to resolve a bucket's address would spoil it.
        folder = (path if path.is_absolute() else path.resolve()) / FOLDER
        self._manager = ocp.CheckpointManager(folder, options=options)

    def save(self, state: Any, step: int, validation_bound: float | None = None) -> None:
        """Save a state, unless this step is saved already.

        Args:
            state: a pytree of arrays; of several processes those that `hosts.spread` returns.
            step: its number.
            validation_bound: in nats, if the run has a validation split.
        """
        if step in self._manager.all_steps():
            return
        # Orbax wants metrics with every step: a step without a bound is never the best.
        measured = validation_bound is not None and math.isfinite(validation_bound)
        metrics = {METRIC: validation_bound if measured else UNMEASURED}
        self._manager.save(step, args=ocp.args.PyTreeSave(state), metrics=metrics)

    def restore(self, like: T, step: int) -> T:
        """The state of a step, with the structure, shapes and dtypes of `like`.

        `like` may hold a part of what was saved: evaluation leaves the optimiser on disk.

        Raises:
            InputError: the checkpoint is damaged, or of another model.
        """
        # Restored to this host's first device, from where pmap sends it to all.
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), like)
        placed = jax.tree.map(lambda _: ocp.ArrayRestoreArgs(sharding=device), abstract)
        arguments = ocp.args.PyTreeRestore(abstract, restore_args=placed, partial_restore=True)
        try:
            return self._manager.restore(step, args=arguments)
        except Exception as error:  # of many kinds: orbax, tensorstore, the file system
            others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
            raise InputError(
                f"{self._manager.directory / str(step)}: cannot be restored "
                f"({_first_line(error)}), expected a whole checkpoint of this model; other steps "
                f"saved: {others}"
            ) from error

    def steps(self) -> list[int]:
        """The steps that are saved, in order."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the best validation bound, or None where none was measured."""
        bounds = {step: _validation_bound(self._manager.metrics(step)) for step in self.steps()}
        best = max(bounds, key=lambda step: bounds[step], default=None)
        return best if best is not None and bounds[best] > UNMEASURED else None

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.close()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


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


def latest_step(workdir: str) -> int | None:
    """The newest step that a workdir holds, or None."""
    if not (epath.Path(workdir) / FOLDER).exists():
        return None
    checkpoints = Checkpoints(workdir, create=False)
    try:
        return checkpoints.latest_step()
    finally:
        checkpoints.close()


def _validation_bound(metrics: dict[str, float]) -> float:
    return metrics[METRIC]
