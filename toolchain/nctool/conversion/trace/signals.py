"""What flows through a torch module while it is traced: signals, joined or added signals, weighted sums.

Batch normalisation of signals is kept with them, for the weights of the layer that reads them. `weighing.py` says what
reads signals, `composing.py` what reads weighted sums.

In: parts of a FloatNetwork. Out: frozen dataclasses, or an UnsupportedError that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nctool.conversion.float_network import FloatPopulation, FloatSynapse, Norm, Resized
from nctool.conversion.trace.hints import unsupported
from nctool.errors import UnsupportedError
from nctool.ir.network import Pair, Shape

Zeros = tuple[Pair, Pair]
NO_ZEROS: Zeros = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Signal:
    """Spikes, or the input, on their way to the next linear layer.

    Args:
        source: population that sends, or `input`.
        source_shape: its shape.
        shape: shape after the poolings, the enlargements, the padding and the flattening met since.
        pools: those poolings and enlargements.
        zeros: rows of zeros above and below, columns to the left and to the right, for the layer that reads it.
        norm: what batch normalisation does to the first axis of `shape`, behind the poolings; None for nothing.
        norms: names of the modules that do it.
    """

    source: str
    source_shape: Shape
    shape: Shape
    pools: tuple[Resized, ...] = ()
    zeros: Zeros = NO_ZEROS
    norm: Norm | None = None
    norms: tuple[str, ...] = ()


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
    require_no_zeros(value, name)
    return value


def require_no_zeros(value: Spikes, name: str) -> None:
    """Refuse zeros round what module `name`, which knows none, reads."""
    if zeros_of(value) != NO_ZEROS:
        raise UnsupportedError(
            f"`{name}`: follows padding with zeros, allowed before convolutions and pooling",
            hint="put the padding right before a convolution",
        )


def zeros_of(value: Spikes | FloatPopulation) -> Zeros:
    """Return the zeros round a value, which are those of each of its parts; a weighted sum has none."""
    return NO_ZEROS if isinstance(value, FloatPopulation) else parts_of(value)[0].zeros


def parts_of(value: Spikes) -> tuple[Signal, ...]:
    """Return the signals that are joined or added in a value."""
    return (value,) if isinstance(value, Signal) else value.parts


def norms_of(value: Spikes) -> tuple[str, ...]:
    """Return the names of the batch norms that signals met since they were sent."""
    return tuple(dict.fromkeys(name for part in parts_of(value) for name in part.norms))


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
    parts = tuple(part for value in values for part in _joinable(value, name))
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


def _joinable(value: Value, name: str) -> tuple[Signal, ...]:
    """Return the signals that `value` joins."""
    if isinstance(value, Signal | Joined):
        require_no_zeros(value, name)
        return parts_of(value)
    if isinstance(value, StandIn):
        return (value.as_spikes(),)
    raise UnsupportedError(
        f"function `{name}`: joins `{value.name}` with no activation between them",
        hint=f"put nn.ReLU right before `{name}`, then nctool.prepare, and train again",
    )
