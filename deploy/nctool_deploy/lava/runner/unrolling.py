"""Write a convolution as a sparse matrix: one row a neuron, one entry a connection.

In: a convolutional synapse. Out: a scipy CSR matrix. Must not import torch or Lava.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix

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
    high, wide = conv.output_size(source, (weight.shape[2], weight.shape[3]))
    row, column = _channel_pairs(weight, source)
    rows, columns, values = [], [], []
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            from_y, to_y = _axis(conv, source, 0, y, high)
            from_x, to_x = _axis(conv, source, 1, x, wide)
            pixel = (from_y[:, np.newaxis] * source[2] + from_x).reshape(-1)
            position = (to_y[:, np.newaxis] * wide + to_x).reshape(-1)
            shape = (*row.shape[:2], len(position))
            rows.append(np.broadcast_to(row * (high * wide) + position, shape).reshape(-1))
            columns.append(np.broadcast_to(column * (source[1] * source[2]) + pixel, shape).reshape(-1))
            values.append(np.broadcast_to(weight[:, :, y, x, np.newaxis], shape).reshape(-1))
    entries = (np.concatenate(values).astype(np.int64), (np.concatenate(rows), np.concatenate(columns)))
    return coo_matrix(entries, shape=(len(weight) * high * wide, int(np.prod(source)))).tocsr()


def _axis(conv: ConvGeometry, source: Shape, axis: int, tap: int, n_outputs: int) -> tuple[IntArray, IntArray]:
    """Return source coordinates and output coordinates that a kernel tap joins along one axis."""
    outputs = np.arange(n_outputs)
    inputs = outputs * conv.stride[axis] + tap * conv.dilation[axis] - conv.padding[axis]
    inside = (inputs >= 0) & (inputs < source[1 + axis])
    return inputs[inside], outputs[inside]


def _channel_pairs(weight: IntArray, source: Shape) -> tuple[IntArray, IntArray]:
    """Return the output and the source channel of each weight, int64 (out, in / groups, 1) each."""
    out, group_size = weight.shape[:2]
    group = np.arange(out) // (out * group_size // source[0])
    row = np.broadcast_to(np.arange(out)[:, np.newaxis], (out, group_size))
    return row[..., np.newaxis], (group[:, np.newaxis] * group_size + np.arange(group_size))[..., np.newaxis]
