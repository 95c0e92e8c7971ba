"""Second moments of what drives a population: how much an error of a weight matters, and which errors cancel.

With signals x and an error d of the weights of a channel, the output is off by d x: mean square d' E[x x'] d. The mean
of it goes into the bias, so that the covariance of x is what remains.

In: signals on calibration data. Out: patches and their moments. Must not import torch, nor an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray
from nctool.conversion.quantise.copies import Distinct
from nctool.ir.network import ConvGeometry, Pair

ROWS = 4096
"""Patches that are looked at; a convolution has one for each sample and pixel, a dense layer one for each sample."""

NUMBERS = 2**25
"""Numbers that these patches may have together, 128 MiB: of more than 8192 weights a neuron, fewer are looked at."""

AT_ONCE = 2**21
"""Numbers of a signal that are looked at together, 16 MiB."""

DAMPING = 0.01
"""Part of the mean variance that is added to each: what calibration data do not show may still occur.
Source: Frantar et al., GPTQ, arXiv 2210.17323."""

SHRINKAGE = 0.1
"""Part of each covariance that is given up: a few hundred samples show more correlation than there is."""

Float32 = NDArray[np.float32]


class Rates(Protocol):
    """What a source sends on calibration data, the mean over the window; an array is one."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, samples: slice) -> FloatArray:
        """Return the rates of some samples, float64 (samples, *source shape)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the signals that the weights of one synapse multiply, group by group.

    Args:
        mean: float64 (groups, fan-in).
        centred: float32 (groups, patches, fan-in), the patches without their mean.
    """

    mean: FloatArray
    centred: Float32

    @property
    def share(self) -> float:
        """Return what the products of two centred signals, summed over the patches, count for in the covariance."""
        return (1 - SHRINKAGE) / self.centred.shape[1]

    def covariance(self, group: int) -> FloatArray:
        """Return the covariance of a group, float64 (fan-in, fan-in), regularised; all zero where no signal varies."""
        centred = self.centred[group]
        covariance: FloatArray = (centred.T @ centred).astype(np.float64)
        covariance /= len(centred)
        variance = np.diagonal(covariance).copy()
        covariance *= 1 - SHRINKAGE
        np.fill_diagonal(covariance, variance + DAMPING * variance.mean())
        return covariance

    def own(self, group: int) -> FloatArray:
        """Return what the diagonal of the covariance has beside products of signals, float64 (fan-in,)."""
        variance = np.einsum("pf,pf->f", self.centred[group], self.centred[group], dtype=np.float64)
        variance /= self.centred.shape[1]
        own: FloatArray = SHRINKAGE * variance + DAMPING * variance.mean()
        return own


def moments(patches: Float32) -> Moments:
    """Return the moments of float32 (groups, patches, fan-in)."""
    mean = patches.mean(axis=1, dtype=np.float64)
    return Moments(mean, patches - mean[:, np.newaxis].astype(np.float32))


def n_patches(synapses: Sequence[Distinct]) -> int:
    """Return how many patches the synapses of one population are looked at with: of as many neurons, and the same."""
    return max(1, min(ROWS, *(NUMBERS // (each.groups * int(each.weight[0].size)) for each in synapses)))


def extract(distinct: Distinct, rates: Rates, patches: int) -> Float32:
    """Return what the weights of one neuron see, of at most so many neurons, the same ones each time.

    Args:
        distinct: of the synapse that reads.
        rates: of its source.
        patches: how many at most.

    Returns:
        float32 (groups, patches, fan-in).
    """
    first = _seen(distinct, rates[:1])
    n_samples, (high, wide), fan_in = len(rates), first.shape[2:4], first[0, :, 0, 0].size
    total = n_samples * high * wide
    chosen = np.arange(total) if total <= patches else np.random.default_rng(0).integers(0, total, patches)
    sample, y, x = np.unravel_index(chosen, (n_samples, high, wide))
    found = np.empty((len(chosen), fan_in), np.float32)
    step = max(1, AT_ONCE // rates[:1].size)
    for start in range(0, n_samples, step):
        here = np.flatnonzero((start <= sample) & (sample < start + step))
        seen = _seen(distinct, rates[start : start + step])
        found[here] = seen[sample[here] - start, :, y[here], x[here]].reshape(len(here), fan_in)
    grouped = found.reshape(len(chosen), distinct.groups, -1)
    return np.ascontiguousarray(np.swapaxes(grouped, 0, 1))


def _seen(distinct: Distinct, signal: FloatArray) -> Float32:
    """Return a view of all patches that the weights meet (rules W1 and W2), (samples, channels, y, x, *kernel)."""
    gathered = distinct.gather(signal).astype(np.float32)
    conv = distinct.conv
    if conv is None:
        return gathered.reshape(len(gathered), -1, 1, 1, 1, 1)
    kernel: Pair = (distinct.weight.shape[2], distinct.weight.shape[3])
    return _windows(gathered, conv, kernel)


def _windows(signal: Float32, conv: ConvGeometry, kernel: Pair) -> Float32:
    """Return a view of all patches that a kernel meets, axes (samples, channels, y, x, *kernel)."""
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = conv.padding, conv.stride, conv.dilation
    padded = np.pad(signal, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    reach = ((kernel[0] - 1) * gap_y + 1, (kernel[1] - 1) * gap_x + 1)
    windows: Float32 = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))  # type: ignore[call-overload]  # numpy types want one axis
    return windows[:, :, ::step_y, ::step_x, ::gap_y, ::gap_x]
