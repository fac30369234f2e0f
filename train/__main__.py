"""`python -m train`, whose command line `train.command` reads."""

import sys

from memjax import huge_pages


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    huge_pages.ask()
    # After that, since it takes seconds to import.
    from . import command

    sys.unraisablehook = command.unraisable
    return command.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
