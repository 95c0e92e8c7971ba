"""Second moments of what drives a population: how much an error of a weight matters, and which errors cancel.

With signals x and an error d of the weights of a channel, the output is off by d x: mean square d' E[x x'] d. The mean
of it goes into the bias, so that the covariance of x is what remains.

In: signals on calibration data. Out: patches and their moments. Must not import torch, nor an engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.copies import Distinct
from nctool.conversion.float_network import FloatArray
from nctool.network import ConvGeometry, Pair

ROWS = 4096
"""Patches that are looked at; a convolution has one for each sample and pixel, a dense layer one for each sample."""

DAMPING = 0.01
"""Part of the mean variance that is added to each: what calibration data do not show may still occur.
Source: Frantar et al., GPTQ, arXiv 2210.17323."""

SHRINKAGE = 0.1
"""Part of each covariance that is given up: a few hundred samples show more correlation than there is."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the signals that the weights of one synapse multiply, group by group.

    Args:
        mean: float64 (groups, fan-in).
        covariance: float64 (groups, fan-in, fan-in), regularised; all zero where no signal varies.
    """

    mean: FloatArray
    covariance: FloatArray


def moments(patches: Float32) -> Moments:
    """Return the moments of float32 (groups, rows, fan-in)."""
    rows, fan_in = patches.shape[1:]
    mean = patches.mean(axis=1, dtype=np.float64)
    centred = patches - mean[:, np.newaxis].astype(np.float32)
    covariance = (np.swapaxes(centred, 1, 2) @ centred).astype(np.float64) / rows
    diagonal = np.arange(fan_in)
    variance = covariance[:, diagonal, diagonal]
    covariance *= 1 - SHRINKAGE
    covariance[:, diagonal, diagonal] = variance + DAMPING * variance.mean(axis=1, keepdims=True)
    return Moments(mean, covariance)


def extract(distinct: Distinct, signal: FloatArray) -> Float32:
    """Return patches of a signal: what the weights of one neuron see, of at most ROWS neurons, the same ones each time.

    Args:
        distinct: of the synapse that reads.
        signal: (samples, *source shape).

    Returns:
        float32 (groups, rows, fan-in).
    """
    gathered = distinct.gather(signal).astype(np.float32)
    if distinct.conv is None:
        return gathered.reshape(1, len(gathered), -1)
    kernel: Pair = (distinct.weight.shape[2], distinct.weight.shape[3])
    seen = _windows(gathered, distinct.conv, kernel)  # (samples, channels, y, x, *kernel)
    samples, _, high, wide = seen.shape[:4]
    total = samples * high * wide
    chosen = np.arange(total) if total <= ROWS else np.random.default_rng(0).integers(0, total, ROWS)
    sample, y, x = np.unravel_index(chosen, (samples, high, wide))
    rows = seen[sample, :, y, x].reshape(len(chosen), distinct.conv.groups, -1)
    return np.ascontiguousarray(np.swapaxes(rows, 0, 1))


def _windows(signal: Float32, conv: ConvGeometry, kernel: Pair) -> Float32:
    """Return a view of all patches that a kernel meets (rule W2), axes (samples, channels, y, x, *kernel)."""
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = conv.padding, conv.stride, conv.dilation
    padded = np.pad(signal, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    reach = ((kernel[0] - 1) * gap_y + 1, (kernel[1] - 1) * gap_x + 1)
    windows: Float32 = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))  # type: ignore[call-overload]  # numpy types want one axis
    return windows[:, :, ::step_y, ::step_x, ::gap_y, ::gap_x]
