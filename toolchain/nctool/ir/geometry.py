"""The geometry of a convolution: which neurons of its source each weight sees (rule W2).

In: shapes, along a height and a width. Out: sizes and places. Imports only NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Pair = tuple[int, int]
Numbers = TypeVar("Numbers", bound=NDArray[Any])
Places = NDArray[np.int64]
"""int64 (positions, taps): the row, or the column, of the source that each tap of a kernel sees where the kernel stands
at each position of the output. Below 0, and from the size of the source on, it is padding, or a zero between."""


@dataclass(frozen=True)
class ConvGeometry:
    """How a convolutional synapse slides over its source (rule W2).

    Args:
        stride, padding, dilation: (height, width) in neurons.
        groups: number of blocks that the channels are split into.
        input_dilation: (height, width), distance of two neurons of the source that lie side by side: zeros lie between
            them where it is above 1. Kernel, stride and padding count in what that makes of the source.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    input_dilation: Pair = field(default=(1, 1), repr=False)

    def output_size(self, source: Shape, kernel: Pair) -> Pair:
        """Return the (height, width) of the output for a (channel, height, width) source."""
        height, width = (
            (apart * (size - 1) + 2 * pad - dil * (k - 1)) // step + 1
            for size, pad, dil, k, step, apart in zip(
                source[1:], self.padding, self.dilation, kernel, self.stride, self.input_dilation, strict=True
            )
        )
        return height, width

    def places(self, source: Shape, kernel: Pair) -> tuple[Places, Places]:
        """Return what the taps of a kernel see, along the height and along the width."""
        positions = self.output_size(source, kernel)
        rows, columns = (
            self._on_source(
                axis,
                self.stride[axis] * np.arange(positions[axis])[:, np.newaxis]
                + self.dilation[axis] * np.arange(kernel[axis])
                - self.padding[axis],
            )
            for axis in (0, 1)
        )
        return rows, columns

    def _on_source(self, axis: int, places: Places) -> Places:
        """Return places in a source with zeros between as those of the source; a zero is at -1."""
        apart = self.input_dilation[axis]
        return places if apart == 1 else np.where(places % apart == 0, places // apart, -1)

    def phases(self, kernel: Pair) -> Iterator[NDArray[np.bool_]]:
        """Yield the taps that no zero between the neurons falls on, for every way in which these zeros can fall.

        Yields:
            bool (kernel height, kernel width); where there are no zeros between, all taps, once.
        """
        rows, columns = (
            {
                tuple((self.stride[axis] * at + self.dilation[axis] * np.arange(kernel[axis]) - pad) % apart == 0)
                for at in range(apart)
            }
            for axis, (pad, apart) in enumerate(zip(self.padding, self.input_dilation, strict=True))
        )
        for of_rows in rows:
            for of_columns in columns:
                yield np.outer(of_rows, of_columns)

    def seen_taps(self, source: Shape, kernel: Pair) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which rows and which columns of a kernel see a neuron of the source at some place; others see padding.

        Returns:
            bool (kernel height,) and (kernel width,).
        """
        rows, columns = self.places(source, kernel)
        return inside(rows, source[1]).any(axis=0), inside(columns, source[2]).any(axis=0)

    def reaches(self, source: Shape, kernel: Pair) -> bool:
        """Return False where every weight of a kernel falls on padding, wherever it is put: the sums are all 0."""
        return all(taps.any() for taps in self.seen_taps(source, kernel))

    def source_channels(self, weight: Shape) -> NDArray[np.int64]:
        """Return the channel of the source that each weight reads.

        Args:
            weight: its shape, (out, in / groups, kernel height, kernel width).

        Returns:
            int64 (out, in / groups).
        """
        out, group_size = weight[:2]
        group = np.arange(out) // (out // self.groups)
        return group[:, np.newaxis] * group_size + np.arange(group_size)


def inside(places: Places, size: int) -> NDArray[np.bool_]:
    """Return which places are neurons of a source of so many rows, or columns; others are padding, or zeros between."""
    return (places >= 0) & (places < size)


def unfold(signal: Numbers, rows: Places, columns: Places) -> Numbers:
    """Return what each tap of a kernel sees at each position, 0 where that is no neuron.

    Args:
        signal: (samples, channels, height, width).
        rows, columns: see `ConvGeometry.places`; some of the positions will do.

    Returns:
        (samples, channels, rows out, kernel height, columns out, kernel width).
    """
    height, width = signal.shape[2:]
    of_rows = np.take(signal, np.clip(rows, 0, height - 1), axis=2)
    of_rows[:, :, ~inside(rows, height)] = 0
    seen: Numbers = np.take(of_rows, np.clip(columns, 0, width - 1), axis=4)
    seen[..., ~inside(columns, width)] = 0
    return seen
