"""Arrays to pictures."""

import numpy as np


def tile(images: np.ndarray, columns: int = 8, margin: int = 1) -> np.ndarray:
    """Images in rows on one canvas.

    Args:
        images: `[N, H, W, C]` in [0, 1], C = 1 or 3; values beyond are clipped.
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
        canvas[y : y + height, x : x + width] = image if channels == 3 else image[..., :1]
    return canvas
