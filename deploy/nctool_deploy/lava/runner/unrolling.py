"""Write a convolution as a sparse matrix: one row a neuron, one entry a connection.

In: a convolutional synapse. Out: a scipy CSR matrix. Must not import torch or Lava: counts are tested against it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix

from nctool.ir.geometry import inside
from nctool.ir.network import ConvGeometry, IntArray, Shape


def unroll(weight: IntArray, conv: ConvGeometry, source: Shape) -> Any:
    """Return the matrix of a convolution.

    Args:
        weight: (out, in / groups, kernel height, kernel width).
        conv: its geometry.
        source: (channels, height, width).

    Returns:
        scipy.sparse.csr_matrix of int64, (neurons driven, neurons of the source), both flattened in
        (channel, height, width) order; taps on padding have no entry.
    """
    rows, columns = conv.places(source, (weight.shape[2], weight.shape[3]))
    height, width = len(rows), len(columns)
    target_channel = np.arange(len(weight))[:, np.newaxis, np.newaxis]
    source_channel = conv.source_channels(weight.shape)[..., np.newaxis]
    targets, sources, values = [], [], []
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            row = np.flatnonzero(inside(rows[:, y], source[1]))
            column = np.flatnonzero(inside(columns[:, x], source[2]))
            position = (row[:, np.newaxis] * width + column).reshape(-1)
            pixel = (rows[row, y][:, np.newaxis] * source[2] + columns[column, x]).reshape(-1)
            shape = (*source_channel.shape[:2], len(position))
            targets.append(np.broadcast_to(target_channel * (height * width) + position, shape).reshape(-1))
            sources.append(np.broadcast_to(source_channel * (source[1] * source[2]) + pixel, shape).reshape(-1))
            values.append(np.broadcast_to(weight[:, :, y, x, np.newaxis], shape).reshape(-1))
    entries = (np.concatenate(values).astype(np.int64), (np.concatenate(targets), np.concatenate(sources)))
    return coo_matrix(entries, shape=(len(weight) * height * width, int(np.prod(source)))).tocsr()
