"""Bounds: what the accumulated input of a population can reach within a window (rule O1).

Proved bounds are interval arithmetic on the weights: they hold for every input. Calibrated bounds come from
`nctool.conversion.quantise.calibration`: they hold for its data, widened by a margin.

In: integer populations. Out: intervals in weight units. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from nctool.ir.inputs import Input
from nctool.ir.network import (
    INPUT_NAME,
    PAYLOAD_LIMIT,
    Bound,
    BoundKind,
    IntArray,
    IntegrateFire,
    IntNetwork,
    Population,
    Synapse,
)

Interval = tuple[NDArray[np.int64], NDArray[np.int64]]

Payloads = Mapping[str, NDArray[np.int64]]
"""The largest number that a spike of each channel carries, int64 (channels,) by graded source."""

BINARY: Payloads = MappingProxyType({})
"""Of a network without graded spikes: every spike is 1."""


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
    ranges: dict[str, Range] = {}
    payloads: dict[str, NDArray[np.int64]] = {}
    for population in network.populations:
        if population.neuron.is_bounded:
            reach = prove_population(population, network.input, network.n_steps, payloads)
            ranges[population.name] = reach
            if population.neuron.is_graded:
                payloads[population.name] = np.minimum(reach.high, PAYLOAD_LIMIT)
    return ranges


def prove_sums(network: IntNetwork) -> dict[str, tuple[int, ...]]:
    """Return, by population, the largest magnitude of each synapse's sum before its exponent, for every input (O3)."""
    highs = {name: reach.high for name, reach in prove(network).items()} if network.is_graded else {}
    payloads = {name: np.minimum(high, PAYLOAD_LIMIT) for name, high in highs.items()}
    return {
        population.name: tuple(proved_sum(synapse, network.input, payloads) for synapse in population.synapses)
        for population in network.populations
    }


def proved_sum(synapse: Synapse, encoding: Input, payloads: Payloads) -> int:
    """Return the largest magnitude that the sum of a synapse can have before its exponent, for every input (O3)."""
    low, high = _sum_interval(synapse, encoding, payloads)
    return int(max(high.max(), -low.min()))


def prove_population(population: Population, encoding: Input, n_steps: int, payloads: Payloads = BINARY) -> Range:
    """Bound the accumulated input of `population` for every input it could get (rules S1 to S3, G2).

    Follows the interval that holds all membrane potentials from step to step.

    Args:
        payloads: of its graded sources; any other sends 0 or 1.
    """
    drive_low, drive_high = drive_interval(population, encoding, payloads)
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


def drive_interval(population: Population, encoding: Input, payloads: Payloads = BINARY) -> Interval:
    """Return the smallest and largest drive per channel in one step: weighted input plus bias."""
    low = high = population.bias.astype(np.int64)
    for synapse in population.synapses:
        added_low, added_high = _synapse_interval(synapse, encoding, payloads)
        low, high = low + added_low, high + added_high
    return low, high


def _synapse_interval(synapse: Synapse, encoding: Input, payloads: Payloads) -> Interval:
    low, high = _sum_interval(synapse, encoding, payloads)
    return _shifted(low, synapse), _shifted(high, synapse)


def _sum_interval(synapse: Synapse, encoding: Input, payloads: Payloads) -> Interval:
    """Sum, per output channel, the worst contribution of each weight; a tap may also fall on padding (0).

    Of taps of which some see zeros between the neurons, only those count that see none at the same time.
    """
    sums = (_sums(synapse, weight, encoding, payloads) for weight in _weights_at_once(synapse))
    lows, highs = zip(*sums, strict=True)
    return np.minimum.reduce(lows), np.maximum.reduce(highs)


def _weights_at_once(synapse: Synapse) -> Iterator[IntArray]:
    """Yield weights that may all see neurons, 0 in place of the others."""
    conv, weight = synapse.conv, synapse.weight
    if conv is None or conv.input_dilation == (1, 1):
        yield weight
        return
    for taps in conv.phases((weight.shape[2], weight.shape[3])):
        yield weight * taps


def _sums(synapse: Synapse, weight: IntArray, encoding: Input, payloads: Payloads) -> Interval:
    raising, lowering = (bound(weight, 0) for bound in (np.maximum, np.minimum))
    axes = tuple(range(1, weight.ndim))
    if synapse.source != INPUT_NAME and synapse.source not in payloads:  # spikes, 0 or 1
        low, high = (values.sum(axis=axes, dtype=np.int64) for values in (lowering, raising))
        return low, high
    lowest, highest = _signal_interval(synapse, encoding, payloads)
    low = (raising * lowest + lowering * highest).sum(axis=axes)
    high = (raising * highest + lowering * lowest).sum(axis=axes)
    return low, high


def _shifted(sums: NDArray[np.int64], synapse: Synapse) -> NDArray[np.int64]:
    """Return sums with the exponent of their synapse (rule W3)."""
    return sums << synapse.exponent if synapse.exponent >= 0 else sums >> -synapse.exponent


def _signal_interval(synapse: Synapse, encoding: Input, payloads: Payloads) -> Interval:
    """Return bounds of what each weight multiplies, low <= 0 <= high, shaped to broadcast over the weight."""
    if synapse.source == INPUT_NAME:
        low, high = encoding.channel_range()
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    else:
        high = payloads[synapse.source]
        low = np.zeros_like(high)
    if synapse.conv is None:
        per_channel = synapse.weight.shape[1] // len(high)
        return np.repeat(low, per_channel), np.repeat(high, per_channel)
    channel = synapse.conv.source_channels(synapse.weight.shape)
    return low[channel][:, :, np.newaxis, np.newaxis], high[channel][:, :, np.newaxis, np.newaxis]


def with_bounds(network: IntNetwork, bounds: Mapping[str, Bound]) -> IntNetwork:
    """Return `network` with the bound of each population set."""
    populations = tuple(replace(p, bound=bounds[p.name]) for p in network.populations)
    return replace(network, populations=populations)
