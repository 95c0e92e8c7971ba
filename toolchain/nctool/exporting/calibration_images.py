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

MOST_IMAGES = 1024
"""Images that are converted on; of more, so many are drawn, the same each time."""

MOST_NUMBERS = 2**27
"""Numbers of their pixels at most, 128 MiB."""

FEW_IMAGES = 32
"""With fewer, thresholds are guesses: that is noted."""

LARGEST_NUMBER = 1e9
"""Of what the network takes: squares and sums of larger numbers leave float32."""

LARGEST_MEAN = 1.0
"""No mean of pixel / 255 is larger, and none is negative; others are noted."""

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
    """

    pixels: NDArray[np.uint8]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Literal["pixels", "numbers"]
    notes: tuple[str, ...] = ()

    def normalised(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return pixels as the network takes them, float32 of the shape of its samples."""
        pixels = pixels.reshape(len(pixels), *self.pixels.shape[1:])
        column = (-1, *[1] * (pixels.ndim - 2))
        mean, std = (np.asarray(values, np.float64).reshape(column) for values in (self.mean, self.std))
        return torch.from_numpy(((pixels / 255 - mean) / std).astype(np.float32))


def calibration_images(
    images: NDArray[Any] | Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> CalibrationImages:
    """Return images as a network is converted on them.

    Args:
        images: uint8 pixels, channels first, with mean and std; or floats as the network takes them, without.
        mean, std: of each channel, or one for all, in units of pixel / 255.

    Raises:
        UsageError: type, shape, values or normalisation are no such thing.
    """
    array = _sound(_some(_as_array(images)))
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
    return replace(found, notes=_notes(array, mean))


def _as_array(images: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Return uint8 or floats (N, ...)."""
    array: NDArray[Any] = np.asarray(images.detach().cpu() if isinstance(images, Tensor) else images)
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
    if array.min() == array.max():
        raise UsageError(
            f"images: all numbers are {array.flat[0]:g}, from which no threshold can be told",
            hint="give images of the data that the network was trained on",
        )
    return array


def _some(array: NDArray[Any]) -> NDArray[Any]:
    """Return as many images as are needed, drawn from all: data sets are often in the order of their classes."""
    most = max(1, min(MOST_IMAGES, MOST_NUMBERS // int(np.prod(array.shape[1:]))))
    if len(array) <= most:
        return np.array(array, order="C")  # a file that is mapped cannot be written to, which torch warns of
    drawn = np.random.default_rng(0).choice(len(array), most, replace=False)
    some: NDArray[Any] = array[np.sort(drawn)][np.random.default_rng(1).permutation(most)]
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
            f"converted on {len(array)} image{'s' * (len(array) > 1)}: thresholds are guesses, give some hundreds "
            "of all classes"
        )
    if mean is not None and not 0 <= min(mean) <= max(mean) <= LARGEST_MEAN:
        notes.append(
            f"mean {_listed(mean)}: of pixel / 255, means lie in 0..1; if it is of pixels 0..255, divide mean and std "
            "by 255"
        )
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() > LARGEST_NORMALISED:
        notes.append(
            f"the numbers of the images reach from {array.min():g} to {array.max():g}: if the network takes normalised "
            "images, give them normalised"
        )
    return tuple(notes)
