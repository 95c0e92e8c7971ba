"""Fold enlargements into the weights behind them: a kernel on the enlarged image is a larger one on spread neurons.

An image that is enlarged by s, every neuron into a block of s x s, is the image with s - 1 zeros between its neurons
behind a kernel of ones; one that is shuffled has such a kernel for each channel, with one tap. Both kernels end where
the enlarged image ends, so that padding behind them stands for zeros still, and two kernels one behind the other are
one: exactly.

In: a FloatSynapse that reads what is enlarged. Out: one that reads what was there before. Must not import torch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nctool.conversion.float_network import Enlargement, FloatArray, FloatSynapse
from nctool.ir.geometry import ConvGeometry, Pair
from nctool.ir.repeat import NO_REPEAT


def fold_enlargement(synapse: FloatSynapse, by: Enlargement) -> FloatSynapse:
    """Return the synapse on the source of an enlargement, of one on what it gives."""
    synapse = _without_blocks(synapse, by)
    if synapse.conv is None:
        return replace(synapse, weight=_dense(synapse.weight, by))
    weight, conv = synapse.weight, synapse.conv
    fold = _shuffled if by.shuffles else _widened
    return replace(synapse, weight=fold(weight, conv, by.factor), conv=_on_source(conv, by.factor))


def _without_blocks(synapse: FloatSynapse, by: Enlargement) -> FloatSynapse:
    """Give each pixel weights of its own."""
    conv = None if synapse.conv is None else synapse.repeat.on_neurons(synapse.conv)
    return replace(synapse, weight=synapse.repeat.spread(synapse.weight, by.output), conv=conv, repeat=NO_REPEAT)


def _on_source(conv: ConvGeometry, factor: Pair) -> ConvGeometry:
    """Return the geometry of the folded kernel; one step on the enlarged image is `conv.input_dilation` long."""
    (rows, columns), (high, wide) = conv.input_dilation, factor
    padding = (conv.padding[0] + rows * (high - 1), conv.padding[1] + columns * (wide - 1))
    return replace(conv, padding=padding, dilation=(1, 1), input_dilation=(rows * high, columns * wide))


def _widened(weight: FloatArray, conv: ConvGeometry, factor: Pair) -> FloatArray:
    """Return kernels that add up what the given ones see in each place of a block."""
    for k in (0, 1):
        weight = widened(weight, 2 + k, factor[k], conv.input_dilation[k], conv.dilation[k])
    return weight


def widened(weight: FloatArray, axis: int, window: int, stride: int, dilation: int) -> FloatArray:
    """Return kernels that add up what the given ones see at each place of a window, along one axis."""
    lines = np.moveaxis(weight, axis, -1)
    reach = dilation * (lines.shape[-1] - 1) + 1
    wide = np.zeros((*lines.shape[:-1], (window - 1) * stride + reach))
    for place in range(window):
        wide[..., place * stride : place * stride + reach : dilation] += lines
    return np.moveaxis(wide, -1, axis)


def _shuffled(weight: FloatArray, conv: ConvGeometry, factor: Pair) -> FloatArray:
    """Return kernels with one for each channel that gives a pixel of a block, shifted to where this pixel is."""
    (rows, columns), (high, wide) = conv.input_dilation, factor
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, weight.shape[2:], strict=True)]
    sizes = (reach[0] + rows * (high - 1), reach[1] + columns * (wide - 1))
    kernels = np.zeros((*weight.shape[:2], high, wide, *sizes))
    for i in range(high):
        for j in range(wide):
            top, left = rows * (high - 1 - i), columns * (wide - 1 - j)
            here = kernels[:, :, i, j, top : top + reach[0], left : left + reach[1]]
            here[:, :, :: conv.dilation[0], :: conv.dilation[1]] = weight
    return kernels.reshape(len(weight), -1, *sizes)


def _dense(weight: FloatArray, by: Enlargement) -> FloatArray:
    """Return the weights of each neuron before the enlargement: those of its block, or of the pixel that it gives."""
    channels, height, width = by.output
    (high, wide), out = by.factor, len(weight)
    blocks = weight.reshape(out, channels, height // high, high, width // wide, wide)
    if by.shuffles:
        return np.ascontiguousarray(blocks.transpose(0, 1, 3, 5, 2, 4)).reshape(out, -1)
    return np.asarray(blocks.sum(axis=(3, 5))).reshape(out, -1)
