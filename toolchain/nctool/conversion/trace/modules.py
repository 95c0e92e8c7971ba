"""What each torch module means for a network of integrate-and-fire neurons: one handler a module.

In: a module and the value before it. Out: the value behind it, or an UnsupportedError that names the module and says
what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from nctool.conversion.float_network import FloatArray, FloatPopulation, Norm, Pool
from nctool.conversion.trace.composing import flattened, pooled
from nctool.conversion.trace.convolutions import conv, linear, pad_channels, require_unnormalised, zero_pad
from nctool.conversion.trace.enlargements import conv_transpose, pixel_shuffle, upsample
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
    Signal,
    Spikes,
    StandIn,
    Value,
    each_part,
    require_padded,
    require_spikes,
    zeros_of,
)
from nctool.conversion.trace.weighing import normalise
from nctool.errors import RangeError, UnsupportedError
from nctool.ir.network import Pair, Shape

_POOLED = ", and take away one behind it"


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, value: Value, name: str) -> Value:
    read = value if isinstance(value, FloatPopulation | StandIn) else require_spikes(value, name)
    if module.running_mean is None or module.running_var is None:
        raise unsupported(f"module `{name}` (BatchNorm without running statistics)", "use track_running_stats=True")
    if isinstance(read, StandIn):
        return read
    if read.shape[0] != len(module.running_mean):
        raise UnsupportedError(
            f"module `{name}` (BatchNorm): gets {read.shape[0]} channels, allowed {len(module.running_mean)}"
        )
    gain = 1.0 / np.sqrt(_variance(module.running_var, module.eps, name))
    shift = np.zeros_like(gain)
    if module.weight is not None:
        gain = gain * to_array(module.weight, f"{name}.weight")
    if module.bias is not None:
        shift = to_array(module.bias, f"{name}.bias")
    shift = shift - gain * to_array(module.running_mean, f"{name}.running_mean")
    return normalise(read, Norm(gain, shift), name)


def _variance(running_var: torch.Tensor, eps: float, name: str) -> FloatArray:
    """Return what a norm divides by the root of; 0 has no inverse, and torch's own answer is not a number."""
    variance = to_array(running_var, f"{name}.running_var") + eps
    if variance.min() <= 0.0:
        raise RangeError(
            f"module `{name}` (BatchNorm): running_var + eps is {variance.min():g} in channel {variance.argmin()}, "
            "allowed above 0",
            hint="give the norm an eps, for example 1e-5, or leave out a channel that never changes",
        )
    return variance


def _average_pool(module: nn.AvgPool2d | nn.AvgPool1d, value: Value, name: str) -> Value:
    signal = value if isinstance(value, FloatPopulation) else require_padded(value, name, _POOLED)
    kind = type(module).__name__
    kernel, own, stride = (
        pair(size, along(module, fill))
        for size, fill in ((module.kernel_size, 1), (module.padding, 0), (module.stride, 1))
    )
    if any(own) and not module.count_include_pad:
        raise unsupported(f"module `{name}` ({kind} with count_include_pad=False)", "use padding=0")
    source, zeros = image_shape(signal, name), zeros_of(signal)
    if any(before != behind for before, behind in zeros):
        raise unsupported(f"module `{name}` ({kind} behind more zeros on one side)", "pad as much on both sides")
    padding = (own[0] + zeros[0][0], own[1] + zeros[1][0])
    divisor = getattr(module, "divisor_override", None) or kernel[0] * kernel[1]
    pool = Pool(name, kernel, stride, padding, divisor, within_zeros(signal))
    rest = [(size + 2 * p - k) % s for size, p, k, s in zip(source[1:], own, kernel, stride, strict=True)]
    if module.ceil_mode and any(rest):
        raise unsupported(f"module `{name}` ({kind} with ceil_mode=True and a remainder)", "use ceil_mode=False")
    require_image(pool.output, f"module `{name}` ({kind})", signal)
    if isinstance(signal, FloatPopulation):
        return pooled(signal, pool) if padding == (0, 0) else require_padded(signal, name, _POOLED)
    if padding != (0, 0):
        require_unnormalised(signal, name)
    return each_part(signal, lambda part: _pooled(without_zeros(part), pool))


def _adaptive_pool(module: nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool1d, value: Value, name: str) -> Value:
    """Pool with windows that tile the image; where there are as many as pixels, nothing is to do."""
    signal = value if isinstance(value, FloatPopulation) else require_spikes(value, name, _POOLED)
    source, kind = image_shape(signal, name), type(module).__name__
    size = (None, module.output_size) if isinstance(module, nn.AdaptiveAvgPool1d) else module.output_size
    window = tiles(size, signal, name, kind)
    pool = Pool(name, window, window, (0, 0), window[0] * window[1], source)
    if window == (1, 1):
        return signal
    if isinstance(signal, FloatPopulation):
        return pooled(signal, pool)
    return each_part(signal, lambda part: _pooled(part, pool))


