"""Arrays of images and labels as people save them: the order of their axes, and hints where their type is wrong.

In: arrays. Out: images uint8 (N, C, H, W), or the hint that says how such an array becomes one. No hint
loses what is in the array: where there is no way without loss, it says what is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError

CHANNEL_AXES = {"NCHW": 1, "NHWC": -1}
"""Which axis the channels are, by the name of the layout."""
_WHITE = 255
_LAYOUT_HINT = "say the order: add layout='NCHW' (channels first) or layout='NHWC' (channels last) to the .npz file"
_CUBE_HINT = (
    "both orders fit: save them as an .npz data set with layout='NCHW' or layout='NHWC', and give it with --dataset"
)


def channels_first(
    images: NDArray[Any], where: str, *, shape: tuple[int, ...] | None = None, layout: str | None = None
) -> NDArray[Any]:
    """Return images with the axis of channels behind that of the images: the one rule for the order of axes.

    Images are read in the one order that fits. With `layout` that is the one it names. With `shape` it is the one in
    which a network takes them. With neither, the channels come last, and there are fewer of them than rows and columns.

    Args:
        images: (N, H, W), or (N, C, H, W) or (N, H, W, C), no axis of length 0.
        where: what messages call them.
        shape: (C, H, W) where it is known; images that fit in no order are returned as they are.
        layout: a key of `CHANNEL_AXES` where it is known.

    Returns:
        a view of `images`, (N, C, H, W).

    Raises:
        FormatError: the order cannot be told.
    """
    if images.ndim == 3 and shape in (None, (1, *images.shape[1:])):
        return images[:, np.newaxis]
    if images.ndim != 4:
        return images
    orders = CHANNEL_AXES if layout is None else {layout: CHANNEL_AXES[layout]}
    readings = {order: np.moveaxis(images, axis, 1) for order, axis in orders.items()}
    if layout is None:
        readings = {order: array for order, array in readings.items() if _fits(order, array.shape[1:], shape)}
    if shape is not None and not readings:
        return images
    if len(readings) != 1 and max(images.shape[1:]) > 1:
        raise FormatError(
            f"{where}: got images {images.shape}, allowed: a shape that tells which axis the channels are",
            hint=_LAYOUT_HINT if shape is None else _CUBE_HINT,
        )
    return next(iter(readings.values()), images)


def _fits(order: str, own: tuple[int, ...], shape: tuple[int, ...] | None) -> bool:
    channels, height, width = own
    return own == shape if shape is not None else order == "NHWC" and channels < min(height, width)


def row_by_row(images: NDArray[Any]) -> NDArray[Any]:
    """Return images with the strides of a new array, copied only where they lie otherwise in memory.

    NumPy leaves the stride of an axis of length 1 as it came. If that is 1, torch takes images of one channel for
    channels-last. So does every layer behind them, and is half as fast where weights lie row by row.
    """
    return np.ascontiguousarray(images).reshape(-1).reshape(images.shape)


def how_to_pixels(name: str, array: NDArray[Any]) -> str:
    """Return how numbers of another type become uint8 pixels, by their range; `name` is what the array is called."""
    if array.size == 0 or array.dtype.kind not in "biuf":
        return "pixels are whole numbers 0..255 of type uint8"
    if not np.isfinite(array).all():
        return "the array holds values that are not finite: replace them first, no pixel stands for them"
    smallest, largest = float(array.min()), float(array.max())
    if smallest < 0 or largest > _WHITE:
        return f"pixels are 0..255, before any normalisation; these reach from {smallest:g} to {largest:g}"
    if array.dtype.kind in "iu":
        return f"save {name}.astype('uint8')"
    return f"pixels are 0..255: save {f'(255 * {name})' if largest <= 1 else name}.round().astype('uint8')"


def how_to_class_numbers(name: str, array: NDArray[Any], n_images: int) -> str:
    """Return how one-hot vectors, a column or real numbers become class numbers, where only their form changes."""
    if array.dtype.kind in "biuf" and array.ndim == 2 and len(array) == n_images:
        if array.shape[1] == 1:
            return f"labels have one axis: save {name}[:, 0]"
        if ((array != 0).sum(axis=1) == 1).all() and (array.max(axis=1) == 1).all():
            return f"labels are class numbers: save {name}.argmax(1)"
        return "every image has one class: there is no number for several classes, or for shares of them"
    if array.dtype.kind == "f" and array.shape == (n_images,):
        if np.isfinite(array).all() and (array == np.rint(array)).all():
            return f"labels are class numbers: save {name}.astype(int)"
        return "labels are class numbers: these look like regression targets; nctool trains classifiers only"
    return f"labels are class numbers 0, 1, 2, ..., one for each of the {n_images} images"
