"""What reaches a range of a population's neurons: axons and synaptic memory, without a matrix of connections.

The neurons of a population are counted position by position, all channels of a position together: a range is then a
stretch of an image that looks at few source neurons. Start and stop are numbers in that order.

In: synapses. Out: counts for a range. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nctool.ir.geometry import Places, inside
from nctool.ir.network import Shape, Synapse
from nctool_deploy.mapping.packing import DELAY_BITS, WEIGHT_BITS, index_bits, weight_bits, words, words_of

Destinations = NDArray[np.int64]
"""To how many slices each neuron of a source sends: int64 (height, width, channels), (1, 1, channels) if no image."""


@dataclass(frozen=True)
class Load:
    """What a range of neurons needs of its core to receive.

    Args:
        axons: source neurons that reach the range.
        words: synaptic memory in words of 64 bits.
    """

    axons: int
    words: int


class Wiring(Protocol):
    """One source of connections into a population."""

    def load(self, start: int, stop: int) -> Load:
        """Return what the neurons from `start` to before `stop` need."""


class SynapseWiring(Wiring, Protocol):
    """A synapse from the input or a population."""

    def reach(self, destinations: Destinations, start: int, stop: int) -> None:
        """Add 1 to every source neuron that sends to the range."""


@dataclass(frozen=True)
class DenseWiring:
    """Every source neuron reaches every neuron; consecutive weights need no index.

    Args:
        n_sources: source neurons.
        bits: of a connection.
    """

    n_sources: int
    bits: int = WEIGHT_BITS

    def load(self, start: int, stop: int) -> Load:
        """Return what the range needs."""
        return Load(self.n_sources, self.n_sources * words_of(stop - start, self.bits))

    def reach(self, destinations: Destinations, start: int, stop: int) -> None:  # noqa: ARG002 - as the protocol
        """Add 1 to every source neuron."""
        destinations += 1


@dataclass(frozen=True)
class AutapseWiring:
    """Every neuron reaches itself (rule R2)."""

    def load(self, start: int, stop: int) -> Load:
        """Return what the range needs."""
        n_neurons = stop - start
        return Load(n_neurons, n_neurons * words_of(1, WEIGHT_BITS + index_bits(n_neurons)))


@dataclass(frozen=True, eq=False)
class ConvolutionWiring:
    """A convolution, counted connection by connection; taps on padding are none.

    Args:
        row_taps: float64 (rows out, rows in), 1 where a tap of the kernel joins them; `column_taps` the same.
        channels: of the population.
        groups: blocks that the channels are split into.
        group_size: source channels of a group.
        kernel_size: taps of the kernel.
        shared_kernels: the core keeps each kernel once, not once for every position.
        bits: of a connection, without the index of its neuron.
    """

    row_taps: NDArray[np.float64]
    column_taps: NDArray[np.float64]
    channels: int
    groups: int
    group_size: int
    kernel_size: int
    shared_kernels: bool
    bits: int

    def load(self, start: int, stop: int) -> Load:
        """Return what the range needs."""
        _, connections = self._connections(start, stop)
        axons = self.group_size * int(np.count_nonzero(connections))
        if self.shared_kernels:
            return Load(axons, self._kernel_words(stop - start))
        bits = self.bits + index_bits(stop - start)
        return Load(axons, self.group_size * int(words(connections, bits).sum()))

    def reach(self, destinations: Destinations, start: int, stop: int) -> None:
        """Add 1 to every source neuron that sends to the range."""
        rows, connections = self._connections(start, stop)
        grouped = destinations[rows].reshape(*connections.shape[1:], self.groups, self.group_size)
        grouped += (connections > 0).transpose(1, 2, 0)[..., np.newaxis]

    def _connections(self, start: int, stop: int) -> tuple[slice, NDArray[np.int64]]:
        """Return how many connections each source neuron has into the range.

        Returns:
            The rows of the source that reach the range, and int64 (groups, these rows, columns): the same for all
            source channels of a group.
        """
        top, bottom = start // self._row_size, (stop - 1) // self._row_size + 1
        taps = self.row_taps[top:bottom]
        reached = np.flatnonzero(taps.any(axis=0))
        rows = slice(int(reached[0]), int(reached[-1]) + 1) if len(reached) else slice(0, 0)
        neurons = self._neurons(start - top * self._row_size, stop - top * self._row_size, bottom - top)
        return rows, (taps[:, rows].T @ neurons @ self.column_taps).astype(np.int64)

    def _neurons(self, start: int, stop: int, n_rows: int) -> NDArray[np.float64]:
        """Return how many neurons of the range stand at each position, float64 (groups, n_rows, columns)."""
        per_group = self.channels // self.groups
        first = np.arange(n_rows * len(self.column_taps)) * self.channels
        first = first + np.arange(self.groups)[:, np.newaxis] * per_group
        inside = np.minimum(first + per_group, stop) - np.maximum(first, start)
        return np.asarray(np.maximum(inside, 0).reshape(self.groups, n_rows, -1), np.float64)

    def _kernel_words(self, n_neurons: int) -> int:
        """Return the words of the kernels of as many channels as the range may hold."""
        per_group = self.channels // self.groups
        full, rest = divmod(min(n_neurons, self.channels), per_group)
        columns = full * words_of(per_group, self.bits) + words_of(rest, self.bits)
        return self.group_size * self.kernel_size * columns

    @property
    def _row_size(self) -> int:
        return len(self.column_taps) * self.channels


def wire(synapse: Synapse, source: Shape, shared_kernels: bool, delay: int = 0) -> SynapseWiring:
    """Return the wiring of `synapse` from a source of shape `source`, whose connections hold `delay` if it is not 0."""
    conv, shape, bits = synapse.conv, synapse.weight.shape, weight_bits(synapse.weight) + (DELAY_BITS if delay else 0)
    if conv is None:
        return DenseWiring(shape[1], bits)
    rows, columns = conv.places(source, (shape[2], shape[3]))
    return ConvolutionWiring(
        row_taps=_taps(rows, source[1]),
        column_taps=_taps(columns, source[2]),
        channels=shape[0],
        groups=conv.groups,
        group_size=shape[1],
        kernel_size=shape[2] * shape[3],
        shared_kernels=shared_kernels,
        bits=bits,
    )


def _taps(places: Places, size: int) -> NDArray[np.float64]:
    """Return the matrix (positions, size) that is 1 where a tap joins a position and a place of the source."""
    taps = np.zeros((len(places), size))
    position, tap = np.nonzero(inside(places, size))
    taps[position, places[position, tap]] = 1
    return taps
