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

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse, Norm, Pool
from nctool.conversion.trace.hints import unsupported
from nctool.conversion.trace.signals import (
    NO_ZEROS,
    Signal,
    Spikes,
    Value,
    Zeros,
    each_part,
    require_drive,
    require_padded,
    require_spikes,
    synapses,
    zeros_of,
)
from nctool.errors import RangeError, UnsupportedError
from nctool.ir.network import ConvGeometry, Pair, Shape

SEQUENCES: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)
"""Modules that read sequences, (channels, length)."""

_POOLED = ", and take away one behind it"


def _linear(module: nn.Linear, value: Value, name: str) -> Value:
    signal = require_spikes(value, name)
    out, inputs = module.weight.shape  # not its numbers: who prunes may have cut the tensors alone
    if signal.shape != (inputs,):
        raise UnsupportedError(
            f"module `{name}` (Linear): gets shape {signal.shape}, allowed ({inputs},)",
            hint="put nn.Flatten before it",
        )
    return _drive(module, to_array(module.weight, f"{name}.weight"), signal, name, (out,), None)


def _conv(module: nn.Conv2d | nn.Conv1d, value: Value, name: str) -> Value:
    """Read a convolution; of a sequence, one along the width of an image of height 1."""
    signal, kind = require_padded(value, name), type(module).__name__
    if module.padding_mode != "zeros":
        raise unsupported(
            f"module `{name}` ({kind} with padding_mode={module.padding_mode!r})", "use padding_mode='zeros'"
        )
    out, per_group, *kernel_size = module.weight.shape
    inputs, is_sequence = per_group * module.groups, isinstance(module, nn.Conv1d)
    if len(signal.shape) != 3 or signal.shape[0] != inputs or (is_sequence and signal.shape[1] != 1):
        allowed = f"({inputs}, 1, length)" if is_sequence else f"({inputs}, h, w)"
        raise UnsupportedError(f"module `{name}` ({kind}): gets shape {signal.shape}, allowed {allowed}")
    weight = to_array(module.weight, f"{name}.weight").reshape(out, per_group, *pair(kernel_size, _along(module, 1)))
    stride, dilation = pair(module.stride, _along(module, 1)), pair(module.dilation, _along(module, 1))
    zeros = _conv_zeros(module, signal, weight.shape[2:], dilation)
    weight, padding, dilation = with_even_padding(weight, zeros, dilation)
    geometry = ConvGeometry(stride, padding, dilation, module.groups)
    kernel = (weight.shape[2], weight.shape[3])
    shape = (out, *geometry.output_size(_within_zeros(signal), kernel))
    _require_image(shape, f"module `{name}` ({kind})", signal)
    return _drive(module, weight, each_part(signal, without_zeros), name, shape, geometry)


def _along(module: nn.Module, value: int) -> int | None:
    """Return what stands for the height of a module that knows sequences only."""
    return value if isinstance(module, SEQUENCES) else None


