"""Broken and hostile inputs, every one of which has to be refused in one line.

They are tried in a process of its own, whose memory is limited; where it dies or hangs, the input
that did it is noted and the next process goes on behind it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import selectors
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .corpus import Case

ROOT = Path(__file__).parent.parent
# An input may take so much more memory than the process has, so many seconds of a processor, and
# so long before it is taken to hang: on a busy machine a process has few of a minute's seconds.
MEMORY = 2**30
CPU_SECONDS = 30.0
SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Counts:
    """What came of them.

    Attributes:
        bad_inputs: that were tried.
        bad_inputs_refused: in one line that names the file or the field.
        crashes: ended otherwise: another exception, no exception, a death, too long.
        files_harmed: inputs after which a file was another one, gone or new.
        peak_bytes: the most memory that one of them took beyond what the process had.
        by_kind: how many were tried of each kind.
        said: of each that was not refused or did harm, what happened.
    """

    bad_inputs: int
    bad_inputs_refused: int
    crashes: int
    files_harmed: int
    peak_bytes: int
    by_kind: dict[str, int]
    said: dict[str, str]


def try_all(
    folder: Path,
    progress: Callable[[int, int], object] | None = None,
    wanted: Sequence[int] | None = None,
) -> Counts:
    """Try every input, or those at some places of the corpus.

    Args:
        folder: for their files; what is in it afterwards may go.
        progress: called with how many are done, of how many.
        wanted: places of the corpus, in order; all of it if not given.
    """
    from .corpus import corpus

    cases = corpus()
    left = list(range(len(cases)) if wanted is None else wanted)
    total, found = len(left), dict[int, dict[str, Any]]()
    while left:
        for place, outcome in _in_process(folder, left):
            found[place] = outcome
            if progress is not None:
                progress(len(found), total)
        left = [place for place in left if place not in found]
    return Counts(
        bad_inputs=total,
        bad_inputs_refused=sum(one["refused"] for one in found.values()),
        crashes=sum(not one["refused"] for one in found.values()),
        files_harmed=sum(one["harmed"] for one in found.values()),
        peak_bytes=max(one["bytes"] for one in found.values()),
        by_kind=dict(Counter(cases[place].kind for place in found)),
        said={
            f"{cases[place].kind}: {cases[place].name}": one["said"]
            for place, one in found.items()
            if one["harmed"] or not one["refused"]
        },
    )


def _in_process(folder: Path, places: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Outcomes of the first of these places, as far as one process gets."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "reliability.hostile", str(folder)]
    environment = {**os.environ, "MEMJAX_CACHE_DIR": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    environment.pop("MEMJAX_DATA_DIR", None)
    with subprocess.Popen(
        [*command, *map(str, places)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        for place in places:
            line = _line(process.stdout, SECONDS)
            if not line:
                process.kill()
                said = f"no answer (exit code {process.wait()})"
                yield place, {"refused": 0, "harmed": 0, "bytes": 0, "said": said}
                return
            yield place, json.loads(line)


def _line(stream: IO[bytes], seconds: float) -> bytes:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return stream.readline() if selector.select(seconds) else b""


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder: a hash of each file, and where each link leads."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = "folder or pipe"
    return found


def attempt(case: "Case", folder: Path) -> dict[str, Any]:
    """Write an input, read it, look what came of it."""
    from memjax.errors import InputError

    shutil.rmtree(folder, ignore_errors=True)
    # Two folders below, for what leads out.
    inner = folder / "above" / "inner"
    inner.mkdir(parents=True)
    case.write(inner)
    before, memory = contents(folder), _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    refused, said = False, "was taken"
    try:
        with _limited():
            case.read(inner)
    except InputError as error:
        said = str(error)
        refused = "\n" not in said and case.said in said
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    after = contents(folder)
    if after != before:
        changed = sorted(dict(before.items() ^ after.items()))
        said = f"{said}; changed: {', '.join(changed)}"
    return {
        "refused": int(refused),
        "harmed": int(after != before),
        "bytes": max(0, _memory("VmHWM") - memory),
        "said": said[:1000],
    }


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raises TimeoutError in the body after CPU_SECONDS."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"more than {CPU_SECONDS} seconds")

    before = signal.signal(signal.SIGPROF, expire)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _memory(name: str) -> int:
    """Bytes of this process, by a name of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def main(arguments: Sequence[str]) -> None:
    """Try the inputs at some places of the corpus; a line of JSON about each."""
    folder, *places = arguments
    from .corpus import corpus

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is not an answer
    _warm_up()
    most = _memory("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    cases = corpus()
    for place in places:
        outcome = attempt(cases[int(place)], Path(folder) / "tried")
        print(json.dumps(outcome), file=answers, flush=True)


def _warm_up() -> None:
    """Load what is loaded once, so that no input is said to have taken it."""
    import jax
    import matplotlib.pyplot as plt
    import PIL.PngImagePlugin
    import scipy.io

    from memjax import backend, data

    backend.configure()
    jax.numpy.zeros(3).block_until_ready()
    data.load("digits")
    del plt, PIL, scipy


if __name__ == "__main__":
    main(sys.argv[1:])
