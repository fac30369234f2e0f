"""memjax.plots: arrays to pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from memjax import plots

GREY = 0.5


def test_tile_puts_every_pixel_in_its_place() -> None:
    images = np.linspace(0, 1, 3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2, 1)
    found = plots.tile(images, columns=2)
    expected = np.full((7, 7), GREY, np.float32)
    expected[1:3, 1:3] = images[0, ..., 0]
    expected[1:3, 4:6] = images[1, ..., 0]
    expected[4:6, 1:3] = images[2, ..., 0]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack([expected] * 3, axis=-1))


def test_tile_of_other_margins_and_shapes() -> None:
    images = np.zeros((5, 2, 3, 1), np.float32)
    found = plots.tile(images, columns=4, margin=2)
    assert found.shape == (2 * (2 + 2) + 2, 4 * (3 + 2) + 2, 3)
    assert np.sum(found == 0) == images.size * 3
    assert np.all(found[:, -2:] == GREY)
    assert plots.tile(images, columns=5, margin=0).shape == (2, 15, 3)
    np.testing.assert_array_equal(plots.tile(images, columns=5, margin=0), 0)


def test_tile_keeps_colours() -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 3)).astype(np.float32)
    found = plots.tile(images, columns=1)
    np.testing.assert_array_equal(found[1:4, 1:5], images[0])
    np.testing.assert_array_equal(found[5:8, 1:5], images[1])


@pytest.mark.parametrize(("channels", "shown"), [(2, [0, 0, 0]), (4, [0, 1, 2])])
def test_tile_of_other_channels(channels: int, shown: list[int]) -> None:
    images = np.random.default_rng(0).random((1, 3, 4, channels)).astype(np.float32)
    np.testing.assert_array_equal(plots.tile(images)[1:4, 1:5], images[0][..., shown])


def test_tile_clips_what_lies_beyond() -> None:
    images = np.array([-3.0, 7.0], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(plots.tile(images)[1, 1:3, 0], [0, 1])
    np.testing.assert_array_equal(images.ravel(), [-3, 7])


def test_panels_show_each_grid_under_its_title() -> None:
    titled = {"left": np.zeros((4, 2, 2, 1)), "right": np.ones((8, 2, 2, 1))}
    axes = plots.panels(titled, columns=4).axes
    assert [axis.get_title() for axis in axes] == ["left", "right"]
    for axis, images in zip(axes, titled.values(), strict=True):
        (shown,) = axis.get_images()
        np.testing.assert_array_equal(shown.get_array(), plots.tile(images, columns=4))


def test_panels_wrap() -> None:
    titled = {name: np.full((8, 2, 2, 1), i / 3) for i, name in enumerate("abc")}
    figure = plots.panels(titled, abreast=2)
    shown = [axis for axis in figure.axes if axis.get_images()]
    assert [axis.get_title() for axis in shown] == ["a", "b", "c"]
    assert [axis.get_subplotspec().rowspan.start for axis in shown] == [0, 0, 1]
    assert not any(axis.axison for axis in figure.axes)
    low, high = (plots.panels(titled, abreast=n).get_size_inches() for n in (3, 2))
    assert high[0] < low[0]
    assert high[1] > low[1]


def test_curves_draw_every_line() -> None:
    lines = {"a": ([1, 2, 3], [-90.0, -80.0, -70.0]), "b": ([1, 2], [-60.0, -50.0])}
    figure = plots.curves(lines, "epoch", "nats")
    (axis,), (legend,) = figure.axes, figure.legends
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("epoch", "nats")
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    for line, (x, y) in zip(axis.get_lines(), lines.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), x)
        np.testing.assert_array_equal(line.get_ydata(), y)


def test_curves_cut_off_the_steep_beginning() -> None:
    y = [-500.0, *np.linspace(-100, -90, 99)]
    (axis,) = plots.curves({"a": (range(100), y)}, "epoch", "nats").axes
    bottom, top = axis.get_ylim()
    assert bottom == pytest.approx(np.quantile(y, 0.05))
    assert -101 < bottom < -98
    assert top > -90


def test_logarithmic_curves_show_every_point() -> None:
    y = [0.1, 10.0, 20.0, 30.0]
    (axis,) = plots.curves({"a": ([1, 10, 20, 30], y)}, "x", "y", logarithmic=True).axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    bottom, top = axis.get_ylim()
    assert bottom < min(y) and top > max(y)


@pytest.mark.parametrize("kind", ["panels", "curves"])
def test_the_same_figure_is_the_same_bytes(kind: str) -> None:
    images = np.random.default_rng(0).random((8, 4, 4, 1))
    written = []
    for _ in range(2):
        if kind == "panels":
            figure = plots.panels({"a": images, "b": images})
        else:
            figure = plots.curves({"a": ([1, 2], [3, 4])}, "x", "y")
        written.append(plots.png(figure))
        with Image.open(io.BytesIO(written[-1])) as picture:
            assert picture.format == "PNG"
            assert "Software" not in picture.info
            width, height = figure.get_size_inches()
            assert picture.size == (round(width * 130), round(height * 130))
            assert len(np.unique(np.asarray(picture))) > 10
    assert written[0] == written[1]


def test_memory_shows_the_preferred_entries_first() -> None:
    entries = np.linspace(0, 1, 4).reshape(4, 1, 1, 1) * np.ones((4, 2, 2, 1))
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.0, 0.1, 0.2]])
    samples = np.zeros((6, 2, 2, 1))
    figure = plots.memory(entries[:2], probabilities, entries, np.array([3, 1]), samples)
    *rows, grid = figure.axes
    titles = [axis.get_title() for axis in rows]
    # A target, its bars, four entries, and room for a fifth.
    assert titles[2:7] == ["0.40", "0.30", "0.20", "0.10", ""]
    assert titles[9:14] == ["0.70", "0.20", "0.10", "0.00", ""]
    shown = [axis.get_images()[0].get_array()[1, 1, 0] for axis in rows[2:6]]
    np.testing.assert_allclose(shown, [1, 2 / 3, 1 / 3, 0], atol=1e-6)
    # Each row of samples begins with its entry.
    canvas = grid.get_images()[0].get_array()
    np.testing.assert_allclose(canvas[[1, 4], 1, 0], [1, 1 / 3], atol=1e-6)


def test_lines_are_whole_and_ideals_dashed() -> None:
    given = {"a": ([1.0, 2.0], [900.0, 3.0]), f"{plots.IDEAL}a": ([1.0, 2.0], [1.0, 2.0])}
    (axis,) = plots.lines(given, "classes", "NLL, nats", "log").axes
    assert [line.get_linestyle() for line in axis.get_lines()] == ["-", "--"]
    assert axis.get_ylim()[1] > 900 and axis.get_xscale() == "log"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("classes", "NLL, nats")


def test_points_that_are_apart_stay_where_they_are() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(plots.apart(points, least=1.0), points)
    assert plots.apart(np.zeros((1, 2)), least=1.0).tolist() == [[0, 0]]


def test_two_points_too_close_are_pushed_apart_along_their_line() -> None:
    points = np.array([[1.0, 1.0], [1.3, 1.4], [9.0, 9.0]])
    found = plots.apart(points, least=1.0)
    np.testing.assert_array_equal(found[2], points[2])
    np.testing.assert_allclose(found[:2].mean(axis=0), points[:2].mean(axis=0))
    np.testing.assert_allclose((found[1] - found[0]) / np.array([0.6, 0.8]), [1.02, 1.02])
    assert points[1].tolist() == [1.3, 1.4]  # a new array


@pytest.mark.parametrize("count", [2, 10, 50])
def test_points_on_each_other_become_a_crowd(count: int) -> None:
    found = plots.apart(np.ones((count, 2)), least=0.1)
    gaps = np.linalg.norm(found[:, None] - found[None], axis=-1)[np.triu_indices(count, 1)]
    assert gaps.min() >= 0.1
    assert np.linalg.norm(found - 1, axis=1).max() < 0.1 * np.sqrt(count) + 0.1
    np.testing.assert_array_equal(found, plots.apart(np.ones((count, 2)), least=0.1))
