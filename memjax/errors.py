"""What a user can get wrong, and what a disk can, said in one line."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast


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

    The latter is no error to speak of, as after `| head`; nor is it one to have no output at all.
    """
    with contextlib.ExitStack() as stack:
        stream = sys.stdout or stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        output = cast(TextIO, _Output(stream))
        stack.enter_context(contextlib.redirect_stdout(output))
        try:
            return _flushed(program, output)
        except _NotWritten as error:
            _let_go(stream)
            if isinstance(error.reason, BrokenPipeError):
                return 128 + 13  # SIGPIPE
            reason = error.reason.strerror or error.reason
            print(f"error: standard output: cannot be written ({reason})", file=sys.stderr)
            return 1


def _let_go(stream: TextIO) -> None:
    """Python would say once more at its end that it cannot write what is left."""
    # What is no file has nothing left: a notebook's output, or one with less than a file has.
    with contextlib.suppress(OSError, AttributeError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _flushed(program: Callable[[], int], output: TextIO) -> int:
    try:
        code = program()
    except SystemExit:  # of a command line that asks for help
        output.flush()
        raise
    output.flush()
    return code


class _NotWritten(BaseException):
    """What became of standard output, and of no other file or pipe.

    No Exception, so that what guards against errors on its way does not take it for one of them.
    """

    def __init__(self, reason: OSError):
        super().__init__(reason)
        self.reason = reason


@contextlib.contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _NotWritten(error) from error


class _Output:
    """Standard output as text, whose errors are told from all others."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with _written():
            return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with _written():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
