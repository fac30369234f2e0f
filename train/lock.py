"""One run at a time in a workdir."""

import contextlib
import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from memjax import workdirs
from memjax.errors import InputError

logger = logging.getLogger("memjax")


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Keep other runs out of a folder that is there.

    The lock ends with the process, however that ends. Buckets have none.

    Raises:
        InputError: another run holds it; names its process and host.
    """
    path = epath.Path(workdir) / workdirs.LOCK
    if workdirs.is_bucket(path):
        yield
        return
    with Path(path).open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.readline().decode(errors="replace").strip() or "another process"
            raise InputError(
                f"{workdir}: in use by the run of {holder}, expected its end, or another workdir"
            ) from error
        except OSError as error:
            logger.warning("%s: cannot be locked (%s): start no second run in it", path, error)
        with contextlib.suppress(OSError):  # a full disk is said by what needs the room
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
