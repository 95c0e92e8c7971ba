"""Bounds: what the accumulated input of a population can reach within a window (rule O1).

Proved bounds are interval arithmetic on the weights: they hold for every input. Calibrated bounds come from
`nctool.conversion.quantise.calibration`: they hold for its data, widened by a margin.

In: integer populations. Out: intervals in weight units. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nctool.ir.inputs import Input
from nctool.ir.network import (
    INPUT_NAME,
    Bound,
    BoundKind,
    IntArray,
    IntegrateFire,
    IntNetwork,
    Population,
    Synapse,
)

Interval = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Range:
    """Per channel, the smallest and largest accumulated input: int64 (channels,) each, low <= 0 <= high."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]

    @property
    def magnitude(self) -> NDArray[np.int64]:
        """Return the largest magnitude per channel."""
        return np.maximum(self.high, -self.low)

    def bound(self, kind: BoundKind, margin: float = 1.0) -> Bound:
        """Return the range of the whole population, widened by `margin`."""
        low, high = int(np.floor(self.low.min() * margin)), int(np.ceil(self.high.max() * margin))
        return Bound(kind, low, high, margin)


def prove(network: IntNetwork) -> dict[str, Range]:
    """Return the proved range of every population of `network` over its window; a current-based one has none."""
    populations = (p for p in network.populations if p.neuron.is_bounded)
    return {p.name: prove_population(p, network.input, network.n_steps) for p in populations}


def prove_population(population: Population, encoding: Input, n_steps: int) -> Range:
    """Bound the accumulated input of `population` for every input it could get (rules S1 to S3).

    Follows the interval that holds all membrane potentials from step to step.
    """
    drive_low, drive_high = drive_interval(population, encoding)
    neuron = population.neuron
    low = high = start = population.start
    least, most = np.zeros_like(low), np.zeros_like(high)
    for _ in range(n_steps):
        low, high = low + drive_low, high + drive_high
        least, most = np.minimum(least, low - start), np.maximum(most, high - start)
        if isinstance(neuron, IntegrateFire):
            low, high = _after_fire(low, high, neuron)
    return Range(least, most)


def _after_fire(low: IntArray, high: IntArray, neuron: IntegrateFire) -> Interval:
    """Return the interval of potentials after rules S2 and S3, from the interval before them."""
    threshold = neuron.threshold.astype(np.int64)
    removed = threshold if neuron.reset == "subtract" else None
    fired_low = np.zeros_like(low) if removed is None else np.maximum(low, threshold) - removed
    fired_high = np.zeros_like(high) if removed is None else high - removed
    may_fire, may_rest = high >= threshold, low < threshold
    after_low = np.where(may_rest, np.where(may_fire, np.minimum(low, fired_low), low), fired_low)
    rest_high = np.minimum(high, threshold - 1)
    after_high = np.where(may_fire, np.where(may_rest, np.maximum(rest_high, fired_high), fired_high), high)
    return after_low, after_high


def drive_interval(population: Population, encoding: Input) -> Interval:
    """Return the smallest and largest drive per channel in one step: weighted input plus bias."""
    low = high = population.bias.astype(np.int64)
    for synapse in population.synapses:
        added_low, added_high = _synapse_interval(synapse, encoding)
        low, high = low + added_low, high + added_high
    return low, high


def _synapse_interval(synapse: Synapse, encoding: Input) -> Interval:
    """Sum, per output channel, the worst contribution of each weight; a tap may also fall on padding (0).

    Of taps of which some see zeros between the neurons, only those count that see none at the same time.
    """
    lows, highs = zip(*(_sums(synapse, weight, encoding) for weight in _weights_at_once(synapse)), strict=True)
    shift = max(synapse.exponent, 0)
    return np.minimum.reduce(lows) << shift, np.maximum.reduce(highs) << shift


def _weights_at_once(synapse: Synapse) -> Iterator[IntArray]:
    """Yield weights that may all see neurons, 0 in place of the others."""
    conv, weight = synapse.conv, synapse.weight
    if conv is None or conv.input_dilation == (1, 1):
        yield weight
        return
    for taps in conv.phases((weight.shape[2], weight.shape[3])):
        yield weight * taps


def _sums(synapse: Synapse, weight: IntArray, encoding: Input) -> Interval:
    raising, lowering = (bound(weight, 0) for bound in (np.maximum, np.minimum))
    axes = tuple(range(1, weight.ndim))
    if synapse.source != INPUT_NAME:  # spikes, 0 or 1
        low, high = (values.sum(axis=axes, dtype=np.int64) for values in (lowering, raising))
        return low, high
    lowest, highest = _input_interval(synapse, encoding)
    low = (raising * lowest + lowering * highest).sum(axis=axes)
    high = (raising * highest + lowering * lowest).sum(axis=axes)
    return low, high


def _input_interval(synapse: Synapse, encoding: Input) -> Interval:
    """Return bounds of what each weight multiplies, low <= 0 <= high, shaped to broadcast over the weight."""
    low, high = encoding.channel_range()
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if synapse.conv is None:
        per_channel = int(np.prod(encoding.shape[1:]))
        return np.repeat(low, per_channel), np.repeat(high, per_channel)
    channel = synapse.conv.source_channels(synapse.weight.shape)
    return low[channel][:, :, np.newaxis, np.newaxis], high[channel][:, :, np.newaxis, np.newaxis]


def with_bounds(network: IntNetwork, bounds: Mapping[str, Bound]) -> IntNetwork:
    """Return `network` with the bound of each population set."""
    populations = tuple(replace(p, bound=bounds[p.name]) for p in network.populations)
    return replace(network, populations=populations)
