"""How the weights of a synapse repeat: each stands once for every neuron of a block, and of several equal channels.

Conversion folds average pooling into the weights behind it, which makes them equal in blocks of neighbouring neurons,
and copies the channels of an activation that has replicas. Conversion notes what it repeats; for a file,
`find_repeats` finds it. The distinct weights determine all others.

In: weights, axes as in `nctool.ir.population.Synapse`, and the shape of their source. Out: the distinct weights, and
back. Imports only NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.ir.geometry import ConvGeometry, Pair, Shape


@dataclass(frozen=True)
class Repeat:
    """How often each weight of a synapse repeats, and where.

    Args:
        block: (height, width) of the neurons of the source that lie side by side and share each weight.
        copies_in, copies_out: channels of the source, and of the driven population, that lie side by side and share
            each weight.
    """

    block: Pair = (1, 1)
    copies_in: int = 1
    copies_out: int = 1

    @property
    def factors(self) -> tuple[int, int, int, int]:
        """Return how often a weight repeats along the axes (out, in, height, width)."""
        return (self.copies_out, self.copies_in, *self.block)

    @property
    def copies(self) -> int:
        """Return how often each weight stands in the synapse."""
        return int(np.prod(self.factors))

    def summed_shape(self, source: Shape) -> Shape:
        """Return the shape of what `summed` makes of a source."""
        sizes = (size // of for size, of in zip(source[1:], self.block, strict=False))
        return (source[0] // self.copies_in, *sizes)

    def summed(self, signal: NDArray[Any]) -> NDArray[Any]:
        """Return the sums of the signals that share a weight, (samples, *summed shape) of (samples, *source)."""
        channels, *tiles = self.summed_shape(signal.shape[1:])
        signal = np.asarray(signal.reshape(len(signal), channels, self.copies_in, *signal.shape[2:]).sum(axis=2))
        if self.block == (1, 1):
            return signal
        (high, wide), (rows, columns) = self.block, tiles
        whole = signal[:, :, : rows * high, : columns * wide]
        return np.asarray(whole.reshape(len(signal), channels, rows, high, columns, wide).sum(axis=(3, 5)))

    def distinct(self, weight: NDArray[Any], source: Shape) -> NDArray[Any]:
        """Return each weight once, of all weights on a source of shape `source`."""
        steps = tuple(slice(None, None, factor) for factor in self.factors)
        by_place = _by_place(weight, source)
        distinct = by_place[steps[: by_place.ndim]]
        return distinct.reshape(len(distinct), -1) if weight.ndim == 2 else distinct

    def spread(self, distinct: NDArray[Any], source: Shape) -> NDArray[Any]:
        """Return all weights on a source of shape `source`, of the distinct ones."""
        weight = _by_place(distinct, self.summed_shape(source))
        for axis, factor in enumerate(self.factors[: weight.ndim]):
            weight = weight if factor == 1 else np.repeat(weight, factor, axis=axis)
        return weight.reshape(len(weight), -1) if distinct.ndim == 2 else weight

    def on_blocks(self, conv: ConvGeometry) -> ConvGeometry:
        """Return the geometry of the distinct kernel on the summed blocks."""
        (stride, padding), (high, wide) = (conv.stride, conv.padding), self.block
        return replace(
            conv, stride=(stride[0] // high, stride[1] // wide), padding=(padding[0] // high, padding[1] // wide)
        )

    def on_neurons(self, conv: ConvGeometry) -> ConvGeometry:
        """Return the geometry of the whole kernel, of that on the summed blocks."""
        (stride, padding), (high, wide) = (conv.stride, conv.padding), self.block
        return replace(
            conv, stride=(stride[0] * high, stride[1] * wide), padding=(padding[0] * high, padding[1] * wide)
        )

    def holds(self, weight: NDArray[Any], conv: ConvGeometry | None, source: Shape) -> bool:
        """Return whether `weight` repeats like this, and no position of a kernel begins or ends within a block."""
        limits = _limits(weight, conv, source)
        if any(limit % factor for limit, factor in zip(limits, self.factors, strict=False)):
            return False
        return np.array_equal(self.spread(self.distinct(weight, source), source), weight)


NO_REPEAT = Repeat()


def find_repeat(weight: NDArray[Any], conv: ConvGeometry | None, source: Shape) -> Repeat:
    """Return the largest blocks and the most copies in which the weights of a synapse repeat.

    Args:
        source: shape of what is read.
    """
    by_place = _by_place(weight, source)
    factors = [1, 1, 1, 1]
    for axis, limit in enumerate(_limits(weight, conv, source)):
        sizes = (size for size in range(limit, 1, -1) if limit % size == 0)
        factors[axis] = next((size for size in sizes if _is_constant(by_place, axis, size)), 1)
    return Repeat((factors[2], factors[3]), factors[1], factors[0])


def _limits(weight: NDArray[Any], conv: ConvGeometry | None, source: Shape) -> list[int]:
    """Return for each axis (out, in, height, width) what the times that a weight repeats along it must divide.

    A kernel moves by whole blocks, and padding is whole blocks that no neuron shares.
    """
    if conv is None:
        return [len(weight), *source]
    out, group_size, *kernel = weight.shape
    limits = [out // conv.groups, group_size]
    for taps, stride, padding, dilation, apart, size in zip(
        kernel, conv.stride, conv.padding, conv.dilation, conv.input_dilation, source[1:], strict=True
    ):
        limit = math.gcd(taps, stride, padding, size if padding else 0)
        limits.append(limit if dilation == apart == 1 else 1)
    return limits


def _by_place(weight: NDArray[Any], source: Shape) -> NDArray[Any]:
    """Return dense weights by the place of what they read, (out, *source); those of a convolution are."""
    return weight.reshape(len(weight), *source) if weight.ndim == 2 else weight


def _is_constant(weight: NDArray[Any], axis: int, size: int) -> bool:
    """Return whether weights are equal within consecutive blocks of `size` along an axis."""
    lines = np.moveaxis(weight, axis, 0)
    if not np.array_equal(lines[0], lines[1]):  # most weights do not repeat
        return False
    return all(np.array_equal(lines[offset::size], lines[::size]) for offset in range(1, size))
