"""Images on which a trained network is converted: pixels and their normalisation, or numbers as the network takes them.

In: an array of the user. Out: CalibrationImages, or an error that says what is wrong with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.errors import UsageError
from nctool.ir.linear_range import LinearRange

MOST_IMAGES = 1280
"""Images that are taken; of more, so many are drawn, the same each time."""

HELD_OUT = 5
"""One image in so many is held out: the network is not converted on it, its answers are compared on it."""

LEAST_TO_SPLIT = 64
"""With fewer images, none is held out."""

MOST_NUMBERS = 2**27
"""Numbers of their pixels at most, 128 MiB."""

FEW_IMAGES = 32
"""With fewer, thresholds are guesses: that is noted."""

LARGEST_NUMBER = 1e9
"""Of what the network takes: squares and sums of larger numbers leave float32."""

LARGEST_MEAN = 1.0
"""No mean of pixel / 255 is larger, and none is negative; others are noted."""

LARGEST_ROUNDING = 0.2
"""Mean rounding of floats to 256 steps, as a part of the usual distance from their median, above which it is noted."""

LARGEST_NORMALISED = 20.0
"""Numbers that only grow positive and reach beyond are hardly normalised: that is noted."""


@dataclass(frozen=True)
class CalibrationImages:
    """What a network is converted on.

    Args:
        pixels: uint8 (N, channels, height, width), (N, channels, length) or (N, features).
        mean, std: of each channel; pixel p is (p / 255 - mean) / std for the network.
        kind: what the network's samples are: pixels, or real numbers.
        notes: what is likely to cost accuracy.
        labels: class numbers of the pixels, int64 (N,); None where they are not known.
    """

    pixels: NDArray[np.uint8]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Literal["pixels", "numbers"]
    notes: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None

    @property
    def fitted(self) -> NDArray[np.uint8]:
        """Return the pixels that the network is converted on."""
        return self.pixels[~self._held_out]

    @property
    def compared(self) -> NDArray[np.uint8]:
        """Return the pixels on which it is compared with the trained one: those held out, or all where none is."""
        return self.pixels[self._held_out] if self.holds_out else self.pixels

    @property
    def compared_labels(self) -> NDArray[np.int64] | None:
        """Return the labels of those."""
        return self.labels if self.labels is None or not self.holds_out else self.labels[self._held_out]

    @property
    def holds_out(self) -> bool:
        """Return whether there are images enough to hold some out."""
        return len(self.pixels) >= LEAST_TO_SPLIT

    @property
    def _held_out(self) -> NDArray[np.bool_]:
        number = np.arange(len(self.pixels))
        held_out: NDArray[np.bool_] = (number % HELD_OUT == HELD_OUT - 1) & self.holds_out
        return held_out

    def normalised(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return pixels as the network takes them, float32 of the shape of its samples."""
        pixels = pixels.reshape(len(pixels), *self.pixels.shape[1:])
        column = (-1, *[1] * (pixels.ndim - 2))
        mean, std = (np.asarray(values, np.float64).reshape(column) for values in (self.mean, self.std))
        return torch.from_numpy(((pixels / 255 - mean) / std).astype(np.float32))


def calibration_images(
    images: NDArray[Any] | Tensor,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    labels: NDArray[np.int64] | None = None,
) -> CalibrationImages:
    """Return images as a network is converted on them.

    Args:
        images: uint8 pixels, channels first, with mean and std; or floats as the network takes them, without.
        mean, std: of each channel, or one for all, in units of pixel / 255.
        labels: class numbers, int64, one for each image.

    Raises:
        UsageError: type, shape, values or normalisation are no such thing.
    """
    array = _as_array(images)
    some = _some(array)
    array = _sound(np.array(array[some], order="C"))  # a file that is mapped cannot be written to, which torch warns of
    labels = None if labels is None else labels[some]
    if array.dtype == np.uint8:
        found = CalibrationImages(array, *_normalisation(array.shape[1], mean, std), "pixels")
    else:
        if mean is not None or std is not None:
            raise UsageError(
                f"images: got {array.dtype} with --mean and --std, which are for uint8 pixels",
                hint="give pixels 0..255 of type uint8 with them, or numbers as the network takes them without",
            )
        linear = LinearRange.of(array)
        found = CalibrationImages(linear.pixels(array, "images"), linear.mean, linear.std, "numbers")
    return replace(found, notes=(*_notes(array, mean), *_notes_of_rounding(array, found)), labels=labels)


def _notes_of_rounding(array: NDArray[Any], images: CalibrationImages) -> tuple[str, ...]:
    """Return a note where few numbers fill the range, so that its 256 steps are coarse for all others."""
    if array.dtype == np.uint8:
        return ()
    axes = tuple(axis for axis in range(array.ndim) if axis != 1)
    gap = images.normalised(images.pixels).numpy() - array
    distances = np.moveaxis(np.abs(array - np.median(array, axis=axes, keepdims=True)), 1, 0)
    usual = [np.percentile(of[of > 0], 75) if of.any() else np.inf for of in distances]  # most may be background
    lost = float((np.abs(gap).mean(axis=axes) / usual).max())
    if lost <= LARGEST_ROUNDING:
        return ()
    return (
        f"a few numbers of the images fill their range: 256 steps of it round the others by {lost:.0%} of their usual "
        "size; clip what lies far out, in the images and before the network",
    )


