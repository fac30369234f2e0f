"""Arrays to pictures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tile(images: np.ndarray, columns: int = 8, margin: int = 1) -> np.ndarray:
    """Images in rows on one canvas.

    Args:
        images: `[N, H, W, C]` in [0, 1], values beyond are clipped; in colour where C is 3 or 4
            (without the fourth channel), else the first channel in grey.
        columns: images in a row.
        margin: grey pixels between them.

    Returns:
        `[rows * (H + margin) + margin, columns * (W + margin) + margin, 3]` float32.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    step_y, step_x = height + margin, width + margin
    canvas = np.full((rows * step_y + margin, columns * step_x + margin, 3), 0.5, np.float32)
    for i, image in enumerate(np.clip(images, 0, 1)):
        y, x = margin + (i // columns) * step_y, margin + (i % columns) * step_x
        canvas[y : y + height, x : x + width] = image[..., : 3 if channels >= 3 else 1]
    return canvas


def panels(titled: Mapping[str, np.ndarray], columns: int = 8) -> "Figure":
    """Grids of images side by side, each under its title.

    Args:
        titled: title -> images `[N, H, W, C]` in [0, 1].
        columns: images in a row of each grid.
    """
    from matplotlib.figure import Figure  # matplotlib takes a second to import

    tiles = {title: tile(images, columns) for title, images in titled.items()}
    widths = [grid.shape[1] for grid in tiles.values()]
    height = max(grid.shape[0] / grid.shape[1] for grid in tiles.values()) * 3
    figure = Figure(figsize=(3 * len(tiles), height + 0.5), layout="constrained")
    axes = figure.subplots(1, len(tiles), squeeze=False, width_ratios=widths)[0]
    for axis, (title, grid) in zip(axes, tiles.items(), strict=True):
        axis.imshow(grid, interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    return figure


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    logarithmic: bool = False,
) -> "Figure":
    """Lines over one axis: name -> (x, y).

    With linear axes the steep beginning is cut off: the axis begins where a twentieth of all values
    lie below. Logarithmic ones show all points.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, (x, y) in lines.items():
        axis.plot(x, y, label=name, marker="." if logarithmic else None)
    values = np.concatenate([np.asarray(y, dtype=np.float64) for _, y in lines.values()])
    if logarithmic:
        axis.set(xscale="log", yscale="log")
    else:
        axis.set_ylim(bottom=float(np.quantile(values, 0.05)))
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def save(figure: "Figure", path: epath.Path) -> None:
    """Write a figure as PNG, with the same bytes for the same figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
