"""Weighted sums: the synapses of a layer that reads spikes, identities, and sums of branches.

A layer that reads joined signals is the sum of layers of its parts; one that reads added signals has the same weights
from each. A weighted sum added to a weighted sum is one population with the synapses of both. Spikes, or the input,
come into a sum through an identity: a synapse that gives each neuron the value of the one neuron at its place. What
batch normalisation does to spikes goes into the weights of whoever reads them.

In: signals, weights. Out: parts of a FloatNetwork, or an UnsupportedError that says what to do.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import Composed, FloatArray, FloatPopulation, FloatSynapse, Norm, Scaled
from nctool.conversion.trace.composing import merged, ungrouped
from nctool.conversion.trace.signals import (
    Joined,
    Signal,
    Spikes,
    StandIn,
    Summed,
    Value,
    norms_of,
    parts_of,
    require_no_zeros,
)
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry

LARGEST_UNIT_MATRIX = 8192
"""Features of a flat sum: the matrix that hands them on takes 64 MiB in the file, and eight times that on its way."""


def synapses(
    value: Spikes, name: str, weight: FloatArray, bias: FloatArray, conv: ConvGeometry | None
) -> tuple[FloatSynapse, ...]:
    """Return the synapses of a linear layer: one for each part that it reads, with the weights for it.

    Args:
        value: what the layer reads.
        name: of the module, for messages.
        weight: float64, axes as in `nctool.ir.network.Synapse`, over all parts.
        bias: float64 (channels,); the first synapse takes it.
        conv: geometry of a convolution, None for a dense layer; without padding and zeros between where parts
            are normalised.
    """
    if isinstance(value, Joined):
        weights, conv = _sliced(value, weight, conv)
    else:
        weights = [weight] * len(parts_of(value))
    biases = [bias, *[np.zeros_like(bias)] * (len(weights) - 1)]
    return tuple(
        _normalised(
            part, FloatSynapse(name, part.source, part.source_shape, its_weight, its_bias, conv, pools=part.pools)
        )
        for part, its_weight, its_bias in zip(parts_of(value), weights, biases, strict=True)
    )


def _normalised(part: Signal, synapse: FloatSynapse) -> FloatSynapse:
    """Fold what batch normalisation does to a part into the weights that read it: W (gain * x + shift)."""
    norm = part.norm
    if norm is None:
        return synapse
    weight, conv = synapse.weight, synapse.conv
    channels = (
        np.arange(len(norm.gain), dtype=np.int64)[np.newaxis] if conv is None else conv.source_channels(weight.shape)
    )
    by_channel = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    magnitude = np.abs(weight).reshape(*weight.shape[:2], -1).sum(axis=2)
    is_alone = conv is not None and conv.groups == len(weight) == len(norm.gain)
    scaled = Scaled(", ".join(part.norms), part.source, part.pools, norm)
    return replace(
        synapse,
        weight=weight * norm.gain[channels].reshape(*channels.shape, *[1] * (weight.ndim - 2)),
        bias=synapse.bias + (by_channel * norm.shift[channels]).sum(axis=1),
        composed=(Composed(scaled, magnitude[:, 0] if is_alone else _over_all(magnitude, channels, len(norm.gain))),),
    )


def _over_all(values: FloatArray, channels: NDArray[np.int64], n_channels: int) -> FloatArray:
    """Return values of the channels that each output reads as a matrix over all channels."""
    full = np.zeros((len(values), n_channels))
    np.put_along_axis(full, np.broadcast_to(channels, values.shape), values, axis=1)
    return full


def _sliced(
    value: Joined, weight: FloatArray, conv: ConvGeometry | None
) -> tuple[list[FloatArray], ConvGeometry | None]:
    """Return the weights for the channels of each part, without groups, and their geometry."""
    if conv is not None and conv.groups > 1:
        weight, conv = ungrouped(weight, conv.groups), replace(conv, groups=1)
    stops = np.cumsum([part.shape[0] for part in value.parts])
    return np.split(weight, stops[:-1], axis=1), conv


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
            f"`{name}`: hands on {features} features one by one, through a matrix of {features} x {features}, "
            f"allowed up to {LARGEST_UNIT_MATRIX}",
            hint="let nn.Flatten come behind it: images need one weight for each channel",
        )


def add(first: Value, second: Value, name: str) -> FloatPopulation | Summed | StandIn:
    """Return the sum of two values; its name is that of the first linear module, or `name` if there is none.

    Raises:
        UnsupportedError: the shapes differ.
    """
    if first.shape != second.shape:
        raise UnsupportedError(
            f"function `{name}`: adds shapes {first.shape} and {second.shape}, allowed two equal ones",
            hint="bring the skip to the shape of the branch, for example with nn.Conv2d of kernel 1 and its stride",
        )
    if isinstance(first, StandIn) or isinstance(second, StandIn):
        return StandIn(first.shape)
    for value in (first, second):
        if not isinstance(value, FloatPopulation):
            require_no_zeros(value, name)
    if isinstance(first, Signal | Summed) and isinstance(second, Signal | Summed):
        return Summed(name, (*parts_of(first), *parts_of(second)))
    named = [value.name for value in (first, second) if isinstance(value, FloatPopulation)]
    branches = merged((*_branches(first, name), *_branches(second, name)))
    return FloatPopulation(named[0] if named else name, first.shape, branches)


def _branches(value: Spikes | FloatPopulation, name: str) -> tuple[FloatSynapse, ...]:
    return value.synapses if isinstance(value, FloatPopulation) else identity(value, name)


def require_drive(value: Value, name: str) -> FloatPopulation:
    """Return a weighted sum, which added or normalised spikes are too; else say that `name` is at the wrong place.

    Raises:
        UnsupportedError: `value` is what an activation gave, or the input.
    """
    if isinstance(value, FloatPopulation):
        return value
    if isinstance(value, StandIn):
        return value.as_drive(name)
    named = value.name if isinstance(value, Summed) else next(iter(norms_of(value)), None)
    if named is not None:
        require_no_zeros(value, name)
        return FloatPopulation(named, value.shape, identity(value, named))
    raise UnsupportedError(
        f"module `{name}`: follows spikes of `{value.source}`, allowed behind Conv2d, Linear or BatchNorm",
        hint="put it right behind the linear layer",
    )


def normalise(value: Spikes | FloatPopulation, norm: Norm, name: str) -> Value:
    """Return a value behind batch normalisation: every branch of a sum takes the gain, the first one the shift.

    Args:
        value: a weighted sum, or spikes.
        norm: float64 (channels,).
        name: of the module.
    """
    branches = value.synapses if isinstance(value, FloatPopulation) else parts_of(value)
    if isinstance(value, Joined):
        stops = np.cumsum([part.shape[0] for part in value.parts])[:-1]
        norms = list(map(Norm, np.split(norm.gain, stops), np.split(norm.shift, stops)))
    else:
        norms = [norm, *[Norm(norm.gain, np.zeros_like(norm.shift))] * (len(branches) - 1)]
    if isinstance(value, FloatPopulation):
        synapses = (replace(s, norm=_behind(s.norm, its)) for s, its in zip(value.synapses, norms, strict=True))
        return replace(value, synapses=tuple(synapses))
    parts = tuple(
        replace(part, norm=_behind(part.norm, its), norms=(*part.norms, name))
        for part, its in zip(parts_of(value), norms, strict=True)
    )
    return parts[0] if isinstance(value, Signal) else replace(value, parts=parts)


def _behind(first: Norm | None, norm: Norm) -> Norm:
    return norm if first is None else Norm(norm.gain * first.gain, norm.gain * first.shift + norm.shift)