def _as_array(images: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Return uint8 or floats (N, ...)."""
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        images = images.float() if images.dtype == torch.bfloat16 else images  # which NumPy does not know
    array: NDArray[Any] = np.asarray(images)
    if array.dtype.kind not in "uf" or (array.dtype.kind == "u" and array.dtype != np.uint8):
        raise UsageError(
            f"images: got {array.dtype} {array.shape}, allowed uint8 pixels, or floats as the network takes them",
            hint="pixels 0..255: images.astype('uint8'), with --mean and --std; numbers: images.astype('float32')",
        )
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise UsageError(
            f"images: got {array.dtype} {array.shape}, allowed (N, channels, height, width), (N, channels, length) or "
            "(N, features)",
            hint="a single image needs an axis in front, images without colour one for their channel: images[:, None]",
        )
    return array


def _sound(array: NDArray[Any]) -> NDArray[Any]:
    """Return uint8 or float32 that vary, floats of a size that the network can compute with."""
    if array.dtype.kind == "f":
        fits = np.abs(array) <= LARGEST_NUMBER
        if not fits.all():
            raise UsageError(
                f"images: hold {array[~fits].flat[0]}, allowed finite numbers up to {LARGEST_NUMBER:g}",
                hint="a standard deviation of 0 divides by 0",
            )
        array = array.astype(np.float32)
    require_contrast(array.min(), array.max())
    return array


def require_contrast(least: float, largest: float) -> None:
    """Refuse images whose numbers are all the same.

    Raises:
        UsageError: they are.
    """
    if least == largest:
        raise UsageError(
            f"images: all numbers are {least:g}, from which no threshold can be told",
            hint="give images of the data that the network was trained on",
        )


def _some(array: NDArray[Any]) -> slice | NDArray[np.int64]:
    """Return which images are taken, drawn from all: data sets are often in the order of their classes."""
    most = max(1, min(MOST_IMAGES, MOST_NUMBERS // int(np.prod(array.shape[1:]))))
    if len(array) <= most:
        return slice(None)
    drawn = np.random.default_rng(0).choice(len(array), most, replace=False)
    some: NDArray[np.int64] = np.sort(drawn)[np.random.default_rng(1).permutation(most)]
    return some


def _normalisation(
    channels: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of pixels, one or one of each channel."""
    if mean is None or std is None:
        raise UsageError(
            "images: uint8 pixels without --mean and --std",
            hint="give what the training took off and divided by, as torchvision's Normalize takes them; 0 and 1 where "
            "it only divided by 255",
        )
    for option, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise UsageError(
                f"{option}: got {_listed(values) or 'none'} for images of {channels} channel{'s' * (channels > 1)}, "
                "allowed one number for all channels, or one for each",
                hint="images are (N, channels, height, width)",
            )
    if max(std) > LARGEST_NUMBER:
        raise UsageError(f"std: {max(std):g} is out of range, allowed up to {LARGEST_NUMBER:g}")
    if min(std) <= 0:
        raise UsageError(f"std: {min(std):g} is out of range, allowed > 0", hint="1 where the training divided by none")
    largest = max(max(abs(value), abs(1 - value)) for value in mean) / min(std)
    if largest > LARGEST_NUMBER:
        raise UsageError(
            f"mean {_listed(mean)} and std {_listed(std)}: pixels become numbers up to {largest:.2g}, allowed up to "
            f"{LARGEST_NUMBER:g}"
        )
    return tuple(mean), tuple(std)


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _notes(array: NDArray[Any], mean: tuple[float, ...] | None) -> tuple[str, ...]:
    notes = []
    if len(array) < FEW_IMAGES:
        notes.append(
            f"converted on {len(array)} image{'s' * (len(array) > 1)}: what is chosen by them is a guess, give some "
            "hundreds of all classes"
        )
    if mean is not None and not 0 <= min(mean) <= max(mean) <= LARGEST_MEAN:
        notes.append(
            f"mean {_listed(mean)}: of pixel / 255, means lie in 0..1; if it is of pixels 0..255, divide mean and std "
            "by 255"
        )
    if array.dtype.kind == "f" and array.ndim > 2 and array.min() == 0 and array.max() == 1:
        notes.append(
            "the numbers of the images fill 0..1: if the network was trained on normalised images, take off the mean "
            "and divide by the deviation"
        )
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() > LARGEST_NORMALISED:
        notes.append(
            f"the numbers of the images reach from {array.min():g} to {array.max():g}: if the network takes normalised "
            "images, give them normalised"
        )
    return tuple(notes)
