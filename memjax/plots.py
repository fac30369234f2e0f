"""Arrays to pictures."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RADIUS = 0.045  # of a class's circle in a graph, of which the longer side is 1
IDEAL = "ln of the classes above: "  # begins the name of a line that stands beside another


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


def panels(
    titled: Mapping[str, np.ndarray], columns: int = 8, abreast: int | None = None
) -> "Figure":
    """Grids of images side by side, each under its title.

    Args:
        titled: title -> images `[N, H, W, C]` in [0, 1].
        columns: images in a row of each grid.
        abreast: grids in a row of the figure; all of them if None.
    """
    from matplotlib.figure import Figure  # matplotlib takes a second to import

    tiles = {title: tile(images, columns) for title, images in titled.items()}
    across = min(abreast or len(tiles), len(tiles))
    rows = -(-len(tiles) // across)
    widths = [grid.shape[1] for grid in tiles.values()][:across]
    height = max(grid.shape[0] / grid.shape[1] for grid in tiles.values()) * 3 + 0.5
    figure = Figure(figsize=(3 * across, height * rows), layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False, width_ratios=widths).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, grid) in zip(axes, tiles.items(), strict=False):
        axis.imshow(grid, interpolation="nearest")
        axis.set_title(title)
    return figure


def grid(
    images: np.ndarray,
    row_names: Iterable[object],
    column_names: Iterable[object],
    row_label: str = "",
    column_label: str = "",
) -> "Figure":
    """Images in named rows and columns.

    Args:
        images: `[R, S, H, W, C]` in [0, 1].
        row_names: R of them.
        column_names: S of them.
        row_label: what the rows are.
        column_label: what the columns are.
    """
    from matplotlib.figure import Figure

    rows, columns, height, width = images.shape[:4]
    figure = Figure(figsize=(0.6 * columns + 0.8, 0.6 * rows + 0.8), layout="constrained")
    axis = figure.subplots()
    axis.imshow(tile(images.reshape(-1, *images.shape[2:]), columns), interpolation="nearest")
    axis.set_xticks([0.5 + (width + 1) * (i + 0.5) for i in range(columns)], map(str, column_names))
    axis.set_yticks([0.5 + (height + 1) * (i + 0.5) for i in range(rows)], map(str, row_names))
    axis.set(xlabel=column_label, ylabel=row_label)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
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

    figure = Figure(figsize=(6, 4.5), layout="constrained")
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
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    x_scale: str = "linear",
    y_scale: str = "linear",
) -> "Figure":
    """Lines with their points, name -> (x, y), whole.

    Args:
        lines: name -> (x, y); IDEAL + NAME is dashed, in the colour of NAME.
        x_label: with the unit.
        y_label: with the unit.
        x_scale: `linear`, or `log` for numbers that double.
        y_scale: `linear`, or `log`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    few = max(len(x) for x, _ in lines.values()) <= 30
    colours = {name: f"C{i}" for i, name in enumerate(n for n in lines if not n.startswith(IDEAL))}
    for name, (x, y) in lines.items():
        style = "--" if name.startswith(IDEAL) else "-"
        colour = colours.get(name.removeprefix(IDEAL))
        axis.plot(x, y, style, color=colour, marker="o" if few else "", markersize=4, label=name)
    if x_scale == "log":
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_yscale(y_scale)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8)
    return figure


def memory(
    targets: np.ndarray,
    probabilities: np.ndarray,
    entries: np.ndarray,
    address: np.ndarray,
    means: np.ndarray,
    best: int = 5,
) -> "Figure":
    """Which entries of a memory explain a target, and what is made of an entry.

    Args:
        targets: `[R, H, W, C]`.
        probabilities: `[R, M]`, q(a | x) of each target.
        entries: `[M, H, W, C]`, what the memory holds.
        address: `[S]`, entries that images are made of.
        means: `[S * J, H, W, C]`, of p(x | z, m_a), J of each.
        best: entries that are shown of each target.
    """
    from matplotlib.figure import Figure

    rows = len(targets)
    figure = Figure(figsize=(11, 0.9 * rows + 0.8), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(3, 2))[0]
    left.suptitle("target, q(a | x) by entry, entries where it is largest")
    axes = left.subplots(rows, 2 + best, width_ratios=(1, 4, *(1 for _ in range(best))))
    for row, target, of_entry in zip(axes.reshape(rows, -1), targets, probabilities, strict=True):
        _image(row[0], target)
        # Lines, since bars would be thinner than a pixel with thousands of entries.
        row[1].vlines(np.arange(len(of_entry)), 0, of_entry, linewidth=1.5)
        row[1].set_ylim(0, 1.1 * of_entry.max())
        row[1].tick_params(labelsize=6)
        for axis, entry in zip(row[2:], np.argsort(-of_entry), strict=False):
            _image(axis, entries[entry])
            axis.set_title(f"{of_entry[entry]:.2f}", fontsize=7, pad=2)
        for axis in row[2 + len(of_entry) :]:
            axis.set_axis_off()
    right.suptitle("entry; means of p(x | z, m_a)")
    grid = means.reshape(len(address), -1, *means.shape[1:])
    gap = np.ones_like(grid[:, :1])
    with_entry = np.concatenate([entries[address][:, None], gap, grid], axis=1)
    axis = right.subplots()
    axis.set_anchor("N")
    axis.imshow(
        tile(with_entry.reshape(-1, *means.shape[1:]), with_entry.shape[1]),
        interpolation="nearest",
    )
    axis.set_axis_off()
    return figure


