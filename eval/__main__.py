"""The command line of evaluation: `python -m eval TASK --help` says what a task takes."""

import difflib
import logging
import sys
from collections.abc import Callable

import tyro

from memjax import hosts
from memjax.errors import InputError, exit_code_of

from . import (
    canvas,
    classification,
    compare,
    features,
    few_shot,
    imputation,
    likelihood,
    memory,
    parameters,
    recall,
    record,
    report,
    samples,
    slots,
    tables,
)

# `--draws True` rather than `--draws`, which `--distributed` of `likelihood` is.
_with_values = tyro.conf.configure(tyro.conf.FlagConversionOff)
TASKS: dict[str, Callable] = {
    "likelihood": likelihood,
    "samples": samples,
    "canvas": canvas,
    "recall": recall,
    "few-shot": few_shot,
    "classification": classification,
    "memory": memory,
    "parameters": parameters,
    "imputation": imputation,
    "features": features,
    "slots": slots,
    "compare": compare,
    "report": report,
    "record": record,
    "tables": tables,
}
OF_SEVERAL = ("imputation", "compare", "report", "record")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logger = logging.getLogger("memjax")
    logger.handlers = [logging.StreamHandler()]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    return exit_code_of(lambda: _main(sys.argv[1:] if argv is None else argv))


def _main(argv: list[str]) -> int:
    _check_task(argv)
    argv = _without_option(argv)
    with hosts.ended_at_once():
        tyro.extras.subcommand_cli_from_dict(
            {
                name: task if task is likelihood else _with_values(task)
                for name, task in TASKS.items()
            },
            prog="eval",
            description=__doc__,
            args=argv,
        )
    return 0


def _without_option(argv: list[str]) -> list[str]:
    """Take `--workdir A B` for `A B`, where a task has several and no such option."""
    if not argv or argv[0] not in OF_SEVERAL:
        return argv
    given = [part for one in argv for part in _parted(one)]
    return [one for one in given if one != "--workdir"]


def _parted(argument: str) -> list[str]:
    option, equals, value = argument.partition("=")
    return [option, value] if option == "--workdir" and equals else [argument]


def _check_task(argv: list[str]) -> None:
    """Refuse an unknown task in one line, which tyro would do in thirty."""
    # tyro takes few_shot for few-shot.
    if argv and not argv[0].startswith("-") and argv[0].replace("_", "-") not in TASKS:
        near = difflib.get_close_matches(argv[0], TASKS, n=3, cutoff=0.4) or TASKS
        raise InputError(f"task {argv[0]!r}: unknown, expected one of {', '.join(near)}")


if __name__ == "__main__":
    sys.exit(main())
