"""Which code and which machine took which steps of a run."""

import json
import time

from etils import epath

from memjax import provenance

FILE = "sessions.json"


class Session:
    """One process's part of a run: an entry of `sessions.json`, renewed at every checkpoint."""

    def __init__(self, workdir: str, first_step: int):
        """Begin at `first_step`; later entries belong to a part of the run that is lost."""
        self._path = epath.Path(workdir) / FILE
        earlier = json.loads(self._path.read_text()) if self._path.exists() else []
        self._earlier = [entry for entry in earlier if entry["first_step"] < first_step]
        self._entry = {"first_step": first_step, **provenance.describe()}
        self._started = time.monotonic()

    def saved(self, step: int) -> None:
        """Note that everything up to `step` is saved."""
        self._entry["last_step"] = step
        self._entry["seconds"] = round(time.monotonic() - self._started, 1)
        self._path.write_text(json.dumps([*self._earlier, self._entry], indent=2) + "\n")
