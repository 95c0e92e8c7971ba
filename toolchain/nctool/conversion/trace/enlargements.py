"""Layers that enlarge an image: transposed convolutions, nearest neighbours, channels that become pixels.

A transposed convolution is a convolution of stride 1 with the kernel turned round, on an image with zeros between its
neurons. What repeats neurons, or puts channels side by side, is noted with the signal, and folded into the weights that
read it.

In: a module and the value before it. Out: the value behind it, or an UnsupportedError that names the module and says
what to do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from nctool.conversion.float_network import Enlargement, FloatArray, FloatPopulation
from nctool.conversion.trace.composing import enlarged
from nctool.conversion.trace.convolutions import drive, require_unnormalised, with_even_padding, without_negative
from nctool.conversion.trace.hints import unsupported
from nctool.conversion.trace.shapes import (
    along,
    image_shape,
    pair,
    require_image,
    to_array,
    within_zeros,
    without_zeros,
)
from nctool.conversion.trace.signals import (
    NO_ZEROS,
    Signal,
    Spikes,
    Value,
    Zeros,
    each_part,
    norms_of,
    parts_of,
    require_padded,
    require_spikes,
    zeros_of,
)
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry, Pair

NEAREST = ("nearest", "nearest-exact")
"""Modes of interpolation that repeat neurons; for whole factors both give the same."""

NOT_NEAREST = "use mode='nearest', or nn.ConvTranspose2d, and train again"
BROKEN = "enlarge by a whole number along each axis"


def conv_transpose(module: nn.ConvTranspose2d | nn.ConvTranspose1d, value: Value, name: str) -> Value:
    """Read a transposed convolution; of a sequence, one along the width of an image of height 1."""
    signal, kind = require_padded(value, name), type(module).__name__
    inputs, per_group, *kernel_size = module.weight.shape
    is_sequence = isinstance(module, nn.ConvTranspose1d)
    if len(signal.shape) != 3 or signal.shape[0] != inputs or (is_sequence and signal.shape[1] != 1):
        allowed = f"({inputs}, 1, length)" if is_sequence else f"({inputs}, h, w)"
        raise UnsupportedError(f"module `{name}` ({kind}): gets shape {signal.shape}, allowed {allowed}")
    kernel = to_array(module.weight, f"{name}.weight").reshape(inputs, per_group, *pair(kernel_size, along(module, 1)))
    weight, stride = _turned(kernel, module.groups), pair(module.stride, along(module, 1))
    if zeros_of(signal) != NO_ZEROS or stride != (1, 1):
        require_unnormalised(signal, name)
    weight, zeros, dilation = without_negative(weight, *_zeros(module, signal, kernel))
    if zeros != NO_ZEROS:
        require_unnormalised(signal, name)
    weight, padding, dilation = with_even_padding(weight, zeros, dilation)
    geometry = ConvGeometry((1, 1), padding, dilation, module.groups, stride)
    shape = (len(weight), *geometry.output_size(within_zeros(signal), (weight.shape[2], weight.shape[3])))
    require_image(shape, f"module `{name}` ({kind})", signal)
    return drive(module, weight, each_part(signal, without_zeros), name, shape, geometry)


def _turned(kernel: FloatArray, groups: int) -> FloatArray:
    """Return the kernels of the convolution, (out, in / groups, height, width), of (in, out / groups, ...)."""
    inputs, per_group, *size = kernel.shape
    by_group = kernel.reshape(groups, inputs // groups, per_group, *size).swapaxes(1, 2)
    return by_group.reshape(groups * per_group, inputs // groups, *size)[:, :, ::-1, ::-1]


def _zeros(module: nn.ConvTranspose2d | nn.ConvTranspose1d, signal: Spikes, kernel: FloatArray) -> tuple[Zeros, Pair]:
    """Return the zeros round the spread image, which are negative where its edge is cut off, and the dilation."""
    dilation, stride = pair(module.dilation, along(module, 1)), pair(module.stride, along(module, 1))
    less, more = pair(module.padding, along(module, 0)), pair(module.output_padding, along(module, 0))
    own = [d * (k - 1) - p for d, k, p in zip(dilation, kernel.shape[2:], less, strict=True)]
    rows, columns = (
        (own[k] + stride[k] * before, own[k] + more[k] + stride[k] * behind)
        for k, (before, behind) in enumerate(zeros_of(signal))
    )
    return (rows, columns), dilation


def upsample(module: nn.Upsample, value: Value, name: str) -> Value:
    """Repeat each neuron of an image; a weighted sum is computed once for each place."""
    signal = value if isinstance(value, FloatPopulation) else require_spikes(value, name)
    what, shape = f"module `{name}` ({type(module).__name__}", image_shape(signal, name)
    if module.mode not in NEAREST:
        raise unsupported(f"{what} with mode={module.mode!r})", NOT_NEAREST)
    factor = _factor(module, (shape[1], shape[2]), what)
    if factor == (1, 1):
        return signal
    by = Enlargement(name, factor, shape)
    return enlarged(signal, by) if isinstance(signal, FloatPopulation) else each_part(signal, lambda p: _behind(p, by))


def _factor(module: nn.Upsample, size: Pair, what: str) -> Pair:
    """Return how many times an image of a size is enlarged along its height and width."""
    given: Any = module.size if module.size is not None else module.scale_factor
    numbers = given if isinstance(given, tuple) else (given,)
    if size[0] == 1 and len(numbers) == 1 and numbers[0] != 1:
        raise unsupported(
            f"{what} of a sequence, or of an image of height 1, with one number)",
            "use nn.ConvTranspose1d, or give one number for the height and one for the width",
        )
    whole = (1, 1) if module.size is None else size
    factors = [number / of for number, of in zip((*numbers, *numbers), whole, strict=False)]
    if any(factor < 1 or not float(factor).is_integer() for factor in factors):
        by = ("by " if module.size is None else "to ") + "x".join(f"{number:g}" for number in numbers)
        raise unsupported(f"{what} of {size[0]}x{size[1]} {by})", BROKEN)
    return int(factors[0]), int(factors[1])


def pixel_shuffle(module: nn.PixelShuffle, value: Value, name: str) -> Value:
    """Put channels side by side as pixels."""
    signal, times = require_spikes(value, name, ", or right behind it"), module.upscale_factor
    image_shape(signal, name)
    if norms_of(signal):
        norm = norms_of(signal)[-1]
        raise unsupported(
            f"module `{name}` (PixelShuffle of what the norm `{norm}` gives)", f"put `{norm}` before the activation"
        )
    if any(part.shape[0] % times**2 for part in parts_of(signal)):
        channels = " and ".join(str(part.shape[0]) for part in parts_of(signal))
        raise UnsupportedError(
            f"module `{name}` (PixelShuffle): gets {channels} channels, allowed multiples of {times**2}",
            hint="join images behind it",
        )
    return each_part(signal, lambda part: _behind(part, Enlargement(name, (times, times), part.shape, shuffles=True)))


def _behind(part: Signal, by: Enlargement) -> Signal:
    """Return a part behind an enlargement, which does to each what it does to the image."""
    by = replace(by, source=part.shape)
    return replace(part, shape=by.output, pools=(*part.pools, by))
