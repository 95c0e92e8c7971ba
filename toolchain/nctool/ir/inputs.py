"""What drives a network: pixels through a table, pixels as spike trains, or integers as they are.

In: samples and the length of a window. Out: the signal of the input, integers of any width (samples, steps or 1,
*shape). Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nctool.errors import RangeError, UsageError
from nctool.ir.arrays import StructuralEquality
from nctool.ir.geometry import Shape
from nctool.ir.population import IntArray

INPUT_LIMIT = 2**15 - 1
"""Largest magnitude of an integer input: what Lava's 16-bit bias mantissa and our sums hold."""

LARGEST_RATE_THRESHOLD = 2**15 - 1
"""Largest threshold of a rate encoder: its increments are 16-bit integers."""

EncodingName = Literal["graded", "rate"]
"""How pixels enter: `graded`, an integer at every step, or `rate`, a spike train."""

ENCODINGS: tuple[EncodingName, ...] = ("graded", "rate")

Int64 = NDArray[np.int64]
Samples = NDArray[np.uint8] | IntArray
"""Pixels for an `InputEncoding` or a `RateEncoding`, integers for an `IntegerInput`."""


@dataclass(frozen=True, eq=False)
class InputEncoding(StructuralEquality):
    """How pixels become the signed 8-bit integers that drive the first synapses (rule I1).

    Args:
        shape: (channels,) or (channels, height, width) of one sample.
        table: int8 (channels, 256); pixel value p of channel c enters as table[c, p] at every step.
    """

    encoding: ClassVar[EncodingName] = "graded"
    shape: Shape
    table: NDArray[np.int8]

    @property
    def sample_shape(self) -> Shape:
        """Return the shape of one sample, which is the signal's."""
        return self.shape

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Map pixels, uint8 (samples, *shape), to graded input, int8 of the same shape.

        Raises:
            RangeError: the pixels are not uint8 or have another shape.
        """
        require_pixels(pixels, self.shape)
        return np.asarray(self.table[_channel_index(self.shape), pixels], np.int8)

    def signal(self, pixels: NDArray[np.uint8], n_steps: int) -> IntArray:  # noqa: ARG002 - the same in any window
        """Return int8 (samples, 1, *shape); the time axis of length 1 says: the same at every step.

        Raises:
            RangeError: as `encode`.
        """
        return self.encode(pixels)[:, np.newaxis]

    def channel_range(self) -> tuple[Int64, Int64]:
        """Return the smallest and largest value per channel, int64 (channels,) each."""
        table = self.table.astype(np.int64)
        return table.min(axis=1), table.max(axis=1)


@dataclass(frozen=True, eq=False)
class RateEncoding(StructuralEquality):
    """How pixels become spike trains: each is the output of an integer integrate-and-fire encoder (rule I4).

    The potential of an encoder starts at threshold // 2. At every step it grows by the increment of its pixel; where
    it reaches the threshold, there is a spike, and the threshold is taken off.

    Args:
        sample_shape: (channels,) or (channels, height, width) of one sample of pixels.
        table: int16 (k * channels, 256), increments 0..threshold. Row c belongs to channel c of the signal, which looks
            at channel c // k of the pixels; k is 1 or more, 2 for channels of either sign.
        threshold: of the encoders, 1..32767.
    """

    encoding: ClassVar[EncodingName] = "rate"
    sample_shape: Shape
    table: NDArray[np.int16]
    threshold: int

    @property
    def shape(self) -> Shape:
        """Return the shape of one step of the signal, (k * channels, *size of the sample)."""
        return (len(self.table), *self.sample_shape[1:])

    def trains(self, n_steps: int) -> NDArray[np.int8]:
        """Return the spike train of every pixel value, int8 (signal channels, 256, n_steps)."""
        potential = np.full(self.table.shape, self.threshold // 2, np.int64)
        spikes = np.zeros((*self.table.shape, n_steps), np.int8)
        for step in range(n_steps):
            potential += self.table
            spikes[..., step] = potential >= self.threshold
            potential -= self.threshold * spikes[..., step].astype(np.int64)
        return spikes

    def signal(self, pixels: NDArray[np.uint8], n_steps: int) -> IntArray:
        """Return the spikes, int8 (samples, n_steps, *shape).

        Args:
            pixels: uint8 (samples, *sample_shape).
            n_steps: length of the window; a shorter window gives the beginning of a longer one.

        Raises:
            RangeError: the pixels are not uint8 or have another shape.
        """
        require_pixels(pixels, self.sample_shape)
        copies = len(self.table) // self.sample_shape[0]
        seen = np.repeat(pixels, copies, axis=1)
        return np.moveaxis(self.trains(n_steps)[_channel_index(self.shape), seen], -1, 1)

    def channel_range(self) -> tuple[Int64, Int64]:
        """Return the smallest and largest value per channel, int64 (channels,) each: 0, and 1 where it can spike."""
        return np.zeros(len(self.table), np.int64), self.table.any(axis=1).astype(np.int64)


def require_pixels(pixels: NDArray[np.uint8], shape: Shape) -> None:
    """Refuse with a RangeError what is no uint8 (samples, *shape)."""
    if pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
        raise RangeError(
            f"input: got {pixels.dtype} {tuple(pixels.shape[1:])} per sample, allowed uint8 {shape}",
            hint="give the data set that the network was trained on, as pixels 0..255",
        )


def _channel_index(shape: Shape) -> Int64:
    """Return the number of each channel, shaped to broadcast over (samples, *shape)."""
    return np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))


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

    @property
    def sample_shape(self) -> Shape:
        """Return the shape of one time step of a sample, which is the signal's."""
        return self.shape

    def signal(self, samples: IntArray, n_steps: int) -> Int64:
        """Return int64 (samples, n_steps or 1, *shape).

        Args:
            samples: any integers, (samples, n_steps or 1, *shape), or (samples, *shape) for a constant input.
            n_steps: length of the window.

        Raises:
            RangeError: the samples are no integers, have another shape, leave the range or last another number of
                steps.
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
        if values.ndim == len(self.shape) + 1:
            return values[:, np.newaxis]
        if values.shape[1] not in (1, n_steps):
            raise RangeError(f"input: the samples last {values.shape[1]} steps, allowed {n_steps}, or 1 for a constant")
        return values

    def channel_range(self) -> tuple[Int64, Int64]:
        """Return the smallest and largest value per channel, int64 (channels,) each."""
        return np.full(self.shape[0], self.low, np.int64), np.full(self.shape[0], self.high, np.int64)


PixelEncoding = InputEncoding | RateEncoding
"""What turns pixels into a signal: the input of every network that nctool converts."""

Input = InputEncoding | RateEncoding | IntegerInput


def find_encoding(name: str) -> EncodingName:
    """Return the encoding called `name`; a UsageError lists those that exist."""
    for encoding in ENCODINGS:
        if encoding == name:
            return encoding
    raise UsageError(f"unknown input encoding `{name}`, allowed {', '.join(ENCODINGS)}")
