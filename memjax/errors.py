"""What a user can get wrong, and what a disk can, said in one line."""


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one line: which file or field, what was found, what was expected. The programs
    print it without a traceback and exit with code 2; from Python it is an ordinary ValueError.
    """


class WriteError(OSError):
    """Something could not be written: a full disk, a folder that is gone.

    The message is one line. The programs print it without a traceback and exit with code 1.
    """
