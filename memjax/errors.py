"""What a user can get wrong, and what a disk can, said in one line."""

import os
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one line: which file or field, what was found, what was expected. The programs
    print it without a traceback and exit with code 2; from Python it is an ordinary ValueError.
    """


class WriteError(OSError):
    """Something could not be written: a full disk, a folder that is gone.

    The message is one line. The programs print it without a traceback and exit with code 1.
    """


def ended_by_its_reader() -> int:
    """The exit code where nobody reads what a program prints any more, as after `| head`.

    Python would say so once more at its end, when it writes what is left.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13  # SIGPIPE


def exit_code_of(program: Callable[[], int]) -> int:
    """The exit code of a program, which returns its own; errors are said on stderr."""
    try:
        code = program()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return ended_by_its_reader()
    except InputError as error:
        code, said = 2, f"error: {error}"
    except WriteError as error:
        code, said = 1, f"error: {error}"
    except KeyboardInterrupt:
        code, said = 130, "interrupted"
    print(said, file=sys.stderr)
    return code
