"""What flows through a torch module while it is traced: signals, joined or added signals, weighted sums.

Signals that are joined along the channels are read by a layer of each: the layer is the sum of layers of its parts. A
weighted sum added to a weighted sum is one population with the synapses of both. Spikes, or the input, come into a sum
through an identity: a synapse that gives each neuron the value of the one neuron at its place. Spikes added to spikes
are read by linear layers as they are: with the same weights from each.

In: parts of a FloatNetwork. Out: frozen dataclasses, or an UnsupportedError that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse, Pool
from nctool.conversion.trace.hints import unsupported
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry, Pair, Shape

Zeros = tuple[Pair, Pair]
NO_ZEROS: Zeros = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Signal:
    """Spikes, or the input, on their way to the next linear layer.

    Args:
        source: population that sends, or `input`.
        source_shape: its shape.
        shape: shape after the poolings, the padding and the flattening met since.
        pools: those poolings.
        zeros: rows of zeros above and below, columns to the left and to the right, for the layer that reads it.
    """

    source: str
    source_shape: Shape
    shape: Shape
    pools: tuple[Pool, ...] = ()
    zeros: Zeros = NO_ZEROS


@dataclass(frozen=True)
class Joined:
    """Signals one behind the other along the channels, or along the features once they are flattened.

    Args:
        parts: at least two; their shapes are equal but for the first axis.
    """

    parts: tuple[Signal, ...]

    @property
    def shape(self) -> Shape:
        """Return the shape of all parts together."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def source(self) -> str:
        """Return the populations that send, as a message names them."""
        return "`, `".join(part.source for part in self.parts)


@dataclass(frozen=True)
class Summed:
    """Signals that are added: an activation behind them, or every linear layer that reads them, takes each.

    Args:
        name: of the sum.
        parts: at least two, of one shape.
    """

    name: str
    parts: tuple[Signal, ...]

    @property
    def shape(self) -> Shape:
        """Return the shape of each part, which is that of the sum."""
        return self.parts[0].shape

    @property
    def source(self) -> str:
        """Return the populations that send, as a message names them."""
        return "`, `".join(part.source for part in self.parts)


@dataclass(frozen=True)
class StandIn:
    """What stands for the value of a node at which an obstacle is: it may be spikes or a weighted sum.

    Args:
        shape: of a sample; None where it is not known, or the value is no tensor.
    """

    shape: Shape | None

    def as_spikes(self) -> Signal:
        """Return it as what a linear layer reads."""
        shape = self.shape or ()
        return Signal(STAND_IN, shape, shape)

    def as_drive(self, name: str) -> FloatPopulation:
        """Return it as what an activation is driven by."""
        shape = self.shape or ()
        synapse = FloatSynapse(name, STAND_IN, shape, np.zeros((shape[0], 0)), np.zeros(shape[0]), None)
        return FloatPopulation(name, shape, (synapse,))


STAND_IN = "?"
"""The source of what reads a stand-in."""

Spikes = Signal | Joined | Summed
Value = Spikes | FloatPopulation | StandIn
"""A FloatPopulation as a value is a weighted sum, of one or several branches, whose activation has not been met yet."""


def as_image(shape: Shape) -> Shape:
    """Return the shape of an image; a sequence, (channels, length), is an image of height 1."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def each_part(value: Spikes, change: Callable[[Signal], Signal]) -> Spikes:
    """Apply `change` to every part."""
    return change(value) if isinstance(value, Signal) else replace(value, parts=tuple(map(change, value.parts)))


def require_spikes(value: Value, name: str, else_do: str = "") -> Spikes:
    """Return `value` if it is spikes or the input; else say that an activation is missing, and what `else_do` says."""
    value = require_padded(value, name, else_do)
    _require_no_zeros(value, name)
    return value


def _require_no_zeros(value: Spikes, name: str) -> None:
    if zeros_of(value) != NO_ZEROS:
        raise UnsupportedError(
            f"`{name}`: follows padding with zeros, allowed before convolutions and pooling",
            hint="put the padding right before a convolution",
        )


def zeros_of(value: Spikes) -> Zeros:
    """Return the zeros round a value, which are those of each of its parts."""
    return value.zeros if isinstance(value, Signal) else value.parts[0].zeros


def require_padded(value: Value, name: str, else_do: str = "") -> Spikes:
    """Do the same as `require_spikes` for a layer that takes zeros round what it reads."""
    if isinstance(value, StandIn):
        return value.as_spikes()
    if not isinstance(value, FloatPopulation):
        return value
    raise UnsupportedError(
        f"module `{name}`: follows `{value.name}` with no activation between them",
        hint=f"put nn.ReLU right before `{name}`{else_do}, then nctool.prepare, and train again",
    )


def join(values: Sequence[Value], axis: int, name: str) -> Spikes:
    """Join signals along the channels.

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
    """Return the signals that `value` joins."""
    if isinstance(value, Signal | Joined):
        _require_no_zeros(value, name)
        return (value,) if isinstance(value, Signal) else value.parts
    if isinstance(value, StandIn):
        return (value.as_spikes(),)
    raise UnsupportedError(
        f"function `{name}`: joins `{value.name}` with no activation between them",
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


LARGEST_UNIT_MATRIX = 8192
"""Features of a flat sum: the matrix that hands them on takes 64 MiB in the file, and eight times that on its way."""


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
            _require_no_zeros(value, name)
    if isinstance(first, Signal | Summed) and isinstance(second, Signal | Summed):
        return Summed(name, (*_signals(first), *_signals(second)))
    named = [value.name for value in (first, second) if isinstance(value, FloatPopulation)]
    branches = (*_branches(first, name), *_branches(second, name))
    return FloatPopulation(named[0] if named else name, first.shape, branches)


def require_drive(value: Value, name: str) -> FloatPopulation:
    """Return a weighted sum, which added spikes are too; else say that module `name` stands at the wrong place.

    Raises:
        UnsupportedError: `value` is what an activation gave, or the input.
    """
    if isinstance(value, FloatPopulation):
        return value
    if isinstance(value, StandIn):
        return value.as_drive(name)
    if isinstance(value, Summed):
        _require_no_zeros(value, name)
        return FloatPopulation(value.name, value.shape, identity(value, value.name))
    raise UnsupportedError(
        f"module `{name}`: follows spikes of `{value.source}`, allowed behind Conv2d, Linear or their BatchNorm",
        hint="put it right behind the linear layer",
    )


def _signals(value: Signal | Summed) -> tuple[Signal, ...]:
    return value.parts if isinstance(value, Summed) else (value,)


def _branches(value: Spikes | FloatPopulation, name: str) -> tuple[FloatSynapse, ...]:
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
