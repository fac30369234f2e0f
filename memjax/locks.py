"""Locks of files: they end with the process, however that ends. Buckets have none."""

import contextlib
import fcntl
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from memjax import workdirs

logger = logging.getLogger("memjax")


class InUse(Exception):
    """Another process holds a lock; the message is its number and host."""


@contextlib.contextmanager
def held(path: epath.Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock, and say in its file who does; its folder must be there.

    Raises:
        InUse: another process holds it, and is not waited for.
        OSError: the file cannot be opened.
    """
    if workdirs.is_bucket(path):
        yield
        return
    with Path(path).open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.readline().decode(errors="replace").strip()
            raise InUse(holder or "another process") from error
        except OSError as error:
            logger.warning("%s: cannot be locked (%s): let nothing else write there", path, error)
        with contextlib.suppress(OSError):  # a full disk is said by what needs the room
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
        yield


def update(path: epath.Path, changed: Callable[[], Any]) -> None:
    """Write a JSON file anew; others that do so at the same time wait, so that nothing is lost.

    Args:
        path: of the file; its folder is made.
        changed: reads the file, and returns what is to be in it.

    Raises:
        WriteError: it cannot be written.
    """
    with workdirs.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path.with_name(f"{path.name}.lock"), wait=True):
            workdirs.write_whole(path, json.dumps(changed(), indent=2) + "\n")
