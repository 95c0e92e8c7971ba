"""What functions mean as modules: activations with their bounds, poolings, padding.

In: a node that calls a function or a method, and Facts for arguments that are computed from shapes. Out: a module, or
an UnsupportedError that says what to write instead.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from nctool.conversion.trace.enlargements import BROKEN, NEAREST, NOT_NEAREST
from nctool.conversion.trace.facts import Facts
from nctool.conversion.trace.hints import unsupported
from nctool.conversion.trace.in_place import name_of
from nctool.ir.geometry import Pair

RELUS = ("relu", "relu_")
RELU6 = functional.relu6
CLAMPS = ("clamp", "clamp_", "clip", "clip_")
HARDTANHS = ("hardtanh", "hardtanh_")
LOWER_CLAMPS = ("clamp_min", "clamp_min_")
POOLINGS: dict[str, type[nn.Module]] = {
    "max_pool2d": nn.MaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "max_pool1d": nn.MaxPool1d,
    "avg_pool1d": nn.AvgPool1d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
}
DROPOUTS: dict[str, type[nn.Module]] = {
    "dropout": nn.Dropout,
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}
ENLARGEMENTS = ("interpolate", "upsample", "upsample_nearest", "pixel_shuffle")
SOFTMAXES = ("softmax", "log_softmax")

_MEAN_OPTIONS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_MAX_OPTIONS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_OPTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.AvgPool1d: _MEAN_OPTIONS,
    nn.AvgPool2d: (*_MEAN_OPTIONS, "divisor_override"),
    nn.MaxPool1d: _MAX_OPTIONS,
    nn.MaxPool2d: _MAX_OPTIONS,
}
"""What a pooling takes behind its input, in order; any other takes a size."""

_ZERO_BOUND = "use nn.ReLU, nn.ReLU6 or nn.Hardtanh(0, a): a neuron sends no negative spikes"


def is_function(node: fx.Node, names: Any) -> bool:
    """Return whether a node calls a function of torch, or a method of a tensor, with one of these names."""
    if node.op == "call_method":
        return node.target in names
    module = getattr(node.target, "__module__", None) or ""
    is_torch = module.startswith("torch") or getattr(torch, name_of(node), None) is node.target
    return node.op == "call_function" and is_torch and name_of(node) in names


def activation_of_module(module: nn.Module, what: str) -> nn.Module | None:
    """Return an `nn.ReLU`, or an `nn.Hardtanh` where it has an upper bound; None for what is no such activation.

    Raises:
        UnsupportedError: its lower bound is not 0.
    """
    if type(module) is nn.ReLU:
        return nn.ReLU()
    if type(module) in (nn.ReLU6, nn.Hardtanh):
        return clipped(module.min_val, module.max_val, what)
    return None


def activation_of_function(node: fx.Node) -> nn.Module | None:
    """Return the same for a function or a method.

    Raises:
        UnsupportedError: its lower bound is not 0, or its bounds depend on the images.
    """
    what = f"function `{node.name}`"
    if is_function(node, RELUS):
        return nn.ReLU()
    if node.target is RELU6:
        return clipped(0.0, 6.0, what)
    if is_function(node, HARDTANHS):
        return clipped(argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0), what)
    if is_function(node, CLAMPS):
        return clipped(argument(node, 1, "min", None), argument(node, 2, "max", None), what)
    return clipped(argument(node, 1, "min", None), None, what) if is_function(node, LOWER_CLAMPS) else None


def clipped(low: Any, high: Any, what: str) -> nn.Module:
    """Return the activation that lets through what lies between two bounds.

    Raises:
        UnsupportedError: the lower bound is not 0, the upper one not above it, or one is no number.
    """
    high = math.inf if high is None else high
    if not all(isinstance(bound, int | float) for bound in (0 if low is None else low, high)):
        raise unsupported(f"{what} (with bounds that are tensors)", _ZERO_BOUND)
    if low != 0 or not high > 0:
        bounds = f"{'no lower bound' if low is None else f'lower bound {low:g}'}, upper bound {high:g}"
        raise unsupported(f"{what} (with {bounds})", _ZERO_BOUND)
    return nn.ReLU() if math.isinf(high) else nn.Hardtanh(0.0, float(high))


def pooling(node: fx.Node, facts: Facts) -> nn.Module:
    """Return the module of a functional pooling.

    Raises:
        UnsupportedError: its windows depend on the images.
    """
    kind = POOLINGS[name_of(node)]
    names = _OPTIONS.get(kind, ("output_size",))
    named = {key: node.kwargs[key] for key in names if key in node.kwargs}
    given = dict(zip(names, node.args[1:], strict=False)) | named
    try:
        options = {key: facts.constant(value) for key, value in given.items()}
    except LookupError:
        raise unsupported(
            f"function `{node.name}` (of windows that depend on the image)",
            f"use nn.Adaptive{'Max' if 'max' in name_of(node) else 'Avg'}Pool2d(1)",
        ) from None
    return kind(**options)


def enlargement(node: fx.Node, facts: Facts) -> nn.Module | None:
    """Return the module of a function that enlarges images; None where their sizes are not known.

    Raises:
        UnsupportedError: it does not repeat neurons a whole number of times, or works on something else than images.
    """
    what = f"function `{node.name}`"
    if name_of(node) == "pixel_shuffle":
        return nn.PixelShuffle(argument(node, 1, "upscale_factor", 1))
    mode = "nearest" if name_of(node) == "upsample_nearest" else argument(node, 3, "mode", "nearest")
    if mode not in NEAREST:
        raise unsupported(f"{what} (with mode={mode!r})", NOT_NEAREST)
    before, shape = facts.shape(argument(node, 0, "input", node)), facts.shape(node)
    if before is None or shape is None:
        return None
    if len(shape) != 3:
        raise unsupported(f"{what} (of a sequence)", "use nn.ConvTranspose1d")
    if any(new % old for old, new in zip(before[1:], shape[1:], strict=True)):
        raise unsupported(f"{what} (of {before[1]}x{before[2]} to {shape[1]}x{shape[2]})", BROKEN)
    return nn.Upsample(scale_factor=(float(shape[1] // before[1]), float(shape[2] // before[2])), mode=mode)


def dropout(node: fx.Node) -> nn.Module:
    """Return the module of a functional dropout.

    Raises:
        UnsupportedError: its rate depends on the images.
    """
    rate = argument(node, 1, "p", 0.5)
    if isinstance(rate, fx.Node):
        raise unsupported(f"function `{node.name}` (of rates that depend on the image)", "use nn.Dropout(p)")
    return DROPOUTS[name_of(node)](rate)


def padding(node: fx.Node, facts: Facts) -> nn.Module:
    """Return the module of `functional.pad`, which puts zeros round images, or channels of zeros beside theirs.

    Raises:
        UnsupportedError: it puts something else, or pads along other axes.
    """
    shape = facts.shape(node)
    try:
        widths = facts.constant(argument(node, 1, "pad", ()))
    except LookupError:
        widths = ()
    mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value", None)
    if mode != "constant" or value not in (None, 0, 0.0):
        raise unsupported(f"function `{node.name}` (with something else than zeros)", "pad with zeros")
    if shape is not None and len(shape) == 3 and len(widths) == 6 and not any(widths[:4]):
        return nn.ConstantPad3d(widths, 0.0)
    if shape is None or not widths or len(widths) > 2 * (len(shape) - 1):
        raise unsupported(f"function `{node.name}` (of other axes than height and width)", "pad images only")
    widths = (*widths, *[0] * (2 * (len(shape) - 1) - len(widths)))
    return nn.ZeroPad2d(widths) if len(shape) == 3 else nn.ZeroPad1d(widths)


def strides(node: fx.Node) -> Pair | None:
    """Return the steps of a slice that takes every so many rows and columns, as `x[:, :, ::2, ::2]`; else None."""
    index = node.args[1] if node.target is operator.getitem else None
    if not isinstance(index, tuple) or len(index) != 4 or not all(isinstance(part, slice) for part in index):
        return None
    steps = [part.step or 1 for part in index]
    if any((part.start or 0, part.stop) != (0, None) for part in index) or steps[:2] != [1, 1]:
        return None
    return steps[2], steps[3]


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """Return an argument of a call, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
