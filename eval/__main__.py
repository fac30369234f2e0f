"""The command line of evaluation: `python -m eval TASK --help` says what a task takes."""

import logging
import sys
from collections.abc import Callable

import tyro

from memjax.errors import InputError

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


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logger = logging.getLogger("memjax")
    logger.handlers = [logging.StreamHandler()]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        tyro.extras.subcommand_cli_from_dict(
            TASKS,
            prog="eval",
            description=__doc__,
            args=argv,
            config=(tyro.conf.FlagConversionOff,),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
