"""Maximum pooling: a population of its own, whose neurons fire where one of their window does (rule M1).

A window that begins in front of the image or ends behind it, as torch allows, sees 0 there: no spike is below. Where
more lies behind than in front, the kernel gets rows or columns of 0 in front, and as much more padding on both sides.

In: a module of torch and the signal before it. Out: a FloatPopulation, or an UnsupportedError that says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from nctool.conversion.float_network import Enlargement, FloatArray, FloatPopulation, FloatSynapse
from nctool.conversion.trace.convolutions import with_even_padding
from nctool.conversion.trace.hints import unsupported
from nctool.conversion.trace.modules import tiles
from nctool.conversion.trace.shapes import image_shape, pair, without_zeros
from nctool.conversion.trace.signals import (
    Signal,
    Spikes,
    Summed,
    Value,
    Zeros,
    norms_of,
    parts_of,
    require_padded,
    require_spikes,
    zeros_of,
)
from nctool.errors import UnsupportedError
from nctool.ir.geometry import ConvGeometry, Shape, inside
from nctool.ir.network import INPUT_NAME

MaximumPooling = nn.MaxPool2d | nn.AdaptiveMaxPool2d

MAXIMA = (nn.MaxPool2d, nn.AdaptiveMaxPool2d)
"""Modules that take the maximum over windows."""

NO_PLACES = "leave out return_indices: spikes do not know the place of a maximum"


@dataclass(frozen=True, eq=False)
class Window:
    """What each neuron of a maximum looks at.

    Args:
        kernel: float64 (height, width), 1 where it looks, 0 elsewhere.
        geometry: how it slides over a channel.
    """

    kernel: FloatArray
    geometry: ConvGeometry


def require_maximum(value: Value, name: str) -> Spikes:
    """Return what module `name` takes the maximum of.

    Raises:
        UnsupportedError: it is no image, or something else than what activations, or maxima, give.
    """
    spikes = require_padded(value, name, ", and take away one behind it")
    parts = parts_of(spikes)
    resized = [pool for part in parts for pool in part.pools]
    if isinstance(spikes, Summed):
        what, hint = f"the sum `{spikes.name}`", f"put nn.ReLU right before `{name}`, then nctool.prepare"
    elif any(part.source == INPUT_NAME for part in parts):
        what, hint = "the input", "pool behind the first nn.ReLU, or let the data hold the pooled images"
    elif norms_of(spikes):
        norm = norms_of(spikes)[-1]
        what, hint = f"what the norm `{norm}` gives", f"put `{name}` before `{norm}`, and train again"
    elif resized:
        given = "what" if isinstance(resized[-1], Enlargement) else "the averages of"
        what = f"what `{resized[-1].module}` enlarges" if given == "what" else f"{given} `{resized[-1].module}`"
        hint = f"take the maximum first: put `{name}` before it"
    else:
        image_shape(spikes, name)
        return spikes
    raise UnsupportedError(
        f"module `{name}`: takes the maximum of {what}, allowed is that of what an activation gives", hint=hint
    )


def window_of(module: MaximumPooling, signal: Spikes, name: str) -> Window | None:
    """Return the window of `module` on `signal`; None where it looks at every neuron alone.

    Raises:
        UnsupportedError: it gives places too, tiles no image of this size, or sees nothing but padding somewhere.
    """
    kind, shape = type(module).__name__, image_shape(signal, name)
    if module.return_indices:
        raise unsupported(f"module `{name}` ({kind} with return_indices=True)", NO_PLACES)
    if isinstance(module, nn.AdaptiveMaxPool2d):
        size = tiles(module.output_size, require_spikes(signal, name), name, kind)
        window = Window(np.ones(size), ConvGeometry(stride=size))
    else:
        window = _sliding(module, shape)
    _require_neurons(window, shape, f"module `{name}` ({kind})")
    window = _within(window, zeros_of(signal))
    return None if window.kernel.shape == window.geometry.stride == (1, 1) else window


def _sliding(module: nn.MaxPool2d, shape: Shape) -> Window:
    kernel, padding, dilation = pair(module.kernel_size), pair(module.padding), pair(module.dilation)
    stride = pair(module.stride)
    taps, paddings, dilations = zip(
        *(
            _axis(*of_axis, module.ceil_mode)
            for of_axis in zip(shape[1:], kernel, stride, padding, dilation, strict=True)
        ),
        strict=True,
    )
    return Window(np.outer(*taps), ConvGeometry(stride, paddings, dilations))


def _within(window: Window, zeros: Zeros) -> Window:
    """Return the window on an image without the zeros round it: no spike is below 0."""
    own = ((size, size) for size in window.geometry.padding)
    around = tuple((before + mine[0], behind + mine[1]) for (before, behind), mine in zip(zeros, own, strict=True))
    kernel, padding, dilation = with_even_padding(
        window.kernel[np.newaxis, np.newaxis], (around[0], around[1]), window.geometry.dilation
    )
    return Window(kernel[0, 0], replace(window.geometry, padding=padding, dilation=dilation))


def _axis(size: int, kernel: int, stride: int, padding: int, dilation: int, ceils: bool) -> tuple[FloatArray, int, int]:
    """Return taps, padding and dilation along one axis.

    With `ceils`, torch adds a last window that reaches beyond the padding, if it begins within the image or the
    padding before it.
    """
    reach = dilation * (kernel - 1) + 1
    room = size + 2 * padding - reach
    beyond = -room % stride if ceils else 0
    if beyond == 0 or room + beyond >= size + padding:
        return np.ones(kernel), padding, dilation
    taps = np.zeros(beyond + reach)
    taps[beyond::dilation] = 1
    return taps, padding + beyond, 1


def _require_neurons(window: Window, shape: Shape, what: str) -> None:
    """Refuse windows that see no neuron, for which torch gives minus infinity, or none at all."""
    kernel = (window.kernel.shape[0], window.kernel.shape[1])
    places = window.geometry.places(shape, kernel)
    looks = (window.kernel.any(axis=1), window.kernel.any(axis=0))
    for of_axis, size, taps in zip(places, shape[1:], looks, strict=True):
        if len(of_axis) < 1 or not inside(of_axis[:, taps], size).any(axis=1).all():
            raise UnsupportedError(f"{what}: its window reaches beyond the padded image, which is {shape[1:]} unpadded")


def maximum(part: Signal, window: Window, name: str, threshold: FloatArray | None) -> FloatPopulation:
    """Return the population that takes the maximum of what one population sends.

    Args:
        name: of the new population.
        threshold: of the one that sends.
    """
    part = without_zeros(part)
    channels, size = part.shape[0], window.kernel.shape
    weight = np.broadcast_to(window.kernel, (channels, 1, *size)).copy()
    geometry = replace(window.geometry, groups=channels)
    synapse = FloatSynapse(name, part.source, part.source_shape, weight, np.zeros(channels), geometry)
    shape = (channels, *geometry.output_size(part.shape, (size[0], size[1])))
    return FloatPopulation(name, shape, (synapse,), threshold, maximum=True)
