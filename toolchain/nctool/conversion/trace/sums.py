"""Sums of branches: residual adds and skip connections.

A weighted sum added to a weighted sum is one population with the synapses of both. Spikes, or the input, come into a
sum through an identity: a synapse that gives each neuron the value of the one neuron at its place. Spikes added to
spikes are read by linear layers as they are: with the same weights from each.

In: values of the tracer. Out: their sum, or an UnsupportedError that says what to do.
"""

from __future__ import annotations

import numpy as np

from nctool.conversion.float_network import FloatPopulation, FloatSynapse
from nctool.conversion.trace.joins import synapses
from nctool.conversion.trace.values import Signal, Spikes, Summed, Value
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry

LARGEST_UNIT_MATRIX = 8192
"""Features of a flat sum: the matrix that hands them on takes 64 MiB in the file, and eight times that on its way."""


def add(one: Value, other: Value, name: str) -> FloatPopulation | Summed:
    """Return the sum of two values; its name is that of the first linear module, or `name` if there is none.

    Raises:
        UnsupportedError: the shapes differ.
    """
    if one.shape != other.shape:
        raise UnsupportedError(
            f"function `{name}`: adds shapes {one.shape} and {other.shape}, allowed two equal ones",
            hint="bring the skip to the shape of the branch, for example with nn.Conv2d of kernel 1 and its stride",
        )
    if isinstance(one, Signal | Summed) and isinstance(other, Signal | Summed):
        return Summed(name, (*_signals(one), *_signals(other)))
    named = [value.name for value in (one, other) if isinstance(value, FloatPopulation)]
    branches = (*_branches(one, name), *_branches(other, name))
    return FloatPopulation(named[0] if named else name, one.shape, branches)


def require_drive(value: Value, name: str) -> FloatPopulation:
    """Return a weighted sum, which added spikes are too; else say that module `name` stands at the wrong place.

    Raises:
        UnsupportedError: `value` is what an activation gave, or the input.
    """
    if isinstance(value, FloatPopulation):
        return value
    if isinstance(value, Summed):
        return FloatPopulation(value.name, value.shape, identity(value, value.name))
    raise UnsupportedError(
        f"module `{name}`: follows spikes of `{value.source}`, allowed behind Conv2d, Linear or their BatchNorm",
        hint="put it right behind the linear layer",
    )


def _signals(value: Signal | Summed) -> tuple[Signal, ...]:
    return value.parts if isinstance(value, Summed) else (value,)


def _branches(value: Value, name: str) -> tuple[FloatSynapse, ...]:
    return value.synapses if isinstance(value, FloatPopulation) else identity(value, name)


def identity(value: Spikes, name: str) -> tuple[FloatSynapse, ...]:
    """Return the synapses that hand on `value` as it is: depthwise 1x1 for images, the unit matrix else.

    Raises:
        UnsupportedError: the unit matrix would be too large.
    """
    channels = value.shape[0]
    bias = np.zeros(channels)
    if len(value.shape) == 1:
        _require_unit_matrix(channels, name)
        return synapses(value, name, np.eye(channels), bias, None)
    return synapses(value, name, np.ones((channels, 1, 1, 1)), bias, ConvGeometry(groups=channels))


def _require_unit_matrix(features: int, name: str) -> None:
    if features > LARGEST_UNIT_MATRIX:
        raise UnsupportedError(
            f"function `{name}`: adds {features} features one by one, through a matrix of {features} x {features}, "
            f"allowed up to {LARGEST_UNIT_MATRIX}",
            hint="add before nn.Flatten: the sum of images needs one weight for each channel",
        )
