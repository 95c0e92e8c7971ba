"""Linear layers and convolutions, and the zeros that are put round what a convolution reads.

In: a module and the value before it. Out: the value behind it, or an UnsupportedError that names the module and says
what to do.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.conversion.trace.composing import compose
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
    require_padded,
    require_spikes,
    zeros_of,
)
from nctool.conversion.trace.weighing import synapses
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry, Pair, Shape


def linear(module: nn.Linear, value: Value, name: str) -> Value:
    """Read a dense layer, which takes features."""
    signal = value if isinstance(value, FloatPopulation) else require_spikes(value, name)
    out, inputs = module.weight.shape  # not its numbers: who prunes may have cut the tensors alone
    if signal.shape != (inputs,):
        raise UnsupportedError(
            f"module `{name}` (Linear): gets shape {signal.shape}, allowed ({inputs},)",
            hint="put nn.Flatten before it",
        )
    return drive(module, to_array(module.weight, f"{name}.weight"), signal, name, (out,), None)


def conv(module: nn.Conv2d | nn.Conv1d, value: Value, name: str) -> Value:
    """Read a convolution; of a sequence, one along the width of an image of height 1."""
    kind, is_composed = type(module).__name__, isinstance(value, FloatPopulation) and _is_pointwise(module)
    signal = value if isinstance(value, FloatPopulation) and is_composed else require_padded(value, name)
    if module.padding_mode != "zeros":
        raise unsupported(
            f"module `{name}` ({kind} with padding_mode={module.padding_mode!r})", "use padding_mode='zeros'"
        )
    out, per_group, *kernel_size = module.weight.shape
    inputs, is_sequence = per_group * module.groups, isinstance(module, nn.Conv1d)
    if len(signal.shape) != 3 or signal.shape[0] != inputs or (is_sequence and signal.shape[1] != 1):
        allowed = f"({inputs}, 1, length)" if is_sequence else f"({inputs}, h, w)"
        raise UnsupportedError(f"module `{name}` ({kind}): gets shape {signal.shape}, allowed {allowed}")
    weight = to_array(module.weight, f"{name}.weight").reshape(out, per_group, *pair(kernel_size, along(module, 1)))
    stride, dilation = pair(module.stride, along(module, 1)), pair(module.dilation, along(module, 1))
    zeros = _conv_zeros(module, signal, weight.shape[2:], dilation)
    if zeros != NO_ZEROS and not isinstance(signal, FloatPopulation):
        require_unnormalised(signal, name)
    weight, padding, dilation = with_even_padding(weight, zeros, dilation)
    geometry = ConvGeometry(stride, padding, dilation, module.groups)
    kernel = (weight.shape[2], weight.shape[3])
    shape = (out, *geometry.output_size(within_zeros(signal), kernel))
    require_image(shape, f"module `{name}` ({kind})", signal)
    unpadded = signal if isinstance(signal, FloatPopulation) else each_part(signal, without_zeros)
    return drive(module, weight, unpadded, name, shape, geometry)


def _is_pointwise(module: nn.Conv2d | nn.Conv1d) -> bool:
    """Return whether a convolution weighs each pixel alone, and none that is padding."""
    is_unpadded = module.padding in ("same", "valid") or not any(pair(module.padding))
    return is_unpadded and all(size == 1 for size in module.weight.shape[2:])


def require_unnormalised(signal: Spikes, name: str) -> None:
    """Refuse zeros round what batch normalisation gives: in the weights behind it, its shift falls on them too."""
    for norm in norms_of(signal):
        raise UnsupportedError(
            f"module `{name}`: pads with zeros what the norm `{norm}` gives, allowed is padding of what an activation "
            "gives",
            hint=f"put nn.ReLU between `{norm}` and `{name}`, or `{norm}` between convolution and activation, or use "
            "padding=0; then nctool.prepare, and train again",
        )


def _conv_zeros(
    module: nn.Conv2d | nn.Conv1d, signal: Spikes | FloatPopulation, kernel: Shape, dilation: Pair
) -> Zeros:
    """Return all zeros round what a convolution reads: those of the padding before it, and its own."""
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        own = [(size // 2, size - size // 2) for size in total]
    else:
        own = [(size, size) for size in pair(0 if module.padding == "valid" else module.padding, along(module, 0))]
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


def without_negative(weight: FloatArray, zeros: Zeros, dilation: Pair) -> tuple[FloatArray, Zeros, Pair]:
    """Return kernels that compute the same on a whole image where `zeros` says how far its edge is cut off.

    Args:
        weight: float64 (out, in / groups, kernel height, kernel width).
        zeros: before and behind, along the height and along the width; negative where rows or columns are cut off.
        dilation: of the kernel.

    Returns:
        kernels with weights of 0 that fall on what was cut off, the zeros that are left, and the dilation.
    """
    dilations = list(dilation)
    for axis, (before, behind) in enumerate(zeros):
        if min(before, behind) < 0:
            weight, dilations[axis] = _undilated(weight, 2 + axis, dilations[axis]), 1
            taps = [(0, 0)] * 4
            taps[2 + axis] = (max(0, -before), max(0, -behind))
            weight = np.pad(weight, taps)
    rows, columns = ((max(0, before), max(0, behind)) for before, behind in zeros)
    return weight, (rows, columns), (dilations[0], dilations[1])


def _undilated(weight: FloatArray, axis: int, dilation: int) -> FloatArray:
    """Return kernels with the zeros between their weights that a dilation stands for."""
    lines = np.moveaxis(weight, axis, -1)
    spread = np.zeros((*lines.shape[:-1], dilation * (lines.shape[-1] - 1) + 1))
    spread[..., ::dilation] = lines
    return np.moveaxis(spread, -1, axis)


def drive(
    module: nn.Linear | nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d | nn.ConvTranspose1d,
    weight: FloatArray,
    signal: Spikes | FloatPopulation,
    name: str,
    shape: Shape,
    conv: ConvGeometry | None,
) -> Value:
    """Return what a linear layer makes of a signal, with the bias of its module.

    Args:
        module: for its bias.
        weight: float64, axes as in `nctool.ir.network.Synapse`.
        signal: what it reads.
        name: of the module.
        shape: of what it gives.
        conv: geometry of a convolution, None for a dense layer.
    """
    bias = np.zeros(shape[0]) if module.bias is None else to_array(module.bias, f"{name}.bias")
    return FloatPopulation(name, shape, _weighed(signal, name, weight, bias, conv))


def _weighed(
    signal: Spikes | FloatPopulation, name: str, weight: FloatArray, bias: FloatArray, conv: ConvGeometry | None
) -> tuple[FloatSynapse, ...]:
    if isinstance(signal, FloatPopulation):
        return compose(signal, name, weight, bias, conv)
    return synapses(signal, name, weight, bias, conv)


def zero_pad(module: nn.ConstantPad2d | nn.ConstantPad1d, value: Value, name: str) -> Value:
    """Keep zeros for the convolution or pooling that reads them; as many as are there already are added to them."""
    signal, kind = require_padded(value, name), type(module).__name__
    widths: tuple[int, ...] = module.padding
    if module.value != 0.0 or min(widths) < 0:
        raise unsupported(f"module `{name}` ({kind} with something else than zeros)", "pad with zeros")
    left, right, above, below = (*widths, 0, 0)[:4]
    image_shape(signal, name)
    return each_part(signal, lambda part: _padded(part, ((above, below), (left, right))))


def pad_channels(module: nn.ConstantPad3d, value: Value, name: str) -> Value:
    """Put channels of zeros beside those of an image: a weighted sum that hands on each channel at its place."""
    signal = value if isinstance(value, FloatPopulation) else require_spikes(value, name)
    before, behind = module.padding[4:]
    if module.value != 0.0 or any(module.padding[:4]) or min(before, behind) < 0 or len(signal.shape) != 3:
        raise unsupported(f"module `{name}` (ConstantPad3d)", "pad with channels of zeros, or use nn.ZeroPad2d")
    channels, *size = signal.shape
    weight = np.eye(before + channels + behind, channels, -before)[:, :, np.newaxis, np.newaxis]
    shape = (len(weight), *size)
    return FloatPopulation(name, shape, _weighed(signal, name, weight, np.zeros(len(weight)), ConvGeometry()))


def _padded(part: Signal, zeros: Zeros) -> Signal:
    (above, below), (left, right) = zeros
    (top, bottom), (first, last) = part.zeros
    channels, high, wide = part.shape
    shape = (channels, high + above + below, wide + left + right)
    return replace(part, shape=shape, zeros=((top + above, bottom + below), (first + left, last + right)))
