"""Exact steps of the conversion: fold batch norm, average pooling and spike values into the weights.

Each step is FloatNetwork -> FloatNetwork and equals its input up to float64 rounding.

In: a FloatNetwork. Out: a FloatNetwork. Must not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import CodedInput, FloatArray, FloatNetwork, FloatSynapse, Pool
from nctool.errors import RangeError, UnsupportedError
from nctool.ir.network import ConvGeometry, InputEncoding, Pair, Shape

INPUT_MAX = 127
"""Graded inputs stay within -127..127; -128 stays free so that the range is symmetric."""


def each(network: FloatNetwork, step: Callable[[FloatSynapse], FloatSynapse]) -> FloatNetwork:
    """Apply `step` to every synapse."""
    populations = (replace(p, synapses=tuple(step(synapse) for synapse in p.synapses)) for p in network.populations)
    return replace(network, populations=tuple(populations))


def fold_batch_norm(synapse: FloatSynapse) -> FloatSynapse:
    """Fold y = gain * (W x + b) + shift into the weights and the bias."""
    norm = synapse.norm
    if norm is None:
        return synapse
    gain = norm.gain.reshape(-1, *[1] * (synapse.weight.ndim - 1))
    return replace(synapse, weight=synapse.weight * gain, bias=synapse.bias * norm.gain + norm.shift, norm=None)


def fold_pooling(synapse: FloatSynapse) -> FloatSynapse:
    """Fold average poolings into the weights behind them, the last one first.

    A kernel k behind a pooling of window w and stride p is a kernel (k - 1) p + w of stride s p; a dense layer
    spreads each weight over its window. Other readers of what was pooled have synapses of their own.

    Raises:
        UnsupportedError: padding behind the pooling would meet pixels that the pooling dropped or shares.
    """
    for pool in reversed(synapse.pools):
        if synapse.conv is None:
            synapse = _pool_into_dense(synapse, pool)
        else:
            synapse = _pool_into_conv(synapse, pool, synapse.conv)
    return replace(synapse, pools=())


def _pool_into_dense(synapse: FloatSynapse, pool: Pool) -> FloatSynapse:
    channels, high, wide = pool.source
    out, (pooled_high, pooled_wide) = len(synapse.weight), pool.output[1:]
    share = synapse.weight.reshape(out, channels, pooled_high, pooled_wide) / pool.divisor
    pad_y, pad_x = pool.padding
    spread = np.zeros((out, channels, high + 2 * pad_y, wide + 2 * pad_x))
    for y in range(pool.kernel[0]):
        for x in range(pool.kernel[1]):
            rows = slice(y, y + pool.stride[0] * (pooled_high - 1) + 1, pool.stride[0])
            columns = slice(x, x + pool.stride[1] * (pooled_wide - 1) + 1, pool.stride[1])
            spread[:, :, rows, columns] += share
    inner = spread[:, :, pad_y : pad_y + high, pad_x : pad_x + wide]
    return replace(synapse, weight=inner.reshape(out, math.prod(pool.source)))


def _pool_into_conv(synapse: FloatSynapse, pool: Pool, conv: ConvGeometry) -> FloatSynapse:
    _require_exact(synapse, pool, conv)
    kernel: Pair = (synapse.weight.shape[2], synapse.weight.shape[3])
    step_y, step_x = (d * s for d, s in zip(conv.dilation, pool.stride, strict=True))
    size = [(k - 1) * step + w for k, step, w in zip(kernel, (step_y, step_x), pool.kernel, strict=True)]
    weight = np.zeros((*synapse.weight.shape[:2], *size))
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            tap = synapse.weight[:, :, y, x, np.newaxis, np.newaxis] / pool.divisor
            weight[:, :, y * step_y : y * step_y + pool.kernel[0], x * step_x : x * step_x + pool.kernel[1]] += tap
    geometry = ConvGeometry(
        stride=_pairwise(lambda s, p: s * p, conv.stride, pool.stride),
        padding=_pairwise(lambda a, b: a + b, _pairwise(lambda q, p: q * p, conv.padding, pool.stride), pool.padding),
        groups=conv.groups,
    )
    return replace(synapse, weight=weight, conv=geometry)


def _require_exact(synapse: FloatSynapse, pool: Pool, conv: ConvGeometry) -> None:
    """Padding of the convolution stands for pooled zeros: the folded kernel must find no pixel there.

    Before the image that holds if the window is at most stride + padding, which clearance behind the image implies.
    """
    for axis in (0, 1):
        if conv.padding[axis] == 0:
            continue
        if pool.output[1 + axis] * pool.stride[axis] - pool.padding[axis] < pool.source[1 + axis]:
            raise UnsupportedError(
                f"module `{pool.module}`: pooling {pool.kernel} stride {pool.stride} of {pool.source[1:]} has no exact "
                f"form before the padded convolution `{synapse.module}`",
                hint="let the pooling windows tile the image without remainder or overlap, or use padding=0 behind it",
            )


def _pairwise(combine: Callable[[int, int], int], one: Pair, other: Pair) -> Pair:
    return combine(one[0], other[0]), combine(one[1], other[1])


def normalised_pixels(shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]) -> FloatArray:
    """Return (p / 255 - mean) / std for the pixels p = 0..255, float64 (channels, 256).

    Args:
        shape: shape of one sample; its first axis has len(mean) channels, or is flat with one mean.
        mean, std: per channel, in units of pixel / 255.

    Raises:
        RangeError: there is not one mean and one deviation > 0 for each channel.
    """
    channels = shape[0]
    if not {len(mean), len(std)} <= {1, channels} or min(std) <= 0:
        raise RangeError(
            f"input: mean {mean} and deviation {std}, allowed one or {channels} of each, deviations above 0"
        )
    means, stds = (np.broadcast_to(np.asarray(values, np.float64), channels) for values in (mean, std))
    real: FloatArray = (np.arange(256) / 255 - means[:, np.newaxis]) / stds[:, np.newaxis]
    return real


def encode_input(shape: Shape, mean: tuple[float, ...], std: tuple[float, ...], largest: int = INPUT_MAX) -> CodedInput:
    """Tabulate the normalised pixel (p / 255 - mean) / std as an 8-bit integer times a step per channel.

    Args:
        shape, mean, std: as for `normalised_pixels`.
        largest: magnitude of the largest integer, 1..127.

    Raises:
        RangeError: as `normalised_pixels`.
    """
    real = normalised_pixels(shape, mean, std)
    step = np.abs(real).max(axis=1) / largest
    table = np.rint(real / step[:, np.newaxis]).astype(np.int8)
    return CodedInput(InputEncoding(shape, table), step, real)


def absorb_spike_values(network: FloatNetwork, coded: CodedInput) -> FloatNetwork:
    """Scale the weights by what one spike, or one unit of graded input, is worth.

    A spike of a population is worth its threshold, shared by its units; one unit or spike of the input its step.
    """
    values: dict[str, FloatArray] = {coded.name: coded.step}
    spiking = ((p, p.threshold) for p in network.populations if p.threshold is not None)
    values |= {p.name: np.full(p.shape[0], threshold / p.units) for p, threshold in spiking}
    return each(network, lambda synapse: _scale_inputs(synapse, values))


def _scale_inputs(synapse: FloatSynapse, values: Mapping[str, FloatArray]) -> FloatSynapse:
    return replace(synapse, weight=synapse.weight * per_weight(synapse, values[synapse.source]))


def per_weight(synapse: FloatSynapse, values: NDArray[Any]) -> NDArray[Any]:
    """Spread a value of each channel of the source, (channels,), over the weights that read it, to broadcast."""
    if synapse.conv is None:
        return np.repeat(values, math.prod(synapse.source_shape[1:]))
    out, group_size = synapse.weight.shape[:2]
    group = np.arange(out) // (out // synapse.conv.groups)
    channel = group[:, np.newaxis] * group_size + np.arange(group_size)
    return values[channel][:, :, np.newaxis, np.newaxis]
