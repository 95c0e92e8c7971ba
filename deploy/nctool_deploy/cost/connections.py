"""Which connections the spikes of a source use: how many there are and which neurons they reach, without a matrix.

A connection is one weight on its way from one neuron to another: a kernel tap that falls on padding is none, and a
weight of 0 is one, as it is kept in synaptic memory.

In: synapses, spikes. Out: counts and activity. Must not import torch or Lava.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import Shape, Synapse
from nctool_deploy.mapping.wiring import ConvolutionWiring, wire

Bool = NDArray[np.bool_]


def fan_out(synapse: Synapse, source: Shape) -> NDArray[np.int64]:
    """Return how many connections each neuron of a source of shape `source` has, int64 (*source)."""
    wiring = wire(synapse, source, shared_kernels=False)
    if not isinstance(wiring, ConvolutionWiring):
        return np.full(source, len(synapse.weight), np.int64)
    places = np.outer(wiring.row_taps.sum(axis=0), wiring.column_taps.sum(axis=0)).astype(np.int64)
    return np.broadcast_to(places * (wiring.channels // wiring.groups), source)


def reached(synapse: Synapse, spikes: Bool) -> Bool:
    """Return which neurons get a spike.

    Args:
        spikes: (samples, steps, *source shape).

    Returns:
        (samples, steps, *driven shape), broadcast where neurons share their sources.
    """
    batch, source = spikes.shape[:2], spikes.shape[2:]
    wiring = wire(synapse, source, shared_kernels=False)
    if not isinstance(wiring, ConvolutionWiring):
        return np.broadcast_to(spikes.reshape(*batch, -1).any(axis=2, keepdims=True), (*batch, len(synapse.weight)))
    grouped = spikes.reshape(*batch, wiring.groups, wiring.group_size, *source[1:]).any(axis=3).astype(np.float32)
    rows, columns = (taps.astype(np.float32) for taps in (wiring.row_taps, wiring.column_taps))
    hit: Bool = rows @ grouped @ columns.T > 0
    return np.repeat(hit, wiring.channels // wiring.groups, axis=2)
