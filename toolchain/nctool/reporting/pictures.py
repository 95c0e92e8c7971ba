"""Samples as small images of a page.

In: pixels or integers of a sample. Out: an address that a page shows without fetching anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.figures.png import address_of, png_of

LARGEST_SIDE = 48
"""Pixels; larger samples are shown by the means of blocks."""

LINE_HEIGHT = 8
"""Pixels that a sample of height 1 is shown high."""


def picture_of(sample: NDArray[Any], low: int, high: int) -> str:
    """Return a sample as an image; an empty text for one that is no image.

    Args:
        sample: (channels, height, width), of pixels or integers; channels other than 1 or 3 are shown by their mean.
        low, high: the values that are shown black and white.
    """
    if sample.ndim != 3:
        return ""
    values = sample.astype(np.float64) if sample.shape[0] == 3 else sample.astype(np.float64).mean(axis=0)[np.newaxis]
    values = _smaller(values)
    if values.shape[1] == 1:
        values = values.repeat(LINE_HEIGHT, axis=1)
    grey = np.clip(np.rint((values - low) * (255 / max(high - low, 1))), 0, 255).astype(np.uint8)
    return address_of(png_of(grey[0] if len(grey) == 1 else grey.transpose(1, 2, 0)))


def _smaller(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of blocks so large that no side is longer than allowed; what is left at the edges is cut off."""
    block = -(-max(values.shape[1:]) // LARGEST_SIDE)
    rows, columns = (min(block, side) for side in values.shape[1:])
    height, width = values.shape[1] // rows * rows, values.shape[2] // columns * columns
    parts = values[:, :height, :width].reshape(len(values), height // rows, rows, width // columns, columns)
    small: NDArray[np.float64] = parts.mean(axis=(2, 4))
    return small
