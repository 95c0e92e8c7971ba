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
from nctool.conversion.trace.signals import Signal, Spikes, Value, each_part, require_drive, require_spikes, synapses
from nctool.errors import RangeError, UnsupportedError
from nctool.ir.network import ConvGeometry, Pair, Shape

_POOLED = ", and take away one behind it"


def _linear(module: nn.Linear, value: Value, name: str) -> Value:
    signal = require_spikes(value, name)
    out, inputs = module.weight.shape  # not its numbers: who prunes may have cut the tensors alone
    if signal.shape != (inputs,):
        raise UnsupportedError(
            f"module `{name}` (Linear): gets shape {signal.shape}, allowed ({inputs},)",
            hint="put nn.Flatten before it",
        )
    return _drive(module, signal, name, (out,), None)


def _conv(module: nn.Conv2d, value: Value, name: str) -> Value:
    signal = require_spikes(value, name)
    if module.padding_mode != "zeros":
        raise unsupported(
            f"module `{name}` (Conv2d with padding_mode={module.padding_mode!r})", "use padding_mode='zeros'"
        )
    out, per_group, *kernel_size = module.weight.shape
    inputs, kernel = per_group * module.groups, pair(kernel_size)
    if len(signal.shape) != 3 or signal.shape[0] != inputs:
        raise UnsupportedError(f"module `{name}` (Conv2d): gets shape {signal.shape}, allowed ({inputs}, h, w)")
    stride, dilation = pair(module.stride), pair(module.dilation)
    geometry = ConvGeometry(stride, _conv_padding(module, kernel, dilation, name), dilation, module.groups)
    shape = (out, *geometry.output_size(signal.shape, kernel))
    _require_image(shape, f"module `{name}` (Conv2d)", signal)
    return _drive(module, signal, name, shape, geometry)


def _conv_padding(module: nn.Conv2d, kernel: Pair, dilation: Pair, name: str) -> Pair:
    if module.padding == "valid":
        return 0, 0
    if module.padding != "same":
        return pair(module.padding)
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(size % 2 for size in total):
        raise unsupported(f"module `{name}` (Conv2d with padding='same' and an even kernel)", "use an odd kernel")
    return total[0] // 2, total[1] // 2


def _drive(module: nn.Linear | nn.Conv2d, signal: Spikes, name: str, shape: Shape, conv: ConvGeometry | None) -> Value:
    weight = to_array(module.weight, f"{name}.weight")
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


def _average_pool(module: nn.AvgPool2d, value: Value, name: str) -> Value:
    signal = require_spikes(value, name, _POOLED)
    kernel, padding, stride = pair(module.kernel_size), pair(module.padding), pair(module.stride)
    if any(padding) and not module.count_include_pad:
        raise unsupported(f"module `{name}` (AvgPool2d with count_include_pad=False)", "use padding=0")
    divisor = module.divisor_override or kernel[0] * kernel[1]
    pool = Pool(name, kernel, stride, padding, divisor, image_shape(signal, name))
    rest = [(size + 2 * p - k) % s for size, p, k, s in zip(pool.source[1:], padding, kernel, stride, strict=True)]
    if module.ceil_mode and any(rest):
        raise unsupported(f"module `{name}` (AvgPool2d with ceil_mode=True and a remainder)", "use ceil_mode=False")
    _require_image(pool.output, f"module `{name}` (AvgPool2d)", signal)
    return each_part(signal, lambda part: _pooled(part, pool))


def _adaptive_pool(module: nn.AdaptiveAvgPool2d, value: Value, name: str) -> Value:
    """Pool with windows that tile the image; where there are as many as pixels, nothing is to do."""
    signal = require_spikes(value, name, _POOLED)
    source = image_shape(signal, name)
    window = tiles(module.output_size, signal, name, "AdaptiveAvgPool2d")
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
    if axes[0] != 1 or axes[1] not in (-1, len(signal.shape)):
        raise unsupported(f"module `{name}` (Flatten of axes {axes[0]}..{axes[1]})", "flatten all axes but the batch")
    return each_part(signal, lambda part: replace(part, shape=(math.prod(part.shape),)))


def _pass(module: nn.Module, value: Value, name: str) -> Value:
    del module, name  # no effect at inference
    return value


HANDLERS: dict[type[nn.Module], Callable[[Any, Value, str], Value]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Flatten: lambda module, value, name: flatten(value, name, (module.start_dim, module.end_dim)),
    nn.Dropout: _pass,
    nn.Dropout2d: _pass,
    nn.Identity: _pass,
}


def pair(value: Any) -> Pair:
    """Return torch's int or pair of ints as a (height, width) pair."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def to_array(tensor: torch.Tensor, name: str) -> FloatArray:
    """Return a parameter as float64; a RangeError names one that is not finite."""
    array: FloatArray = tensor.detach().cpu().to(torch.float64).numpy()
    if not np.isfinite(array).all():
        raise RangeError(f"parameter `{name}`: holds {array[~np.isfinite(array)][0]}, allowed finite numbers")
    return array
