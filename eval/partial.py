"""What an evaluation has finished of its images: one that was killed goes on from there."""

import dataclasses
import hashlib
import io
import json
import logging
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from memjax import workdirs
from memjax.data.files import Npz
from memjax.errors import InputError
from memjax.evaluation import Likelihood
from memjax.types import Array

Found = tuple[Likelihood, dict[str, Array]]  # the latter name -> [B]

logger = logging.getLogger("memjax")
SAVED_EVERY = 5.0  # seconds of work that a kill may cost, beside those of the batch under way
OF_THE_MODEL = "said/"  # before the names of what a model says of itself


class Partial:
    """The values of the first images of an evaluation, in a file that is there until its end.

    What the values depend on is in the file, and is part of its name, so that another checkpoint,
    another protocol or other code begins anew. The sizes of batches and chunks are not among it.

    Attributes:
        found: the values of the images that are finished, None if there are none.
        seconds: that they took.
    """

    def __init__(self, stem: epath.Path | None = None, **of: Any):
        """Take up what an interrupted evaluation has left; a damaged file is left out, and said.

        Args:
            stem: beginning of the file's name; if not given, nothing is kept.
            of: what the values depend on, as JSON writes it.
        """
        self._of = json.dumps(of, sort_keys=True)
        self.found: Found | None = None
        self.seconds = 0.0
        self._path: epath.Path | None = None
        if stem is not None:
            digest = hashlib.sha256(self._of.encode()).hexdigest()[:16]
            self._path = stem.with_name(f"{stem.name}_{digest}.npz.partial")
            self._take_up(self._path)
        self._since = self._saved = time.monotonic()

    @property
    def done(self) -> int:
        """How many images are finished."""
        return 0 if self.found is None else len(self.found[0].log_likelihood)

    def add(self, found: Found) -> None:
        """The values of the next images; they are saved every few seconds.

        Raises:
            InputError: the workdir cannot be written.
        """
        parts = [found] if self.found is None else [self.found, found]
        self.found = jax.tree.map(lambda *of: np.concatenate(of, axis=-1), *parts)
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        if self._path is not None and now - self._saved >= SAVED_EVERY:
            self._save(self._path, self.found)
            self._saved = time.monotonic()

    def remove(self) -> None:
        """The evaluation has come to its end."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _save(self, path: epath.Path, found: Found) -> None:
        likelihood, said = found
        values: dict[str, Any] = {
            "of": self._of,
            "seconds": self.seconds,
            **dataclasses.asdict(likelihood),
            **{f"{OF_THE_MODEL}{name}": of for name, of in said.items()},
        }
        content = io.BytesIO()
        np.savez(content, **values)
        try:
            workdirs.write_whole(path, content.getvalue())
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror}), expected a writable folder"
            ) from error

    def _take_up(self, path: epath.Path) -> None:
        if not path.exists():
            return
        try:
            file = Npz(path)
            values: dict[str, Any] = {name: file.array(name) for name in file.names()}
            if str(values.pop("of")) != self._of:
                raise ValueError("it is of another evaluation")
            seconds = float(values.pop("seconds"))
            if len({of.shape[-1] for of in values.values()}) != 1:
                raise ValueError("it holds values of different numbers of images")
            said = {name: values.pop(name) for name in [*values] if name.startswith(OF_THE_MODEL)}
            likelihood = Likelihood(**values)
        except (ValueError, KeyError, TypeError) as error:  # the first is InputError too
            logger.warning("%s: is damaged (%s), beginning anew", path, error)
            return
        self.seconds = seconds
        self.found = likelihood, {n.removeprefix(OF_THE_MODEL): of for n, of in said.items()}
        logger.info("going on with an evaluation that has finished %d images", self.done)
