"""Procedural characters, drawn from a seed: any number of classes for few-shot experiments.

A class is one to three strokes, each a polyline or a smooth curve through four points. A drawing of
it moves these points a little, turns, stretches, slants and shifts the whole, and picks a pen.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memjax.data.arrays import Split
from memjax.data.randomness import Stream, uniform
from memjax.data.recipe import Parts, Recipe
from memjax.errors import InputError

_SIDE = 28
_STROKES, _POINTS, _SAMPLES = 3, 4, 120
_CLASS_NUMBERS = 1 + _STROKES + _STROKES * _POINTS * 2
_DRAWING_NUMBERS = 7 + _STROKES * _POINTS * 2


def strokes(num_classes: int = 100, drawings: int = 20, seed: int = 0) -> Split:
    """Draws procedural characters, `[num_classes * drawings, 28, 28, 1]` uint8 with ink 1.

    Labels are the classes, 0..num_classes-1, in order. A drawing is a function of (seed, class,
    number of the drawing): asking for more classes or drawings leaves the others as they were.
    Raises InputError for less than one class or drawing.
    """
    if num_classes < 1 or drawings < 1:
        raise InputError(
            f"strokes: found {num_classes} classes of {drawings} drawings, expected at least 1 of 1"
        )
    images = [_draw_class(seed, number, drawings) for number in range(num_classes)]
    labels = np.repeat(np.arange(num_classes, dtype=np.int32), drawings)
    return Split(np.concatenate(images)[..., np.newaxis], labels)


def _draw_class(seed: int, number: int, drawings: int) -> np.ndarray:
    """Returns `[drawings, 28, 28]` uint8."""
    count = _CLASS_NUMBERS + drawings * _DRAWING_NUMBERS
    numbers = uniform(Stream.STROKES, seed, number, count)
    shape, variation = np.split(numbers, [_CLASS_NUMBERS])
    num_strokes = 1 + int(shape[0] * _STROKES)
    smooth = shape[1 : 1 + num_strokes] < 0.6
    points = shape[1 + _STROKES :].reshape(_STROKES, _POINTS, 2)[:num_strokes] * 2 - 1
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    points = (points - (low + high) / 2) / max((high - low).max() / 2, 0.5)

    variation = variation.reshape(drawings, _DRAWING_NUMBERS) * 2 - 1
    jitter = variation[:, 7:].reshape(drawings, _STROKES, _POINTS, 2)[:, :num_strokes] * 0.1
    basis = np.where(smooth[:, None, None], _basis(smooth=True), _basis(smooth=False))
    path = np.einsum("stp,dspx->dstx", basis, points + jitter).reshape(drawings, -1, 2)
    matrix, shift = _placement(variation)
    centre = (_SIDE - 1) / 2
    path = np.einsum("dnx,dxy->dny", path, matrix) + centre + shift[:, None]
    return _ink(path, radius=1.0 + 0.2 * variation[:, 6])


def _placement(variation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how each drawing is placed: matrices `[drawings, 2, 2]`, shifts in pixels."""
    angle, slant = variation[:, 0] * 0.25, variation[:, 1] * 0.2
    scale = (0.33 + 0.04 * variation[:, 2:4]) * _SIDE
    rotation = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=-1)
    shear = np.stack([np.ones_like(slant), slant, np.zeros_like(slant), np.ones_like(slant)], -1)
    matrix = shear.reshape(-1, 2, 2) @ rotation.reshape(-1, 2, 2) * scale[:, None]
    return matrix, variation[:, 4:6]


def _basis(smooth: bool) -> np.ndarray:
    """Returns `[samples, points]`: weights of the points along a polyline or Catmull-Rom curve."""
    place = np.linspace(0, _POINTS - 1, _SAMPLES)
    if not smooth:
        return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(_POINTS)))
    # Distance to each point of a longer row, whose ends continue the first and last step.
    far = np.abs(place[:, None] - np.arange(-1, _POINTS + 1))
    near = 1 - 2.5 * far**2 + 1.5 * far**3
    weight = np.where(far < 1, near, np.where(far < 2, 2 - 4 * far + 2.5 * far**2 - far**3 / 2, 0))
    basis = weight[:, 1:-1]
    basis[:, :2] += weight[:, :1] * (2, -1)
    basis[:, -2:] += weight[:, -1:] * (-1, 2)
    return basis


def _ink(path: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Returns `[drawings, 28, 28]`: 1 where a point of the path is within the radius, in pixels."""
    images = np.zeros((len(path), _SIDE, _SIDE), np.uint8)
    nearest = np.rint(path).astype(np.int64)
    drawing = np.broadcast_to(np.arange(len(path))[:, None], nearest.shape[:2])
    for step in np.ndindex(3, 3):
        pixel = nearest + np.array(step) - 1
        inked = ((pixel - path) ** 2).sum(axis=-1) < radius[:, None] ** 2
        inked &= ((pixel >= 0) & (pixel < _SIDE)).all(axis=-1)
        images[drawing[inked], pixel[inked, 1], pixel[inked, 0]] = 1
    return images


def _generate(_: Mapping[str, Path]) -> Parts:
    everything = strokes()
    return {
        "train": everything.take(slice(0, 1_600)),
        "valid": everything.take(slice(1_600, 1_800)),
        "test": everything.take(slice(1_800, None)),
    }


STROKES = Recipe(
    name="strokes",
    description="Procedural characters: 80 classes to train, 10 to validate, 10 to test.",
    image_shape=(_SIDE, _SIDE, 1),
    maximum=1,
    read_originals=_generate,
    counts={"train": 1_600, "valid": 200, "test": 200},
    valid_size=200,
    by_class=True,
)
