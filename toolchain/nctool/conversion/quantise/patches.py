"""What the synapses of a population see on calibration data: patches of their sources, one for each of some neurons.

In: a FloatPopulation, the rates of its sources. Out: patches with their weights. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nctool.compiled import failure
from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.conversion.quantise.covariance import Factor, Float32, factor, moments
from nctool.ir.geometry import Places, inside
from nctool.ir.population import IntArray

ROWS = 4096
"""Patches that are looked at; a convolution has one for each sample and pixel, a dense layer one for each sample."""

NUMBERS = 2**25
"""Numbers that these patches may have together, 128 MiB: of more than 8192 weights a neuron, fewer are looked at."""

AT_ONCE = 2**21
"""Numbers of a signal that are looked at together, 16 MiB."""


COMPILED = "nctool.conversion.quantise.fused"
"""Where the compiled loops are."""


class Rates(Protocol):
    """Mean signals of a source over the window, on calibration data; an array is one such."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, samples: slice) -> FloatArray:
        """Return the rates of some samples, float64 (samples, *source shape)."""


@dataclass(frozen=True, eq=False)
class View:
    """What one synapse sees on calibration data.

    Args:
        synapse: which one.
        patches: float32 (groups, rows, fan-in); row r of every synapse of a population is of the same neuron.
    """

    synapse: FloatSynapse
    patches: Float32

    @cached_property
    def mean(self) -> FloatArray:
        """Return the mean of the patches, float64 (groups, fan-in)."""
        mean: FloatArray = self.patches.mean(axis=1, dtype=np.float64)
        return mean

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """Return the factor of the covariance of each group."""
        of_all = moments(self.patches, self.mean)
        return tuple(factor(of_all, group) for group in range(len(self.patches)))

    def by_group(self, weight: FloatArray) -> FloatArray:
        """Return weights as (groups, out / groups, fan-in)."""
        return weight.reshape(len(self.patches), -1, self.patches.shape[2])

    def output(self, weight: FloatArray) -> Float32:
        """Weigh the patches; float32 (rows, out)."""
        weighted = self.patches @ np.swapaxes(self.by_group(weight).astype(np.float32), 1, 2)
        return np.swapaxes(weighted, 0, 1).reshape(weighted.shape[1], -1)

    def mean_output(self, weight: FloatArray) -> FloatArray:
        """Weigh the mean of the patches; float64 (out,)."""
        mean: FloatArray = np.einsum("gof,gf->go", self.by_group(weight), self.mean)
        return mean.reshape(-1)

    def error(self, rounded: IntArray, scale: FloatArray) -> FloatArray:
        """Return what rounding at a scale, (out,), added to each weight, in real units."""
        error: FloatArray = rounded / column(scale, rounded) - self.synapse.weight
        return error


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of a population that are looked at, one for each patch.

    Args:
        sample, y, x: int64 (patches,); of a dense layer, y and x are 0.
    """

    sample: IntArray
    y: IntArray
    x: IntArray


def views(population: FloatPopulation, rates: Callable[[str], Rates]) -> tuple[View, ...]:
    """Return what every synapse of `population` sees.

    Args:
        rates: gives those of a source by its name.
    """
    first = population.synapses[0]
    neurons = choose_neurons(population.synapses, len(rates(first.source)))
    return tuple(View(s, extract(s, rates(s.source), neurons)) for s in population.synapses)


def choose_neurons(synapses: Sequence[FloatSynapse], samples: int, most: int = ROWS) -> Neurons:
    """Return the neurons that are looked at, the same for all synapses of one population and each time.

    Args:
        samples: of the calibration data.
        most: how many at most.
    """
    patches = most_neurons(synapses, most)
    rows, columns = _taps(synapses[0])
    total = samples * len(rows) * len(columns)
    if total <= patches:
        return all_neurons(synapses, samples)
    chosen = np.random.default_rng(0).integers(0, total, patches)
    return Neurons(*np.unravel_index(chosen, (samples, len(rows), len(columns))))


def all_neurons(synapses: Sequence[FloatSynapse], samples: int) -> Neurons:
    """Return all neurons of one channel, sample by sample."""
    rows, columns = _taps(synapses[0])
    shape = (samples, len(rows), len(columns))
    return Neurons(*np.unravel_index(np.arange(np.prod(shape)), shape))


def most_neurons(synapses: Sequence[FloatSynapse], most: int = ROWS) -> int:
    """Return how many neurons may be looked at together: `most`, fewer where they have many weights."""
    return max(1, min(most, *(NUMBERS // (synapse.groups * int(synapse.weight[0].size)) for synapse in synapses)))


def choose_windows(maximum: FloatSynapse, samples: int, most: int = ROWS) -> tuple[Neurons, NDArray[np.bool_]]:
    """Return neurons that a maximum takes together, window by window, and which of them are none but padding.

    Args:
        maximum: its synapse; weights of 1 are taps.
        samples: of the calibration data.
        most: neurons at most.

    Returns:
        the neurons, padding at the nearest place within the image; bool (windows, neurons of a window).
    """
    rows, columns = _taps(maximum)
    tap_rows, tap_columns = np.nonzero(maximum.weight[0, 0])
    total = samples * len(rows) * len(columns)
    windows = max(1, min(total, most // len(tap_rows)))
    chosen = np.random.default_rng(0).choice(total, windows, replace=False) if windows < total else np.arange(total)
    sample, y, x = np.unravel_index(chosen, (samples, len(rows), len(columns)))
    y, x = rows[y][:, tap_rows], columns[x][:, tap_columns]
    height, width = maximum.source_shape[1:]
    padding = ~(inside(y, height) & inside(x, width))
    at = (np.clip(y, 0, height - 1).reshape(-1), np.clip(x, 0, width - 1).reshape(-1))
    return Neurons(sample.repeat(len(tap_rows)), *at), padding


def extract(synapse: FloatSynapse, rates: Rates, neurons: Neurons) -> Float32:
    """Return what the weights of each chosen neuron see (rules W1 and W2).

    Args:
        synapse: that reads.
        rates: of its source.
        neurons: one for each patch.

    Returns:
        float32 (groups, patches, fan-in).
    """
    rows, columns = _taps(synapse)
    sample, y, x = neurons.sample, neurons.y, neurons.x
    seen = np.empty((len(sample), synapse.summed_shape[0], rows.shape[1], columns.shape[1]), np.float32)
    gather = _gathering()
    step = max(1, AT_ONCE // rates[:1].size)
    for start in range(0, int(sample.max()) + 1, step):
        here = np.flatnonzero((start <= sample) & (sample < start + step))
        summed = synapse.repeat.summed(rates[start : start + step])
        image = summed.reshape(len(summed), summed.shape[1], *synapse.summed_shape[1:] or (1, 1))
        last = np.ascontiguousarray(np.moveaxis(image, 1, -1), np.float32)
        gather(last, sample[here] - start, rows[y[here]], columns[x[here]], here, seen)
    grouped = seen.reshape(len(sample), synapse.groups, -1)
    return np.ascontiguousarray(np.swapaxes(grouped, 0, 1))


def _gathering() -> Callable[[Any, Any, Any, Any, Any, Any], None]:
    """Return what copies patches: a compiled loop where there is one."""
    if failure(COMPILED) is not None:
        return plain_gather
    from nctool.conversion.quantise.fused import gather

    found: Callable[[Any, Any, Any, Any, Any, Any], None] = gather
    return found


def _taps(synapse: FloatSynapse) -> tuple[Places, Places]:
    """Return where the taps of each position fall; a dense synapse sees all of its source from one position."""
    if synapse.conv is not None:
        return synapse.conv.places(synapse.summed_shape, (synapse.weight.shape[2], synapse.weight.shape[3]))
    height, width = synapse.summed_shape[1:] or (1, 1)
    return np.arange(height)[np.newaxis], np.arange(width)[np.newaxis]


def plain_gather(
    image: Float32, sample: IntArray, rows: Places, columns: Places, here: IntArray, patches: Float32
) -> None:
    """Copy what some neurons see, 0 for padding.

    Args:
        image: (samples, height, width, channels).
        sample: of each neuron, (neurons,).
        rows, columns: where its taps fall, (neurons, kernel height), (neurons, kernel width).
        here: the patch of each neuron, (neurons,).
        patches: (patches, channels, kernel height, kernel width), some of them are filled.
    """
    seen = inside(rows, image.shape[1])[:, :, np.newaxis] & inside(columns, image.shape[2])[:, np.newaxis]
    at = np.where(seen, rows[:, :, np.newaxis], 0), np.where(seen, columns[:, np.newaxis], 0)
    found = image[sample[:, np.newaxis, np.newaxis], at[0], at[1]]
    found[~seen] = 0
    patches[here] = np.moveaxis(found, -1, 1)


def column(values: FloatArray, like: FloatArray | IntArray) -> FloatArray:
    """Return a value for each channel, (channels,), shaped to broadcast over weights like `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
