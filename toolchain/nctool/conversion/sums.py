"""Sums of branches: residual adds and skip connections.

A weighted sum added to a weighted sum is one population with the synapses of both. Spikes, or the input, come into a
sum through an identity: a synapse that gives each neuron the value of the one neuron at its place.

In: values of the tracer. Out: a FloatPopulation without an activation, or an UnsupportedError that says what to do.
"""

from __future__ import annotations

import numpy as np

from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.modules import Signal, Value
from nctool.errors import UnsupportedError
from nctool.network import ConvGeometry


def add(one: Value, other: Value, name: str) -> FloatPopulation:
    """Return the sum of two values; its name is that of the first linear module, or `name` if there is none.

    Raises:
        UnsupportedError: the shapes differ.
    """
    if one.shape != other.shape:
        raise UnsupportedError(
            f"function `{name}`: adds shapes {one.shape} and {other.shape}, allowed two equal ones",
            hint="bring the skip to the shape of the branch, for example with nn.Conv2d of kernel 1 and its stride",
        )
    named = [value.name for value in (one, other) if isinstance(value, FloatPopulation)]
    synapses = (*_branches(one, name), *_branches(other, name))
    return FloatPopulation(named[0] if named else name, one.shape, synapses)


def _branches(value: Value, name: str) -> tuple[FloatSynapse, ...]:
    return (identity(value, name),) if isinstance(value, Signal) else value.synapses


def identity(signal: Signal, name: str) -> FloatSynapse:
    """Return the synapse that hands on `signal` as it is: depthwise 1x1 for images, the unit matrix else."""
    channels = signal.shape[0]
    bias = np.zeros(channels)
    if len(signal.shape) == 1:
        weight, conv = np.eye(channels), None
    else:
        weight, conv = np.ones((channels, 1, 1, 1)), ConvGeometry(groups=channels)
    return FloatSynapse(name, signal.source, signal.source_shape, weight, bias, conv, pools=signal.pools)
