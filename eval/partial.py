"""What an evaluation has finished of its images: one that was killed goes on from there."""

import hashlib
import io
import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

import memjax
from memjax import provenance, workdirs
from memjax.data.files import Npz, describe
from memjax.evaluation import Likelihood
from memjax.types import Array

Found = tuple[Likelihood, dict[str, Array]]  # the latter name -> [B]

logger = logging.getLogger("memjax")
# Of the code that has been loaded, whatever is edited meanwhile: a commit does not say it all.
SOURCES = provenance.digest_of_sources(Path(memjax.__file__).parent, Path(__file__).parent)
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

    def __init__(self) -> None:
        """Keep nothing beyond this process."""
        self.found: Found | None = None
        self.seconds = 0.0
        self._path: epath.Path | None = None
        self._of = ""
        self._since = self._saved = time.monotonic()

    @classmethod
    def in_file(cls, stem: epath.Path, like: Found, most: int, **of: Any) -> "Partial":
        """Take up what an interrupted evaluation has left; what cannot be used is said.

        Args:
            stem: beginning of the file's name.
            like: shapes and kinds of the values of one image.
            most: how many images there are.
            of: what the values depend on beside the code, as JSON writes it.
        """
        made = cls()
        made._of = json.dumps({**of, "sources": SOURCES}, sort_keys=True)
        digest = hashlib.sha256(made._of.encode()).hexdigest()[:16]
        made._path = stem.with_name(f"{stem.name}_{digest}.npz.partial")
        made._take_up(made._path, _named(like), most)
        return made

    @property
    def done(self) -> int:
        """How many images are finished."""
        return 0 if self.found is None else len(self.found[0].log_likelihood)

    def add(self, found: Found) -> None:
        """The values of the next images; they are saved every few seconds.

        Raises:
            WriteError: the file cannot be written.
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
        if self._path is None:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: cannot be removed (%s)", self._path, error)

    def _save(self, path: epath.Path, found: Found) -> None:
        content = io.BytesIO()
        values: dict[str, Any] = {**_named(found), "of": self._of, "seconds": self.seconds}
        np.savez(content, **values)
        with workdirs.writing(path):
            workdirs.write_whole(path, content.getvalue())

    def _take_up(self, path: epath.Path, like: Mapping[str, Array], most: int) -> None:
        if not path.exists():
            return
        try:
            file = Npz(path)
            values: dict[str, Any] = {name: file.array(name) for name in file.names()}
            of, seconds = values.pop("of"), values.pop("seconds")
            if of.shape or str(of) != self._of:
                raise ValueError("it is of another evaluation")
            if seconds.dtype.kind != "f" or seconds.shape or not 0 <= seconds < math.inf:
                raise ValueError(f"seconds is {describe(seconds)}, expected a number")
            _check(values, like, most)
        except (ValueError, KeyError) as error:  # the first is InputError too
            logger.warning("%s: cannot be used (%s), beginning anew", path, error)
            return
        self.seconds = float(seconds)
        said = {name: values.pop(name) for name in [*values] if name.startswith(OF_THE_MODEL)}
        named = {name.removeprefix(OF_THE_MODEL): one for name, one in said.items()}
        self.found = Likelihood(**values), named
        logger.info("going on with an evaluation that has finished %d images", self.done)


def _named(found: Found) -> dict[str, Array]:
    likelihood, said = found
    return {**vars(likelihood), **{f"{OF_THE_MODEL}{name}": of for name, of in said.items()}}


def _check(values: Mapping[str, np.ndarray], like: Mapping[str, Array], most: int) -> None:
    """Raises ValueError where the values are none of some images, at most so many."""
    if values.keys() != like.keys():
        raise ValueError(f"it holds {sorted(values)}, expected {sorted(like)}")
    count = values["log_likelihood"].size
    if not 0 < count <= most:
        raise ValueError(f"it holds {count} images, expected 1 to {most}")
    for name, one in like.items():
        shape = (*one.shape[:-1], count)
        if values[name].dtype != one.dtype or values[name].shape != shape:
            found = describe(values[name])
            raise ValueError(f"{name} is {found}, expected {one.dtype} {list(shape)}")
