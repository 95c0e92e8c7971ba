"""The receptive field: which source neurons drive one neuron, and with what weights.

In: a synapse, the shape of its source, a neuron. Out: indices and weights. The engines are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.ir.geometry import Shape, inside
from nctool.ir.population import Synapse


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """The connections of one synapse into one neuron (rules W1 to W5).

    Args:
        synapse: where they come from.
        index: one int64 array (connections,) per axis of the source, in (channel, height, width) order. Taps that
            fall on padding are left out.
        weight: int64 (connections,), the exponent not applied.
        delay: int64 (connections,), time steps.
    """

    synapse: Synapse
    index: tuple[NDArray[np.int64], ...]
    weight: NDArray[np.int64]
    delay: NDArray[np.int64]

    def neuron(self, connection: int) -> tuple[int, ...]:
        """Return the source neuron of a connection."""
        return tuple(int(axis[connection]) for axis in self.index)

    def arriving(self, signal: NDArray[np.int64], at: int) -> NDArray[np.int64]:
        """Return what arrives at a time, int64 (connections,), of what the source sends (rule W4).

        Args:
            signal: int64 (times, *source shape); silent before.
            at: index of the time.
        """
        sent = at - self.delay
        where = (np.maximum(sent, 0), *self.index)
        arriving: NDArray[np.int64] = np.where(sent >= 0, signal[where], 0)
        return arriving

    def weighted(self, arriving: NDArray[np.int64], *, registers: bool = False) -> int:
        """Return what the synapse adds to the drive, rounded for each delay on its own (rules W3 and W4).

        Args:
            registers: hold the sum as rule W5 says.
        """
        products, exponent = arriving * self.weight, self.synapse.exponent
        sums = [int(products[self.delay == delay].sum()) for delay in np.unique(self.delay)]
        if registers and self.synapse.delay is None:
            sums = [self._held(value) for value in sums]
        total = sum(value << exponent if exponent >= 0 else value >> -exponent for value in sums)
        return self._held(total) if registers and self.synapse.delay is not None else total

    def _held(self, value: int) -> int:
        """Return a sum as the register of the synapse holds it (rule W5)."""
        turn = 1 << self.synapse.register_bits
        value %= turn
        return value - turn if value >= turn // 2 else value

    def contribution(self, connection: int, value: int) -> int | float:
        """Return what one connection adds to the drive; a fraction where only the whole sum is rounded."""
        product, exponent = value * int(self.weight[connection]), self.synapse.exponent
        return product << exponent if exponent >= 0 else product / 2**-exponent


def receptive_field(synapse: Synapse, source: Shape, neuron: tuple[int, ...]) -> ReceptiveField:
    """Return what drives `neuron`, an index into the driven shape, from a source of shape `source`."""
    weight = synapse.weight[neuron[0]].astype(np.int64)
    if synapse.conv is None:
        delay = np.zeros_like(weight) if synapse.delay is None else synapse.delay[neuron[0]].astype(np.int64)
        return ReceptiveField(synapse, np.unravel_index(np.arange(len(weight)), source), weight, delay)
    channels = synapse.conv.source_channels(synapse.weight.shape)[neuron[0]]
    places = synapse.conv.places(source, (weight.shape[1], weight.shape[2]))
    rows, columns = (along[position] for along, position in zip(places, neuron[1:], strict=True))
    seen = inside(rows, source[1]), inside(columns, source[2])
    index = np.meshgrid(channels, rows[seen[0]], columns[seen[1]], indexing="ij")
    weight = weight[:, seen[0]][:, :, seen[1]].reshape(-1)
    return ReceptiveField(synapse, tuple(axis.reshape(-1) for axis in index), weight, np.zeros_like(weight))
