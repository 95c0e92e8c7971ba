"""Write a convolution as a sparse matrix: one row a neuron, one entry a connection.

In: a convolutional synapse. Out: a scipy CSR matrix. Must not import torch or Lava: counts are tested against it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix

from nctool.ir.network import ConvGeometry, IntArray, Shape
from nctool_deploy.lava.connections import connections


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
    values, targets, sources = connections(weight, conv, source)
    height, width = (len(places) for places in conv.places(source, (weight.shape[2], weight.shape[3])))
    shape = (len(weight) * height * width, int(np.prod(source)))
    return coo_matrix((values, (targets, sources)), shape=shape).tocsr()
