"""Exact steps of the conversion: fold batch norm, average pooling, enlargements and spike values into the weights.

Each step is FloatNetwork -> FloatNetwork and equals its input up to float64 rounding.

In: a FloatNetwork. Out: a FloatNetwork. Must not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nctool.conversion.enlarging import fold_enlargement
from nctool.conversion.float_network import Enlargement, FloatArray, FloatNetwork, FloatPopulation, FloatSynapse, Pool
from nctool.conversion.input_encoding import EncodedInput
from nctool.errors import UnsupportedError
from nctool.ir.network import ConvGeometry


def fold_batch_norm(synapse: FloatSynapse) -> FloatSynapse:
    """Fold y = gain * (W x + b) + shift into the weights and the bias."""
    norm = synapse.norm
    if norm is None:
        return synapse
    gain = norm.gain.reshape(-1, *[1] * (synapse.weight.ndim - 1))
    return replace(synapse, weight=synapse.weight * gain, bias=synapse.bias * norm.gain + norm.shift, norm=None)


def fold_pooling(synapse: FloatSynapse) -> FloatSynapse:
    """Fold average poolings and enlargements into the weights behind them, the last one first.

    A kernel k behind a pooling of window w and stride p is a kernel (k - 1) p + w of stride s p; a dense layer
    spreads each weight over its window. Where the windows tile the image, each weight is kept once, with the block of
    pixels that share it. Other readers of what was pooled have synapses of their own.

    Raises:
        UnsupportedError: padding behind the pooling would meet pixels that the pooling dropped or shares, or the
            averages are enlarged.
    """
    for pool in reversed(synapse.pools):
        if isinstance(pool, Enlargement):
            synapse = fold_enlargement(synapse, pool)
            continue
        if synapse.conv is not None:
            _require_exact(synapse, pool, synapse.conv)
        synapse = _fold_one(synapse, pool)
    return replace(synapse, pools=())


def _require_exact(synapse: FloatSynapse, pool: Pool, conv: ConvGeometry) -> None:
    """Padding of the convolution stands for pooled zeros: the folded kernel must find no pixel there.

    Before the image that holds if the window is at most stride + padding, which clearance behind the image implies.
    """
    if conv.input_dilation != (1, 1):
        raise UnsupportedError(
            f"module `{pool.module}`: its averages are enlarged before `{synapse.module}` reads them, which has no "
            "exact form",
            hint=f"put nn.Conv2d and nn.ReLU right behind `{pool.module}`, and train again",
        )
    for axis in (0, 1):
        if conv.padding[axis] == 0:
            continue
        if pool.output[1 + axis] * pool.stride[axis] - pool.padding[axis] < pool.source[1 + axis]:
            raise UnsupportedError(
                f"module `{pool.module}`: pooling {pool.kernel} stride {pool.stride} of {pool.source[1:]} has no exact "
                f"form before the padded convolution `{synapse.module}`",
                hint="let the pooling windows tile the image without remainder or overlap, or use padding=0 behind it",
            )


@dataclass(frozen=True, eq=False)
class _Axis:
    """Weights along the height or the width of what they read.

    Args:
        weight: float64, 4 axes.
        axis: 2 for the height, 3 for the width.
        stride, padding, dilation: of the kernel, in blocks.
        block: pixels that share each weight.
    """

    weight: FloatArray
    axis: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    block: int = 1

    def on_pixels(self) -> _Axis:
        """Return the same with a weight for each pixel."""
        weight = np.repeat(self.weight, self.block, axis=self.axis)
        return replace(self, weight=weight, stride=self.stride * self.block, padding=self.padding * self.block, block=1)

    def behind(self, window: int, stride: int, padding: int) -> _Axis:
        """Return the kernel that is this one behind a pooling: each weight stands at each pixel of its window."""
        lines = np.moveaxis(self.weight, self.axis, -1)
        step = self.dilation * stride
        reach = step * (lines.shape[-1] - 1) + 1
        spread = np.zeros((*lines.shape[:-1], reach + window - 1))
        for offset in range(window):
            spread[..., offset : offset + reach : step] += lines
        weight = np.moveaxis(spread, -1, self.axis)
        return replace(
            self, weight=weight, stride=self.stride * stride, padding=self.padding * stride + padding, dilation=1
        )

    def within(self, size: int) -> _Axis:
        """Return dense weights for the blocks of an image, 0 where no window lies, without those on padding."""
        lines = np.moveaxis(self.weight, self.axis, 0)[self.padding :][:size]
        missing = np.zeros((size - len(lines), *lines.shape[1:]))
        return replace(self, weight=np.moveaxis(np.concatenate([lines, missing]), 0, self.axis), padding=0)


def _fold_one(synapse: FloatSynapse, pool: Pool) -> FloatSynapse:
    conv, before = synapse.conv or ConvGeometry(), synapse.repeat.summed_shape(pool.output)
    weight = synapse.weight / pool.divisor
    if synapse.conv is None:
        weight = weight.reshape(len(weight), -1, *before[1:])
    axes = []
    for k in (0, 1):
        axis = _Axis(weight, 2 + k, conv.stride[k], conv.padding[k], conv.dilation[k], synapse.repeat.block[k])
        axes.append(_fold_axis(axis, pool, synapse.conv is None))
        weight = axes[-1].weight
    high, wide = axes
    repeat = replace(synapse.repeat, block=(high.block, wide.block))
    if synapse.conv is None:
        return replace(synapse, weight=weight.reshape(len(weight), -1), repeat=repeat)
    geometry = ConvGeometry((high.stride, wide.stride), (high.padding, wide.padding), groups=conv.groups)
    return replace(synapse, weight=weight, conv=geometry, repeat=repeat)


def _fold_axis(along: _Axis, pool: Pool, is_dense: bool) -> _Axis:
    """Fold what a pooling does along one axis: sums over tiles, and of these a pooling with a smaller window."""
    k = along.axis - 2
    size, window, stride, padding = pool.source[1 + k], pool.kernel[k], pool.stride[k], pool.padding[k]
    if is_dense and pool.output[1 + k] == 1:
        stride = window  # a window alone may move by any step
    must_divide = size if is_dense or padding or along.padding else 0
    tile = math.gcd(window, stride, padding, must_divide)
    smaller = (window // tile, stride // tile, padding // tile)
    if smaller != (1, 1, 0):
        along = along.on_pixels()
    folded = replace(along.behind(*smaller), block=tile * along.block)
    return folded.within(size // folded.block) if is_dense else folded


def absorb_spike_values(network: FloatNetwork, encoded: EncodedInput) -> FloatNetwork:
    """Scale the weights by what one spike, or one unit of graded input, is worth."""
    values = {encoded.name: encoded.step} | {p.name: spike_value(p) for p in network.populations}
    return replace(network, populations=tuple(absorb(p, values) for p in network.populations))


def spike_value(population: FloatPopulation) -> FloatArray:
    """Return what a spike of each channel is worth, float64 (channels,): its threshold, shared by its replicas."""
    threshold = population.threshold
    return np.zeros(len(population.bias)) if threshold is None else threshold / population.replicas


def absorb(population: FloatPopulation, values: Mapping[str, FloatArray]) -> FloatPopulation:
    """Scale what a population reads by what a signal of its sources is worth; a maximum counts spikes.

    Args:
        values: float64 (channels,) by source.
    """
    if population.maximum:
        return population
    scaled = (replace(s, weight=s.weight * s.per_weight(values[s.source])) for s in population.synapses)
    return replace(population, synapses=tuple(scaled))
