"""One run at a time in a workdir."""

import contextlib
from collections.abc import Iterator

from etils import epath

from memjax import locks, workdirs
from memjax.errors import InputError


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Keep other runs out of a folder that is there.

    The lock ends with the process, however that ends. Buckets have none.

    Raises:
        InputError: another run holds it; names its process and host.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(epath.Path(workdir) / workdirs.LOCK))
        except locks.InUse as holder:
            raise InputError(
                f"{workdir}: in use by the run of {holder}, expected its end, or another workdir"
            ) from holder
        yield
