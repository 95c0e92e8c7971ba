"""What each torch module means for a network of integrate-and-fire neurons: one handler a module.

In: a module and the value before it. Out: the value behind it, or an UnsupportedError that names the module and says
what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse, Norm, Pool
from nctool.errors import RangeError, UnsupportedError
from nctool.network import ConvGeometry, Pair, Shape

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, Dropout, NoisyQuantReLU, sums of branches"
)
HINTS: dict[str, str] = {
    "MaxPool2d": "spikes cannot represent a maximum: use nn.AvgPool2d and train again",
    "AdaptiveMaxPool2d": "spikes cannot represent a maximum: use nn.AdaptiveAvgPool2d(1) and train again",
    "ReLU": "use nctool.nq.NoisyQuantReLU and train again",
    "relu": "use the module nctool.nq.NoisyQuantReLU instead of the function and train again",
    "max_pool2d": "spikes cannot represent a maximum: use the module nn.AvgPool2d and train again",
    "avg_pool2d": "use the module nn.AvgPool2d",
    "adaptive_avg_pool2d": "use the module nn.AdaptiveAvgPool2d(1)",
    "mean": "use the module nn.AdaptiveAvgPool2d(1)",
    "cat": "add what comes behind: a linear layer of joined inputs is the sum of a linear layer of each",
    "view": "use the module nn.Flatten",
    "reshape": "use the module nn.Flatten",
    "size": "use the module nn.Flatten instead of a view",
}


@dataclass(frozen=True)
class Signal:
    """Spikes, or the input, on their way to the next linear layer.

    Args:
        source: population that sends, or `input`.
        source_shape: its shape.
        shape: shape after the poolings and flattening met since.
        pools: those poolings.
    """

    source: str
    source_shape: Shape
    shape: Shape
    pools: tuple[Pool, ...] = ()


Value = Signal | FloatPopulation
"""A FloatPopulation as a value is a weighted sum, of one or several branches, whose activation has not been met yet."""


def unsupported(what: str, hint: str | None) -> UnsupportedError:
    """Say that `what` cannot be converted, and what to do instead."""
    return UnsupportedError(f"{what} cannot be converted", hint=hint or f"supported are {SUPPORTED}")


def require_drive(value: Value, name: str) -> FloatPopulation:
    """Return `value` if it is a weighted sum; else say that module `name` stands at the wrong place."""
    if isinstance(value, FloatPopulation):
        return value
    raise UnsupportedError(
        f"module `{name}`: follows spikes of `{value.source}`, allowed behind Conv2d, Linear or their BatchNorm",
        hint="put it right behind the linear layer",
    )


def require_signal(value: Value, name: str) -> Signal:
    """Return `value` if it is spikes or the input; else say that an activation is missing."""
    if isinstance(value, Signal):
        return value
    raise UnsupportedError(
        f"module `{name}`: follows `{value.name}` with no NoisyQuantReLU between them",
        hint=f"put a NoisyQuantReLU between `{value.name}` and `{name}` and train again",
    )


def _linear(module: nn.Linear, value: Value, name: str) -> Value:
    signal = require_signal(value, name)
    if signal.shape != (module.in_features,):
        raise UnsupportedError(
            f"module `{name}` (Linear): gets shape {signal.shape}, allowed ({module.in_features},)",
            hint="put nn.Flatten before it",
        )
    return _drive(module, signal, name, (module.out_features,), None)


def _conv(module: nn.Conv2d, value: Value, name: str) -> Value:
    signal = require_signal(value, name)
    if module.padding_mode != "zeros":
        raise unsupported(
            f"module `{name}` (Conv2d with padding_mode={module.padding_mode!r})", "use padding_mode='zeros'"
        )
    if len(signal.shape) != 3 or signal.shape[0] != module.in_channels:
        raise UnsupportedError(
            f"module `{name}` (Conv2d): gets shape {signal.shape}, allowed ({module.in_channels}, h, w)"
        )
    kernel, stride, dilation = (pair(v) for v in (module.kernel_size, module.stride, module.dilation))
    geometry = ConvGeometry(stride, _conv_padding(module, kernel, dilation, name), dilation, module.groups)
    shape = (module.out_channels, *geometry.output_size(signal.shape, kernel))
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


def _drive(module: nn.Linear | nn.Conv2d, signal: Signal, name: str, shape: Shape, conv: ConvGeometry | None) -> Value:
    weight = to_array(module.weight, f"{name}.weight")
    bias = np.zeros(shape[0]) if module.bias is None else to_array(module.bias, f"{name}.bias")
    synapse = FloatSynapse(name, signal.source, signal.source_shape, weight, bias, conv, pools=signal.pools)
    return FloatPopulation(name, shape, (synapse,))


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, value: Value, name: str) -> Value:
    drive = require_drive(value, name)
    if module.running_mean is None or module.running_var is None:
        raise unsupported(f"module `{name}` (BatchNorm without running statistics)", "use track_running_stats=True")
    if drive.shape[0] != module.num_features:
        raise UnsupportedError(
            f"module `{name}` (BatchNorm): gets {drive.shape[0]} channels, allowed {module.num_features}"
        )
    if len(drive.synapses) > 1:
        raise unsupported(f"module `{name}` (BatchNorm of a sum)", "normalise each branch before the sum")
    (synapse,) = drive.synapses
    if synapse.norm is not None:
        raise unsupported(f"module `{name}` (second BatchNorm in a row)", "take one of them out")
    gain = 1.0 / np.sqrt(to_array(module.running_var, f"{name}.running_var") + module.eps)
    shift = np.zeros_like(gain)
    if module.affine:
        gain, shift = gain * to_array(module.weight, f"{name}.weight"), to_array(module.bias, f"{name}.bias")
    norm = Norm(gain, shift - gain * to_array(module.running_mean, f"{name}.running_mean"))
    return replace(drive, synapses=(replace(synapse, norm=norm),))


def _average_pool(module: nn.AvgPool2d, value: Value, name: str) -> Value:
    signal = require_signal(value, name)
    kernel, padding = pair(module.kernel_size), pair(module.padding)
    stride = pair(module.stride)
    if any(padding) and not module.count_include_pad:
        raise unsupported(f"module `{name}` (AvgPool2d with count_include_pad=False)", "use padding=0")
    divisor = module.divisor_override or kernel[0] * kernel[1]
    pool = Pool(name, kernel, stride, padding, divisor, _image(signal, name))
    rest = [(size + 2 * p - k) % s for size, p, k, s in zip(pool.source[1:], padding, kernel, stride, strict=True)]
    if module.ceil_mode and any(rest):
        raise unsupported(f"module `{name}` (AvgPool2d with ceil_mode=True and a remainder)", "use ceil_mode=False")
    _require_image(pool.output, f"module `{name}` (AvgPool2d)", signal)
    return replace(signal, shape=pool.output, pools=(*signal.pools, pool))


def _global_pool(module: nn.AdaptiveAvgPool2d, value: Value, name: str) -> Value:
    signal = require_signal(value, name)
    if module.output_size not in (1, (1, 1)):
        raise unsupported(f"module `{name}` (AdaptiveAvgPool2d to {module.output_size})", "use nn.AvgPool2d")
    _, high, wide = source = _image(signal, name)
    pool = Pool(name, (high, wide), (high, wide), (0, 0), high * wide, source)
    return replace(signal, shape=pool.output, pools=(*signal.pools, pool))


def _image(signal: Signal, name: str) -> tuple[int, int, int]:
    if len(signal.shape) != 3:
        raise UnsupportedError(f"module `{name}`: gets shape {signal.shape}, allowed (channels, height, width)")
    return signal.shape[0], signal.shape[1], signal.shape[2]


def _require_image(shape: Shape, what: str, signal: Signal) -> None:
    if min(shape) < 1:
        raise UnsupportedError(
            f"{what}: its kernel reaches beyond the padded image, which is {signal.shape[1:]} unpadded"
        )


def flatten(value: Value, name: str, axes: tuple[int, int]) -> Value:
    """Flatten a signal; every axis but the batch, from `axes[0]` to `axes[1]`."""
    signal = require_signal(value, name)
    if axes[0] != 1 or axes[1] not in (-1, len(signal.shape)):
        raise unsupported(f"module `{name}` (Flatten of axes {axes[0]}..{axes[1]})", "flatten all axes but the batch")
    return replace(signal, shape=(math.prod(signal.shape),))


def _pass(module: nn.Module, value: Value, name: str) -> Value:
    del module, name  # no effect at inference
    return value


HANDLERS: dict[type[nn.Module], Callable[[Any, Value, str], Value]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Flatten: lambda module, value, name: flatten(value, name, (module.start_dim, module.end_dim)),
    nn.Dropout: _pass,
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
