"""What a user can get wrong, and what a disk can, said in one line."""

import os
import select
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


def exit_code_of(program: Callable[[], int]) -> int:
    """The exit code of a program, which returns its own; errors are said on stderr."""
    return with_output_written(lambda: _exit_code_of(program))


def _exit_code_of(program: Callable[[], int]) -> int:
    try:
        return program()
    except InputError as error:
        code, said = 2, f"error: {error}"
    except WriteError as error:
        code, said = 1, f"error: {error}"
    except KeyboardInterrupt:
        code, said = 130, "interrupted"
    print(said, file=sys.stderr)
    return code


def with_output_written(program: Callable[[], int]) -> int:
    """The exit code of a program whose output may go to a full disk, or to one who stops reading.

    The latter is no error to speak of, as after `| head`.
    """
    try:
        code = program()
    except BrokenPipeError:
        if not _is_read_no_more():
            raise
        return _without_output(128 + 13)  # SIGPIPE
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _without_output(128 + 13)
    except OSError as error:
        print(f"error: standard output: cannot be written ({error.strerror})", file=sys.stderr)
        return _without_output(1)
    return code


def _is_read_no_more() -> bool:
    if sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _without_output(code: int) -> int:
    """The code; Python would say once more at its end that it cannot write what is left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return code
