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

from nctool.conversion.float_network import FloatArray, FloatSynapse
from nctool.ir.geometry import Places, inside
from nctool.ir.population import IntArray

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


def n_patches(synapses: Sequence[FloatSynapse]) -> int:
    """Return how many patches the synapses of one population are looked at with: of as many neurons, and the same."""
    return max(1, min(ROWS, *(NUMBERS // (synapse.groups * int(synapse.weight[0].size)) for synapse in synapses)))


def extract(synapse: FloatSynapse, rates: Rates, patches: int) -> Float32:
    """Return what the weights of one neuron see, of at most so many neurons, the same ones each time (rules W1 and W2).

    Args:
        synapse: that reads.
        rates: of its source.
        patches: how many at most.

    Returns:
        float32 (groups, patches, fan-in).
    """
    rows, columns = _places(synapse)
    total = len(rates) * len(rows) * len(columns)
    chosen = np.arange(total) if total <= patches else np.random.default_rng(0).integers(0, total, patches)
    sample, y, x = np.unravel_index(chosen, (len(rates), len(rows), len(columns)))
    seen = np.empty((len(chosen), synapse.summed_shape[0], rows.shape[1], columns.shape[1]), np.float32)
    step = max(1, AT_ONCE // rates[:1].size)
    for start in range(0, len(rates), step):
        here = np.flatnonzero((start <= sample) & (sample < start + step))
        summed = synapse.repeat.summed(rates[start : start + step]).astype(np.float32)
        image = summed.reshape(len(summed), summed.shape[1], *synapse.summed_shape[1:] or (1, 1))
        seen[here] = _patches(image, sample[here] - start, rows[y[here]], columns[x[here]])
    grouped = seen.reshape(len(chosen), synapse.groups, -1)
    return np.ascontiguousarray(np.swapaxes(grouped, 0, 1))


def _places(synapse: FloatSynapse) -> tuple[Places, Places]:
    """Return where the taps of each position fall; a dense synapse sees all of its source from one position."""
    if synapse.conv is not None:
        return synapse.conv.places(synapse.summed_shape, (synapse.weight.shape[2], synapse.weight.shape[3]))
    height, width = synapse.summed_shape[1:] or (1, 1)
    return np.arange(height)[np.newaxis], np.arange(width)[np.newaxis]


def _patches(image: Float32, sample: IntArray, rows: Places, columns: Places) -> Float32:
    """Return a patch of each of some samples, float32 (patches, channels, kernel height, kernel width)."""
    seen = inside(rows, image.shape[2])[:, :, np.newaxis] & inside(columns, image.shape[3])[:, np.newaxis]
    at = np.where(seen, rows[:, :, np.newaxis], 0), np.where(seen, columns[:, np.newaxis], 0)
    patches = image[sample[:, np.newaxis, np.newaxis], :, at[0], at[1]]
    return np.moveaxis(patches * seen[..., np.newaxis], -1, 1)
