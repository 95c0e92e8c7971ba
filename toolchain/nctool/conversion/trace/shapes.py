"""Shapes and numbers of torch modules: pairs of sizes, images and sequences, zeros round them, parameters.

In: attributes of torch modules, signals. Out: pairs, shapes, arrays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.conversion.trace.signals import NO_ZEROS, Signal, Spikes, zeros_of
from nctool.errors import RangeError, UnsupportedError
from nctool.ir.network import Pair, Shape

LARGEST_PARAMETER = 1e15
"""Magnitude beyond which squares of what a layer gives leave single precision."""

SEQUENCES: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.ConvTranspose1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)
"""Modules that read sequences, (channels, length)."""


def pair(value: Any, along_height: int | None = None) -> Pair:
    """Return torch's int or ints as a (height, width) pair.

    Args:
        value: one for both axes, or one for each; that of the length, where `along_height` is given.
        along_height: what stands for the height of sequences, which are images of height 1.
    """
    values = (value,) if isinstance(value, int) else tuple(value)
    first = values[0] if along_height is None else along_height
    return int(first), int(values[-1])


def along(module: nn.Module, value: int) -> int | None:
    """Return what stands for the height of a module that knows sequences only."""
    return value if isinstance(module, SEQUENCES) else None


def image_shape(signal: Spikes | FloatPopulation, name: str) -> tuple[int, int, int]:
    """Return (channels, height, width), and refuse what has another shape."""
    if len(signal.shape) != 3:
        raise UnsupportedError(f"module `{name}`: gets shape {signal.shape}, allowed (channels, height, width)")
    return signal.shape[0], signal.shape[1], signal.shape[2]


def require_image(shape: Shape, what: str, signal: Spikes | FloatPopulation) -> None:
    """Refuse a layer that gives an image without pixels."""
    if min(shape) < 1:
        raise UnsupportedError(
            f"{what}: its kernel reaches beyond the padded image, which is {signal.shape[1:]} unpadded"
        )


def within_zeros(signal: Spikes | FloatPopulation) -> Shape:
    """Return the shape without the zeros round it."""
    (above, below), (left, right) = zeros_of(signal)
    channels, high, wide = signal.shape
    return channels, high - above - below, wide - left - right


def without_zeros(part: Signal) -> Signal:
    """Return what is read within the zeros round it."""
    return replace(part, shape=within_zeros(part), zeros=NO_ZEROS)


def to_array(tensor: torch.Tensor, name: str) -> FloatArray:
    """Return a parameter as float64; a RangeError names one that is not finite, or beyond `LARGEST_PARAMETER`."""
    array: FloatArray = tensor.detach().cpu().to(torch.float64).numpy()
    if not np.isfinite(array).all():
        raise RangeError(f"parameter `{name}`: holds {array[~np.isfinite(array)][0]}, allowed finite numbers")
    largest = float(np.abs(array).max(initial=0.0))
    if largest > LARGEST_PARAMETER:
        raise RangeError(
            f"parameter `{name}`: reaches {largest:.3g}, allowed up to {LARGEST_PARAMETER:g}",
            hint="train with normalised images and a lower learning rate, or scale the layer",
        )
    return array
