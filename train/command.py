"""The command line of training.

python -m train EXPERIMENT --workdir DIR [--data-dir DIR] [--seed N] [any field]
python -m train EXPERIMENT --workdir DIR --distributed    on every host, at the same time
python -m train --list
python -m train EXPERIMENT --help
"""

import dataclasses
import errno
import logging
import os
import sys
import warnings
from typing import Annotated, Any

import jax
import tyro

from memjax import configs, hosts
from memjax.config import Experiment
from memjax.errors import InputError, WriteError, with_output_written

from . import NonFiniteError, Stopped, run


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train one experiment; the same command goes on with a run that was stopped.

    Attributes:
        workdir: folder for config, checkpoints and logs, or a bucket address.
        experiment: the fields of the experiment.
        data_dir: folder with <dataset>.npz files; MEMJAX_DATA_DIR if not given; without either,
            data sets are downloaded.
        processes: whether this is one of several, and how they find each other.
    """

    workdir: str
    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    data_dir: str | None = None
    processes: hosts.Options = hosts.ALONE


def main(argv: list[str]) -> int:
    """Run a command line; returns the exit code."""
    _say_plainly()
    return with_output_written(lambda: _exit_code_of(argv))


def _exit_code_of(argv: list[str]) -> int:
    try:
        with hosts.ended_at_once():
            return _main(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)  # at once: Python itself would wait for a save that is under way
    except WriteError as error:
        print(f"error: {error}; once it can be, the same command goes on", file=sys.stderr)
        return 1
    except jax.errors.JaxRuntimeError as error:
        _, found, said = str(error).partition("Out of memory")
        if not found:
            raise
        line = f"error: out of memory{said.splitlines()[0].rstrip('.')}"
        print(f"{line}, expected a smaller model or batch", file=sys.stderr)
        return 1
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal_number


def _main(argv: list[str]) -> int:
    if argv == ["--list"]:
        print(_listing())
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__.strip()}\n\n{_listing()}")
        return 0
    if argv[0].startswith("-"):
        raise InputError(f"{argv[0]}: expected the name of an experiment first, or --list, --help")
    arguments = parse(argv)
    arguments.processes.join()
    if not hosts.is_first():
        # What all processes would say once for each of them.
        logging.getLogger("memjax").setLevel(logging.WARNING)
    run(arguments.experiment, arguments.workdir, data_dir=arguments.data_dir)
    return 0


def parse(argv: list[str]) -> Arguments:
    """The arguments of a command line that begins with the name of an experiment.

    Raises:
        InputError: no such experiment.
        SystemExit: anything else that is wrong with it, said on stderr.
    """
    experiment = configs.get(argv[0])
    return tyro.cli(
        Arguments,
        prog=f"train {argv[0]}",
        args=argv[1:],
        default=Arguments(workdir=tyro.MISSING, experiment=experiment),
        config=(tyro.conf.AvoidSubcommands,),
    )


def _say_plainly() -> None:
    """Print our own messages bare, on stderr; others keep theirs, but for what is said of saves."""
    logger = logging.getLogger("memjax")
    logger.handlers = [logging.StreamHandler()]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    # Orbax says through absl that a save waits for the one before it, and prints pages about one
    # that fails, which ends in a line of ours. So does asyncio, and Python itself, of the writes
    # that began with the one that failed.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def unraisable(found: Any) -> None:
    """Python's own hook, but for what is left of a write that has failed already.

    That is what tensorstore says of a save, and files that Python closes at its end on a full disk.
    """
    error = found.exc_value
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if not full and str(error) != "Event loop is closed":
        sys.__unraisablehook__(found)


def _listing() -> str:
    rows = [("experiment", "paper", "table", "expected", "epochs")]
    for name, experiment in configs.EXPERIMENTS.items():
        reference = experiment.reference
        expected = "-" if reference.value is None else f"{reference.value:.2f} {reference.metric}"
        epochs = str(reference.epochs or experiment.train.num_epochs)
        rows.append((name, reference.paper, reference.table, expected, epochs))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(map(str.ljust, row, widths)).rstrip()  # columns, two spaces apart
        for row in rows
    )