def _conv_zeros(module: nn.Conv2d | nn.Conv1d, signal: Spikes, kernel: Shape, dilation: Pair) -> Zeros:
    """Return all zeros round what a convolution reads: those of the padding before it, and its own."""
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        own = [(size // 2, size - size // 2) for size in total]
    else:
        own = [(size, size) for size in pair(0 if module.padding == "valid" else module.padding, _along(module, 0))]
    (above, below), (left, right) = zeros_of(signal)
    return (above + own[0][0], below + own[0][1]), (left + own[1][0], right + own[1][1])


def with_even_padding(weight: FloatArray, zeros: Zeros, dilation: Pair) -> tuple[FloatArray, Pair, Pair]:
    """Return kernels that compute the same with as many zeros on both sides, the padding, and the dilation.

    Where there are more zeros on one side, the kernel begins or ends with weights of 0 that fall on the zeros that
    are too many.

    Args:
        weight: float64 (out, in / groups, kernel height, kernel width).
        zeros: before and behind, along the height and along the width.
        dilation: of the kernel.
    """
    dilations = list(dilation)
    for axis, (before, behind) in enumerate(zeros):
        more = abs(behind - before)
        if more % dilations[axis]:
            weight, dilations[axis] = _undilated(weight, 2 + axis, dilations[axis]), 1
        taps = [(0, 0)] * 4
        taps[2 + axis] = (more // dilations[axis], 0) if behind > before else (0, more // dilations[axis])
        weight = np.pad(weight, taps)
    return weight, (max(zeros[0]), max(zeros[1])), (dilations[0], dilations[1])


def _undilated(weight: FloatArray, axis: int, dilation: int) -> FloatArray:
    """Return kernels with the zeros between their weights that a dilation stands for."""
    lines = np.moveaxis(weight, axis, -1)
    spread = np.zeros((*lines.shape[:-1], dilation * (lines.shape[-1] - 1) + 1))
    spread[..., ::dilation] = lines
    return np.moveaxis(spread, -1, axis)


def _within_zeros(signal: Spikes) -> Shape:
    """Return the shape without the zeros round it."""
    (above, below), (left, right) = zeros_of(signal)
    channels, high, wide = signal.shape
    return channels, high - above - below, wide - left - right


def without_zeros(part: Signal) -> Signal:
    """Return what is read within the zeros round it."""
    return replace(part, shape=_within_zeros(part), zeros=NO_ZEROS)


def _drive(
    module: nn.Linear | nn.Conv2d | nn.Conv1d,
    weight: FloatArray,
    signal: Spikes,
    name: str,
    shape: Shape,
    conv: ConvGeometry | None,
) -> Value:
    bias = np.zeros(shape[0]) if module.bias is None else to_array(module.bias, f"{name}.bias")
    return FloatPopulation(name, shape, synapses(signal, name, weight, bias, conv))


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, value: Value, name: str) -> Value:
    drive = require_drive(value, name)
    if module.running_mean is None or module.running_var is None:
        raise unsupported(f"module `{name}` (BatchNorm without running statistics)", "use track_running_stats=True")
    if drive.shape[0] != len(module.running_mean):
        raise UnsupportedError(
            f"module `{name}` (BatchNorm): gets {drive.shape[0]} channels, allowed {len(module.running_mean)}"
        )
    gain = 1.0 / np.sqrt(_variance(module.running_var, module.eps, name))
    shift = np.zeros_like(gain)
    if module.weight is not None:
        gain = gain * to_array(module.weight, f"{name}.weight")
    if module.bias is not None:
        shift = to_array(module.bias, f"{name}.bias")
    shift = shift - gain * to_array(module.running_mean, f"{name}.running_mean")
    first, *rest = drive.synapses
    branches = (_normalise(first, gain, shift), *(_normalise(synapse, gain, np.zeros_like(shift)) for synapse in rest))
    return replace(drive, synapses=branches)


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


def _normalise(synapse: FloatSynapse, gain: FloatArray, shift: FloatArray) -> FloatSynapse:
    """Return one branch of a sum that is normalised: every branch takes the gain, one of them the shift."""
    before = synapse.norm
    norm = Norm(gain, shift) if before is None else Norm(gain * before.gain, gain * before.shift + shift)
    return replace(synapse, norm=norm)


def _average_pool(module: nn.AvgPool2d | nn.AvgPool1d, value: Value, name: str) -> Value:
    signal, kind = require_padded(value, name, _POOLED), type(module).__name__
    kernel, own, stride = (
        pair(size, _along(module, fill))
        for size, fill in ((module.kernel_size, 1), (module.padding, 0), (module.stride, 1))
    )
    if any(own) and not module.count_include_pad:
        raise unsupported(f"module `{name}` ({kind} with count_include_pad=False)", "use padding=0")
    source, zeros = image_shape(signal, name), zeros_of(signal)
    if any(before != behind for before, behind in zeros):
        raise unsupported(f"module `{name}` ({kind} behind more zeros on one side)", "pad as much on both sides")
    padding = (own[0] + zeros[0][0], own[1] + zeros[1][0])
    divisor = getattr(module, "divisor_override", None) or kernel[0] * kernel[1]
    pool = Pool(name, kernel, stride, padding, divisor, _within_zeros(signal))
    rest = [(size + 2 * p - k) % s for size, p, k, s in zip(source[1:], own, kernel, stride, strict=True)]
    if module.ceil_mode and any(rest):
        raise unsupported(f"module `{name}` ({kind} with ceil_mode=True and a remainder)", "use ceil_mode=False")
    _require_image(pool.output, f"module `{name}` ({kind})", signal)
    return each_part(signal, lambda part: _pooled(without_zeros(part), pool))


def _adaptive_pool(module: nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool1d, value: Value, name: str) -> Value:
    """Pool with windows that tile the image; where there are as many as pixels, nothing is to do."""
    signal, kind = require_spikes(value, name, _POOLED), type(module).__name__
    source = image_shape(signal, name)
    size = (None, module.output_size) if isinstance(module, nn.AdaptiveAvgPool1d) else module.output_size
    window = tiles(size, signal, name, kind)
    pool = Pool(name, window, window, (0, 0), window[0] * window[1], source)
    return signal if window == (1, 1) else each_part(signal, lambda part: _pooled(part, pool))


def tiles(output_size: Any, signal: Spikes, name: str, kind: str) -> Pair:
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


def _zero_pad(module: nn.ConstantPad2d | nn.ConstantPad1d, value: Value, name: str) -> Value:
    """Keep zeros for the convolution or pooling that reads them; as many as are there already are added to them."""
    signal, kind = require_padded(value, name), type(module).__name__
    widths: tuple[int, ...] = module.padding
    if module.value != 0.0 or min(widths) < 0:
        raise unsupported(f"module `{name}` ({kind} with something else than zeros)", "pad with zeros")
    left, right, above, below = (*widths, 0, 0)[:4]
    image_shape(signal, name)
    return each_part(signal, lambda part: _padded(part, ((above, below), (left, right))))


def _pad_channels(module: nn.ConstantPad3d, value: Value, name: str) -> Value:
    """Put channels of zeros beside those of an image: a weighted sum that hands on each channel at its place."""
    signal = require_spikes(value, name)
    before, behind = module.padding[4:]
    if module.value != 0.0 or any(module.padding[:4]) or min(before, behind) < 0 or len(signal.shape) != 3:
        raise unsupported(f"module `{name}` (ConstantPad3d)", "pad with channels of zeros, or use nn.ZeroPad2d")
    channels, *size = signal.shape
    weight = np.eye(before + channels + behind, channels, -before)[:, :, np.newaxis, np.newaxis]
    shape = (len(weight), *size)
    return FloatPopulation(name, shape, synapses(signal, name, weight, np.zeros(len(weight)), ConvGeometry()))


def _padded(part: Signal, zeros: Zeros) -> Signal:
    (above, below), (left, right) = zeros
    (top, bottom), (first, last) = part.zeros
    channels, high, wide = part.shape
    shape = (channels, high + above + below, wide + left + right)
    return replace(part, shape=shape, zeros=((top + above, bottom + below), (first + left, last + right)))


def _pooled(part: Signal, pool: Pool) -> Signal:
    """Return `part` behind `pool`, which takes each channel on its own."""
    pool = replace(pool, source=part.shape)
    return replace(part, shape=pool.output, pools=(*part.pools, pool))


def image_shape(signal: Spikes, name: str) -> tuple[int, int, int]:
    """Return (channels, height, width), and refuse what has another shape."""
    if len(signal.shape) != 3:
        raise UnsupportedError(f"module `{name}`: gets shape {signal.shape}, allowed (channels, height, width)")
    return signal.shape[0], signal.shape[1], signal.shape[2]


def _require_image(shape: Shape, what: str, signal: Spikes) -> None:
    if min(shape) < 1:
        raise UnsupportedError(
            f"{what}: its kernel reaches beyond the padded image, which is {signal.shape[1:]} unpadded"
        )


def flatten(value: Value, name: str, axes: tuple[int, int]) -> Value:
    """Flatten a signal; every axis but the batch, from `axes[0]` to `axes[1]`."""
    signal = require_spikes(value, name)
    if axes == (2, -1) and len(signal.shape) == 3 and signal.shape[1] == 1:
        return signal  # an image of height 1 becomes a sequence, which is one
    if axes[0] != 1 or axes[1] not in (-1, len(signal.shape)):
        raise unsupported(f"module `{name}` (Flatten of axes {axes[0]}..{axes[1]})", "flatten all axes but the batch")
    return each_part(signal, lambda part: replace(part, shape=(math.prod(part.shape),)))


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
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.Conv1d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _average_pool,
    nn.AvgPool1d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.AdaptiveAvgPool1d: _adaptive_pool,
    nn.ZeroPad2d: _zero_pad,
    nn.ZeroPad1d: _zero_pad,
    nn.ConstantPad2d: _zero_pad,
    nn.ConstantPad1d: _zero_pad,
    nn.ConstantPad3d: _pad_channels,
    nn.ZeroPad3d: _pad_channels,
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


def pair(value: Any, along_height: int | None = None) -> Pair:
    """Return torch's int or ints as a (height, width) pair.

    Args:
        value: one for both axes, or one for each; that of the length, where `along_height` is given.
        along_height: what stands for the height of sequences, which are images of height 1.
    """
    values = (value,) if isinstance(value, int) else tuple(value)
    first = values[0] if along_height is None else along_height
    return int(first), int(values[-1])


def to_array(tensor: torch.Tensor, name: str) -> FloatArray:
    """Return a parameter as float64; a RangeError names one that is not finite."""
    array: FloatArray = tensor.detach().cpu().to(torch.float64).numpy()
    if not np.isfinite(array).all():
        raise RangeError(f"parameter `{name}`: holds {array[~np.isfinite(array)][0]}, allowed finite numbers")
    return array
