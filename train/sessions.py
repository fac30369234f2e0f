"""Which code and which machine took which steps of a run."""

import json
import time
from typing import Any

from etils import epath

from memjax import provenance, workdirs


class Session:
    """One process's part of a run: an entry of `sessions.json`, renewed at every checkpoint."""

    def __init__(self, workdir: str, first_step: int, num_seeds: int = 1):
        """Begin at `first_step`; what earlier entries say of later steps is lost.

        Args:
            workdir: of one seed.
            first_step: that this process begins with.
            num_seeds: that it trains together; each has its share of the seconds.
        """
        self._path = epath.Path(workdir) / workdirs.SESSIONS
        self._earlier = cut_back(workdir, first_step)
        self._entry = {"first_step": first_step, **provenance.describe()}
        self._num_seeds = num_seeds
        self._started = time.monotonic()

    def saved(self, step: int) -> None:
        """Note that everything up to `step` is being saved; without a step there is no entry."""
        if step == self._entry["first_step"]:
            return
        self._entry["last_step"] = step
        self._entry["seconds"] = round((time.monotonic() - self._started) / self._num_seeds, 1)
        _write(self._path, [*self._earlier, self._entry])


def cut_back(workdir: str, step: int) -> list[dict[str, Any]]:
    """Forget what the entries of a run say of steps after `step`; returns what is left of them."""
    found = workdirs.load_sessions(epath.Path(workdir))
    kept = [
        {**entry, "last_step": min(entry["last_step"], step)}
        for entry in found
        if entry["first_step"] < step
    ]
    if kept != found:
        _write(epath.Path(workdir) / workdirs.SESSIONS, kept)
    return kept


def _write(path: epath.Path, entries: list[dict[str, Any]]) -> None:
    with workdirs.writing(path):
        workdirs.write_whole(path, json.dumps(entries, indent=2) + "\n")
