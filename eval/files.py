"""Writing what is made of results: pages, tables and pictures, each whole or not at all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from memjax import plots, workdirs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(path: epath.Path, content: str | bytes) -> None:
    """Write a file, and make its folder.

    Raises:
        WriteError: it cannot be written.
    """
    with workdirs.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        workdirs.write_whole(path, content)


def save_figure(figure: "Figure", path: epath.Path) -> None:
    """Write a figure as PNG; `save` says what may fail."""
    save(path, plots.png(figure))


def save_animation(frames: Sequence[np.ndarray], path: epath.Path) -> None:
    """Write frames `[H, W, 3]` in [0, 1] as GIF; `save` says what may fail."""
    save(path, plots.gif(frames))
