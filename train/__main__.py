"""`python -m train`, whose command line `train.command` reads."""

import signal
import sys
from types import ModuleType

from memjax import huge_pages


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    huge_pages.start_anew("train", "memjax_train", command="memjax-train")
    command = _imported()
    sys.unraisablehook = command.unraisable
    return command.main(sys.argv[1:])


def _imported() -> ModuleType:
    """The command line, after huge pages are there, since it takes seconds to import.

    In these, Ctrl-C ends the process as by itself: in the midst of an import Python would print
    where, or an import that guards against errors swallow it.
    """
    as_ever = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored
    if as_ever:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from . import command

    if as_ever:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command


if __name__ == "__main__":
    sys.exit(main())
