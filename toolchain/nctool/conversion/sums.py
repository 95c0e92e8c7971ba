"""Sums of branches: residual adds and skip connections.

A weighted sum added to a weighted sum is one population with the synapses of both. Spikes, or the input, come into a
sum through an identity: a synapse that gives each neuron the value of the one neuron at its place.

In: values of the tracer. Out: a FloatPopulation without an activation, or an UnsupportedError that says what to do.
"""

from __future__ import annotations

import numpy as np

from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.joins import synapses
from nctool.conversion.values import Spikes, Value
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
    branches = (*_branches(one, name), *_branches(other, name))
    return FloatPopulation(named[0] if named else name, one.shape, branches)


def _branches(value: Value, name: str) -> tuple[FloatSynapse, ...]:
    return value.synapses if isinstance(value, FloatPopulation) else identity(value, name)


def identity(value: Spikes, name: str) -> tuple[FloatSynapse, ...]:
    """Return the synapses that hand on `value` as it is: depthwise 1x1 for images, the unit matrix else."""
    channels = value.shape[0]
    bias = np.zeros(channels)
    if len(value.shape) == 1:
        return synapses(value, name, np.eye(channels), bias, None)
    return synapses(value, name, np.ones((channels, 1, 1, 1)), bias, ConvGeometry(groups=channels))
