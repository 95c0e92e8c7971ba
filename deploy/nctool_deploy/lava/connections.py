"""List the connections of a synapse: one row a neuron, one entry a connection.

In: a synapse. Out: arrays. NumPy alone: must not import torch, scipy or Lava.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.ir.geometry import inside
from nctool.ir.network import ConvGeometry, IntArray, Shape

Connections = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Weights, neurons driven and neurons of the source, all of one length."""


def connections(weight: IntArray, conv: ConvGeometry | None, source: Shape) -> Connections:
    """Return every connection of a synapse; neurons are numbered in (channel, height, width) order.

    Args:
        weight: (out, in), or of a convolution (out, in / groups, kernel height, kernel width).
        conv: its geometry; None where it is dense.
        source: shape of what it reads; of a convolution (channels, height, width).

    Returns:
        int64 arrays. A dense synapse has an entry for each weight; taps on padding have none.
    """
    if conv is None:
        targets, sources = np.indices(weight.shape).reshape(2, -1)
        return weight.reshape(-1).astype(np.int64), targets, sources
    rows, columns = conv.places(source, (weight.shape[2], weight.shape[3]))
    height, width = len(rows), len(columns)
    target_channel = np.arange(len(weight))[:, np.newaxis, np.newaxis]
    source_channel = conv.source_channels(weight.shape)[..., np.newaxis]
    found: tuple[list[IntArray], ...] = ([], [], [])
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            row = np.flatnonzero(inside(rows[:, y], source[1]))
            column = np.flatnonzero(inside(columns[:, x], source[2]))
            position = (row[:, np.newaxis] * width + column).reshape(-1)
            pixel = (rows[row, y][:, np.newaxis] * source[2] + columns[column, x]).reshape(-1)
            shape = (*source_channel.shape[:2], len(position))
            parts = (
                weight[:, :, y, x, np.newaxis],
                target_channel * (height * width) + position,
                source_channel * (source[1] * source[2]) + pixel,
            )
            for each, part in zip(found, parts, strict=True):
                each.append(np.broadcast_to(part, shape).reshape(-1))
    weights, targets, sources = (np.concatenate(each).astype(np.int64) for each in found)
    return weights, targets, sources
