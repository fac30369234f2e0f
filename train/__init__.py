"""Training: `python -m train EXPERIMENT --workdir DIR`, or `train.run(experiment, workdir)`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import NonFiniteError
    from .runner import run
    from .signals import Stopped

__all__ = ["NonFiniteError", "Stopped", "run"]
_ROOMS = {"NonFiniteError": "loop", "Stopped": "signals", "run": "runner"}


if not TYPE_CHECKING:  # a type checker knows the names from above, and finds misspelt ones

    def __getattr__(name: str) -> Any:
        # These take seconds to import, and `python -m train` imports this before it can ask for
        # huge pages, which starts the process anew.
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
