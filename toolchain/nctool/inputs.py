"""What drives a network: pixels through a table, or integers as they are.

In: samples. Out: the signal of the input, integers of any width (samples, steps or 1, *shape). Must not import torch,
h5py or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.equality import StructuralEquality
from nctool.errors import RangeError
from nctool.population import IntArray, Shape

INPUT_LIMIT = 2**15 - 1
"""Largest magnitude of an integer input: what Lava's 16-bit bias mantissa and our sums hold."""

Int64 = NDArray[np.int64]
Samples = NDArray[np.uint8] | IntArray
"""Pixels for an `InputEncoding`, integers for an `IntegerInput`."""


@dataclass(frozen=True, eq=False)
class InputEncoding(StructuralEquality):
    """How pixels become the signed 8-bit integers that drive the first synapses (rule I1).

    Args:
        shape: (channels,) or (channels, height, width) of one sample.
        table: int8 (channels, 256); pixel value p of channel c enters as table[c, p] at every step.
    """

    shape: Shape
    table: NDArray[np.int8]

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Map pixels, uint8 (samples, *shape), to graded input, int8 of the same shape.

        Raises:
            RangeError: the pixels are not uint8 or have another shape.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.shape:
            raise RangeError(
                f"input: got {pixels.dtype} {tuple(pixels.shape[1:])} per sample, allowed uint8 {self.shape}",
                hint="give the data set that the network was trained on, as pixels 0..255",
            )
        channel = np.arange(self.shape[0]).reshape(-1, *[1] * (len(self.shape) - 1))
        return np.asarray(self.table[channel, pixels], np.int8)

    def signal(self, pixels: NDArray[np.uint8]) -> IntArray:
        """Return int8 (samples, 1, *shape); the time axis of length 1 says: the same at every step.

        Raises:
            RangeError: as `encode`.
        """
        return self.encode(pixels)[:, np.newaxis]

    def channel_range(self) -> tuple[Int64, Int64]:
        """Return the smallest and largest value per channel, int64 (channels,) each."""
        table = self.table.astype(np.int64)
        return table.min(axis=1), table.max(axis=1)


@dataclass(frozen=True)
class IntegerInput:
    """Samples that are integers already: spikes, graded spikes or bias mantissas (rule I2).

    Args:
        shape: (channels,) or (channels, height, width) of one time step.
        low, high: smallest and largest value that a sample may hold.
    """

    shape: Shape
    low: int = -INPUT_LIMIT
    high: int = INPUT_LIMIT

    def signal(self, samples: IntArray) -> Int64:
        """Return int64 (samples, steps or 1, *shape).

        Args:
            samples: any integers, (samples, steps, *shape), or (samples, *shape) for a constant input.

        Raises:
            RangeError: the samples are no integers, have another shape or leave the range.
        """
        values = np.asarray(samples)
        fits = values.shape[1:] == self.shape or (values.ndim > 1 and values.shape[2:] == self.shape)
        if values.dtype.kind not in "iub" or not fits or 0 in values.shape:
            raise RangeError(
                f"input: got {values.dtype} {values.shape}, allowed integers (samples, steps, *{self.shape}) or "
                f"(samples, *{self.shape})",
                hint="axes are (samples, steps, channel, height, width); Lava's are (width, height, channel, steps)",
            )
        if values.min() < self.low or values.max() > self.high:
            raise RangeError(
                f"input: values reach from {values.min()} to {values.max()}, allowed {self.low}..{self.high}"
            )
        values = values.astype(np.int64)
        return values[:, np.newaxis] if values.ndim == len(self.shape) + 1 else values

    def channel_range(self) -> tuple[Int64, Int64]:
        """Return the smallest and largest value per channel, int64 (channels,) each."""
        return np.full(self.shape[0], self.low, np.int64), np.full(self.shape[0], self.high, np.int64)
