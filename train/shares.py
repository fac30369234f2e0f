"""Parameters that the devices share out, each its part, since one device may not hold them all."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memjax import hosts
from memjax.config import Experiment
from memjax.errors import InputError
from memjax.types import Module

AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class Shares:
    """Which arrays of a state are shared out along their first axis, and over which devices.

    Such an array is `[N, ...]` in a checkpoint, `[D, N / D, ...]` between calls to D devices, and
    `[N / D, ...]` on each of them.

    Attributes:
        names: of the parameters; their moments in the optimiser's state go with them.
        devices: of all processes.
    """

    names: tuple[str, ...]
    devices: Sequence[jax.Device]

    @classmethod
    def of(cls, experiment: Experiment, devices: Sequence[jax.Device]) -> "Shares":
        """What several devices share of an experiment's model: for most models nothing.

        Raises:
            InputError: fields that this cannot be done with.
        """
        names = getattr(experiment.model, "shared_parameters", ()) if len(devices) > 1 else ()
        if names:
            for part, name, expected in (("train", "num_seeds", 1), _NO_NORM):
                if (found := getattr(getattr(experiment, part), name)) != expected:
                    raise InputError(
                        f"{part}.{name}: found {found}, expected {expected} where {len(devices)} "
                        "devices share a memory (model.block_size)"
                    )
        return cls(names, devices)

    def axes(self, tree: Any) -> Any:
        """For each array 0 if it is shared, else None; None for all if nothing is."""
        if not self.names:
            return None

        def axis(path: Any, _: Any) -> int | None:
            return 0 if self._is_shared(path) else None

        return jax.tree_util.tree_map_with_path(axis, tree)

    def model(self, model: Module) -> Module:
        """A model that is to be called on each device, of which it then knows."""
        return model.clone(batch_axes=(AXIS,)) if self.names else model

    def split(self, tree: Any) -> Any:
        """Arrays as in a checkpoint, on the devices of this process."""

        def one(path: Any, leaf: Any) -> Any:
            if not self._is_shared(path):
                return jax.device_put(leaf, self._on_own(PartitionSpec()))
            parts = np.reshape(leaf, (len(self.devices), -1, *leaf.shape[1:]))
            own = [i for i, device in enumerate(self.devices) if device in self._own]
            return jax.device_put(parts[own], self._on_own(PartitionSpec(AXIS)))

        return jax.tree_util.tree_map_with_path(one, tree)

    def join(self, tree: Any) -> Any:
        """Arrays as in a checkpoint, or of several processes this one's part of them."""
        if not self.names:
            return tree
        joined = jax.jit(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]),
            out_shardings=self._on_own(PartitionSpec(AXIS)),
        )

        def one(path: Any, leaf: Any) -> Any:
            return joined(leaf) if self._is_shared(path) else leaf

        return jax.tree_util.tree_map_with_path(one, tree)

    def on_host(self, like: Any) -> Any:
        """The shapes of a state, those of shared arrays as arrays of numpy that take no room.

        Checkpoints restore to the host what numpy holds.
        """

        def one(path: Any, leaf: Any) -> Any:
            nothing = np.zeros((), leaf.dtype)
            return np.broadcast_to(nothing, leaf.shape) if self._is_shared(path) else leaf

        return jax.tree_util.tree_map_with_path(one, like)

    def _is_shared(self, path: Any) -> bool:
        return bool(path) and getattr(path[-1], "key", None) in self.names

    @property
    def _own(self) -> list[jax.Device]:
        return hosts.own(self.devices)

    def _on_own(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(Mesh(np.array(self._own), (AXIS,)), spec)


# The norm of the whole gradient would have to be found over all devices.
_NO_NORM = ("optimizer", "clip_global_norm", 0)
