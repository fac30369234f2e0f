"""Which code and which machine took which steps of a run."""

import json
import time
from typing import Any

from etils import epath

from memjax import provenance, workdirs

NEEDED = {"first_step", "last_step", "seconds", "commit", "dirty", "hardware"}


def load(path: epath.Path) -> list[dict[str, Any]]:
    """The whole entries of an earlier part of the run, none where a kill left half a file."""
    try:
        found = json.loads(path.read_text()) if path.exists() else []
        return [entry for entry in found if entry.keys() >= NEEDED]
    except (ValueError, AttributeError, TypeError):
        return []


class Session:
    """One process's part of a run: an entry of `sessions.json`, renewed at every checkpoint."""

    def __init__(self, workdir: str, first_step: int):
        """Begin at `first_step`; later entries belong to a part of the run that is lost."""
        self._path = epath.Path(workdir) / workdirs.SESSIONS
        earlier = load(self._path)
        self._earlier = [entry for entry in earlier if entry["first_step"] < first_step]
        self._entry = {"first_step": first_step, **provenance.describe()}
        if len(self._earlier) < len(earlier):
            self._write(self._earlier)
        self._started = time.monotonic()

    def saved(self, step: int) -> None:
        """Note that everything up to `step` is saved; without a step there is no entry."""
        if step == self._entry["first_step"]:
            return
        self._entry["last_step"] = step
        self._entry["seconds"] = round(time.monotonic() - self._started, 1)
        self._write([*self._earlier, self._entry])

    def _write(self, entries: list[dict[str, Any]]) -> None:
        with workdirs.writing(self._path):
            workdirs.write_whole(self._path, json.dumps(entries, indent=2) + "\n")
