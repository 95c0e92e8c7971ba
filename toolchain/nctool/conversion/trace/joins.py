"""Concatenations along the channels: a layer that reads one is the sum of a layer of each part.

In: values of the tracer. Out: joined signals, and the synapses of what reads them. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatSynapse
from nctool.conversion.trace.values import Joined, Signal, Spikes, Summed, Value, unsupported
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry


def join(values: Sequence[Value], axis: int, name: str) -> Spikes:
    """Return signals one behind the other.

    Args:
        values: what is joined, at least one.
        axis: of tensors that have the batch as their first.
        name: of the function, for messages.

    Raises:
        UnsupportedError: it is not along the channels, the shapes do not fit, or an activation is missing.
    """
    parts = tuple(part for value in values for part in _parts_of(value, name))
    n_axes = len(parts[0].shape) + 1
    if axis not in (1, 1 - n_axes):
        raise unsupported(f"function `{name}` (along axis {axis} of {n_axes})", "join along the channels, dim=1")
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = " and ".join(str(part.shape) for part in parts)
        raise UnsupportedError(
            f"function `{name}`: joins shapes {shapes}, allowed shapes that differ in the channels only",
            hint="bring the parts to one height and width, for example with nn.AvgPool2d",
        )
    return Joined(parts) if len(parts) > 1 else parts[0]


def _parts_of(value: Value, name: str) -> tuple[Signal, ...]:
    """Return the signals of `value`, one behind the other."""
    if isinstance(value, Signal):
        return (value,)
    if isinstance(value, Joined):
        return value.parts
    raise UnsupportedError(
        f"function `{name}`: joins `{value.name}` with no NoisyQuantReLU between them",
        hint=f"put nn.ReLU right before `{name}`, then nctool.prepare, and train again",
    )


def synapses(
    value: Spikes, name: str, weight: FloatArray, bias: FloatArray, conv: ConvGeometry | None
) -> tuple[FloatSynapse, ...]:
    """Return the synapses of a linear layer: one for each part that it reads, with the weights for it.

    Args:
        value: what the layer reads.
        name: of the module, for messages.
        weight: float64, axes as in `nctool.ir.network.Synapse`, over all parts.
        bias: float64 (channels,); the first synapse takes it.
        conv: geometry of a convolution, None for a dense layer.
    """
    if isinstance(value, Signal):
        return (FloatSynapse(name, value.source, value.source_shape, weight, bias, conv, pools=value.pools),)
    biases = [bias, *[np.zeros_like(bias)] * (len(value.parts) - 1)]
    if isinstance(value, Summed):
        weights = [weight] * len(value.parts)
    else:
        weights, conv = _sliced(value, weight, conv)
    return tuple(
        FloatSynapse(name, part.source, part.source_shape, its_weight, its_bias, conv, pools=part.pools)
        for part, its_weight, its_bias in zip(value.parts, weights, biases, strict=True)
    )


def _sliced(
    value: Joined, weight: FloatArray, conv: ConvGeometry | None
) -> tuple[list[FloatArray], ConvGeometry | None]:
    """Return the weights for the channels of each part, without groups, and their geometry."""
    if conv is not None and conv.groups > 1:
        weight, conv = _ungrouped(weight, conv.groups), ConvGeometry(conv.stride, conv.padding, conv.dilation)
    stops = np.cumsum([part.shape[0] for part in value.parts])
    return np.split(weight, stops[:-1], axis=1), conv


def _ungrouped(weight: FloatArray, groups: int) -> FloatArray:
    """Return the kernels of a grouped convolution over all source channels, 0 outside of their group.

    A part of the source may end inside of a group, and drives the channels of its own groups only: no number of groups
    says that.
    """
    out, size = weight.shape[:2]
    full = np.zeros((out, size * groups, *weight.shape[2:]))
    for group, kernels in enumerate(np.split(weight, groups)):
        first = group * len(kernels)
        full[first : first + len(kernels), group * size : (group + 1) * size] = kernels
    return full