def tiles(output_size: Any, signal: Spikes | FloatPopulation, name: str, kind: str) -> Pair:
    """Return the window of an adaptive pooling to `output_size`, which is to tile the image."""
    _, high, wide = image_shape(signal, name)
    wanted = output_size if isinstance(output_size, tuple) else (output_size,) * 2
    rows, columns = (size if number is None else number for size, number in zip((high, wide), wanted, strict=True))
    if high % rows or wide % columns:
        enlarges = rows > high or columns > wide
        raise unsupported(
            f"module `{name}` ({kind} of {high}x{wide} to {rows}x{columns})",
            f"use nn.{kind}(1), and {signal.shape[0]} inputs for the nn.Linear behind it"
            if enlarges
            else f"use sizes that divide those of the image, or nn.{kind.removeprefix('Adaptive')}",
        )
    return high // rows, wide // columns


def _pooled(part: Signal, pool: Pool) -> Signal:
    """Return `part` behind `pool`, which takes each channel on its own; what normalises it then comes behind."""
    pool, norm = replace(pool, source=part.shape), part.norm
    if norm is not None:
        norm = Norm(norm.gain, norm.shift * (math.prod(pool.kernel) / pool.divisor))
    return replace(part, shape=pool.output, pools=(*part.pools, pool), norm=norm)


def flatten(value: Value, name: str, axes: tuple[int, int]) -> Value:
    """Flatten a signal; every axis but the batch, from `axes[0]` to `axes[1]`."""
    if isinstance(value, FloatPopulation) and math.prod(value.shape[1:]) == 1 and _are_all(axes, value.shape):
        return flattened(value, name)
    signal = require_spikes(value, name)
    if axes == (2, -1) and len(signal.shape) == 3 and signal.shape[1] == 1:
        return signal  # an image of height 1 becomes a sequence, which is one
    if not _are_all(axes, signal.shape):
        raise unsupported(f"module `{name}` (Flatten of axes {axes[0]}..{axes[1]})", "flatten all axes but the batch")
    return each_part(signal, _flattened)


def _are_all(axes: Pair, shape: Shape) -> bool:
    return axes[0] == 1 and axes[1] in (-1, len(shape))


def _flattened(part: Signal) -> Signal:
    """Return features, each with what normalises its channel."""
    pixels, norm = math.prod(part.shape[1:]), part.norm
    if norm is not None:
        norm = Norm(np.repeat(norm.gain, pixels), np.repeat(norm.shift, pixels))
    return replace(part, shape=(math.prod(part.shape),), norm=norm)


def _unflatten(module: nn.Unflatten, value: Value, name: str) -> Value:
    """Take a sequence as what it is: an image of height 1."""
    signal = require_spikes(value, name)
    if module.dim != 2 or tuple(module.unflattened_size) != signal.shape[1:] or signal.shape[1] != 1:
        raise unsupported(f"module `{name}` (Unflatten)", "let what flattened it behind it: convolve images")
    return signal


def _pass(module: nn.Module, value: Value, name: str) -> Value:
    del module, name  # no effect at inference
    return value


Handler = Callable[[Any, Value, str], Value]
HANDLERS: dict[type[nn.Module], Handler] = {
    nn.Linear: linear,
    nn.Conv2d: conv,
    nn.Conv1d: conv,
    nn.ConvTranspose2d: conv_transpose,
    nn.ConvTranspose1d: conv_transpose,
    nn.Upsample: upsample,
    nn.UpsamplingNearest2d: upsample,
    nn.PixelShuffle: pixel_shuffle,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _average_pool,
    nn.AvgPool1d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.AdaptiveAvgPool1d: _adaptive_pool,
    nn.ZeroPad2d: zero_pad,
    nn.ZeroPad1d: zero_pad,
    nn.ConstantPad2d: zero_pad,
    nn.ConstantPad1d: zero_pad,
    nn.ConstantPad3d: pad_channels,
    nn.ZeroPad3d: pad_channels,
    nn.Flatten: lambda module, value, name: flatten(value, name, (module.start_dim, module.end_dim)),
    nn.Unflatten: _unflatten,
    nn.Dropout: _pass,
    nn.Dropout1d: _pass,
    nn.Dropout2d: _pass,
    nn.Dropout3d: _pass,
    nn.AlphaDropout: _pass,
    nn.FeatureAlphaDropout: _pass,
    nn.Identity: _pass,
}