def preferences(by_layer: Mapping[int, np.ndarray], class_names: Sequence[str]) -> "Figure":
    """Which slots classes prefer, and how alike their preferences are; a row for each layer.

    On the right, classes of correlated preferences lie close together, as far as their circles do
    not cover each other, and lines join those whose correlation is above zero, the darker the
    higher.

    Args:
        by_layer: layer -> `[classes, M]`, rows that sum to one.
        class_names: of the rows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 * len(by_layer)), layout="constrained")
    axes = figure.subplots(len(by_layer), 2, squeeze=False, width_ratios=(5, 2))
    for (left, right), (layer, found) in zip(axes, by_layer.items(), strict=True):
        shown = left.imshow(found, aspect="auto", interpolation="nearest", cmap="viridis")
        figure.colorbar(shown, ax=left, label="preference")
        left.set_yticks(range(len(class_names)), class_names)
        left.set(xlabel="slot", ylabel="class", title=f"layer {layer}")
        _correlations(right, found, class_names)
    return figure


def _correlations(axis: "Axes", found: np.ndarray, names: Sequence[str]) -> None:
    """A graph of classes, by the correlation of their preferences `[classes, M]`."""
    from matplotlib.patches import Circle

    # Between standardised rows the squared distance is 2 (1 - correlation), up to a factor.
    rows = found - found.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    correlation = rows @ rows.T
    # Principal components; one class, or one slot, has fewer than two.
    left, sizes, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    place = np.zeros((len(rows), 2))
    place[:, : len(sizes)] = (left * sizes)[:, :2]
    extent = float(np.ptp(place, axis=0).max())
    # Classes that differ by rounding errors alone are not blown up to the size of the graph.
    place = apart(place / extent if extent > 1e-6 else place, least=2.2 * RADIUS)
    for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
        if (weight := correlation[i, j]) > 0:
            axis.plot(*place[[i, j]].T, color="tab:blue", alpha=float(min(1.0, weight)), zorder=1)
    for (x, y), name in zip(place, names, strict=True):
        axis.add_patch(Circle((x, y), RADIUS, facecolor="white", edgecolor="black", zorder=2))
        axis.text(x, y, name, ha="center", va="center", fontsize=8, zorder=3)
    axis.set_title("correlation of classes")
    middle = (place.max(axis=0) + place.min(axis=0)) / 2
    half = max(0.5, float(np.ptp(place, axis=0).max()) / 2) + 1.2 * RADIUS
    axis.set(xlim=middle[0] + np.array([-half, half]), ylim=middle[1] + np.array([-half, half]))
    axis.set_aspect("equal")
    axis.set_axis_off()


def apart(points: np.ndarray, least: float, rounds: int = 200) -> np.ndarray:
    """Points moved as little as it takes for no two to be closer than a distance.

    Pairs that are too close are pushed apart one after the other, each point by half of what is
    missing; points that are apart already stay where they are, unless others are pushed on to them.

    Args:
        points: `[N, 2]`.
        least: distance, in their unit.
        rounds: over all pairs, at most; a crowd that needs more is returned as it is then.

    Returns:
        `[N, 2]` float64, the same for the same points.
    """
    moved = np.array(points, np.float64)
    for _ in range(rounds):
        gaps = np.linalg.norm(moved[:, None] - moved[None], axis=-1)
        pairs = np.argwhere(np.triu(gaps < least, 1))
        if not len(pairs):
            break
        for i, j in pairs:
            between = moved[j] - moved[i]
            distance = float(np.linalg.norm(between))
            if distance < 1e-9 * least:  # on each other: any direction, another for every pair
                between = np.array([np.cos(i + 2.0 * j), np.sin(i + 2.0 * j)])
            else:
                between /= distance
            # A little more than is missing, so that the rounds come to an end.
            push = max(0.0, 1.02 * least - distance) / 2 * between
            moved[i] -= push
            moved[j] += push
    return moved


def _image(axis: "Axes", image: np.ndarray) -> None:
    axis.imshow(tile(image[None], 1), interpolation="nearest")
    axis.set_axis_off()


def png(figure: "Figure") -> bytes:
    """A figure as PNG, the same bytes for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def gif(frames: Sequence[np.ndarray], scale: int = 3) -> bytes:
    """Frames as a GIF that repeats; the last one stays for a while.

    Args:
        frames: `[H, W, 3]` each, in [0, 1].
        scale: how often a pixel is repeated along each side.
    """
    from PIL import Image

    pixels = [np.kron(frame, np.ones((scale, scale, 1))) for frame in frames]
    images = [Image.fromarray((255 * np.clip(one, 0, 1)).astype(np.uint8)) for one in pixels]
    milliseconds = [*(100 for _ in images[1:]), 1500]
    file = io.BytesIO()
    images[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=milliseconds,
        loop=0,
    )
    return file.getvalue()
