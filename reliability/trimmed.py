"""`python -m train`, but what is freed goes back to the system twice a second.

    python -m reliability.trimmed EXPERIMENT --workdir DIR [any argument of train]

Without this the C library keeps what compilation has freed, hundreds of MiB, until some day it
gives them back, and the memory of the process says little of what is in use. Only where that
library is glibc.
"""

import ctypes
import sys
import threading
import time

from train.command import main

SECONDS = 0.5


def available() -> bool:
    """Whether the C library can be asked to give memory back."""
    return hasattr(ctypes.CDLL(None), "malloc_trim")


def _trim() -> None:
    trim = ctypes.CDLL(None).malloc_trim
    while True:
        time.sleep(SECONDS)
        trim(0)


if __name__ == "__main__":
    threading.Thread(target=_trim, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
