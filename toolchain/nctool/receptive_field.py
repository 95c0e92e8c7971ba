"""The receptive field: which source neurons drive one neuron, and with what weights.

In: a synapse, the shape of its source, a neuron. Out: indices and weights. Must not import torch, Lava or an engine:
the engines are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.network import ConvGeometry, IntArray, Shape, Synapse


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """The connections of one synapse into one neuron (rules W1 and W2).

    Args:
        index: one int64 array (connections,) per axis of the source, in (channel, height, width) order; indexes a
            signal (..., *source shape) by `signal[..., *index]`. Taps that fall on padding are left out.
        weight: int64 (connections,), the exponent not applied.
    """

    index: tuple[NDArray[np.int64], ...]
    weight: NDArray[np.int64]

    def neuron(self, connection: int) -> tuple[int, ...]:
        """Return the source neuron of a connection."""
        return tuple(int(axis[connection]) for axis in self.index)


def receptive_field(synapse: Synapse, source: Shape, neuron: tuple[int, ...]) -> ReceptiveField:
    """Return what drives `neuron`, an index into the driven shape, from a source of shape `source`."""
    weight = synapse.weight[neuron[0]].astype(np.int64)
    if synapse.conv is None:
        return ReceptiveField(np.unravel_index(np.arange(len(weight)), source), weight)
    conv, (_, y, x) = synapse.conv, neuron
    channels = _channels(conv, synapse.weight, neuron[0])
    rows, rows_inside = _taps(y, weight.shape[1], source[1], _axis(conv, 0))
    columns, columns_inside = _taps(x, weight.shape[2], source[2], _axis(conv, 1))
    index = np.meshgrid(channels, rows, columns, indexing="ij")
    inside = weight[:, rows_inside][:, :, columns_inside]
    return ReceptiveField(tuple(axis.reshape(-1) for axis in index), inside.reshape(-1))


def _channels(conv: ConvGeometry, weight: IntArray, channel: int) -> NDArray[np.int64]:
    """Return the source channels of the group that an output channel belongs to."""
    n_outputs, group_size = weight.shape[:2]
    group = channel // (n_outputs // conv.groups)
    return group * group_size + np.arange(group_size)


def _axis(conv: ConvGeometry, axis: int) -> tuple[int, int, int]:
    return conv.stride[axis], conv.padding[axis], conv.dilation[axis]


def _taps(
    position: int, kernel: int, size: int, geometry: tuple[int, int, int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where the kernel's taps fall along one axis, those on padding left out, and which taps are left."""
    stride, padding, dilation = geometry
    places = position * stride - padding + dilation * np.arange(kernel)
    inside = (places >= 0) & (places < size)
    return places[inside], inside
