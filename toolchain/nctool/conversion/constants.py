"""Hold channels that never change, so that they do not make the rest of their layer coarser.

Interval arithmetic bounds the drive of each channel for every possible input. A channel that can never fire in the
window gets drive 0; one that fires at every step gets its threshold as its drive. Both have no weights, and send the
same spikes as before. Weights that see only padding, or neurons that never fire, become 0. A class whose logit stays
far below that of another for every input is never the answer: its logit is raised, to one that still stays below.

In: a FloatNetwork, before spike values are absorbed. Out: one of the same spikes and answers, and what was held. Must
not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray, FloatNetwork, FloatPopulation, FloatSynapse
from nctool.ir.network import INPUT_NAME, ConvGeometry, Pair
from nctool.ir.number_format import IntegerFormat

Interval = tuple[FloatArray, FloatArray]
"""Smallest and largest value of each channel, float64 (channels,) each."""


@dataclass(frozen=True)
class Held:
    """What never changes in one population.

    Args:
        never, always: channels that can never fire, and that fire at every step, all replicas counted.
        unread: weights other than 0 that see nothing.
        raised: classes of a readout that are never the answer, and whose logit was raised.
    """

    never: int = 0
    always: int = 0
    unread: int = 0
    raised: tuple[int, ...] = ()


AT_ONCE = 2**21
"""Weights that are looked at together, 16 MiB."""


class Holding:
    """Hold what never changes in one population after the other.

    Args:
        signal: of the input at any step.
        number_format: says how a neuron resets, and so where it starts.
        n_steps: length of the window.

    Attributes:
        held: what was held, by population.
    """

    def __init__(self, signal: Interval, number_format: IntegerFormat, n_steps: int) -> None:
        self._signals, self._format, self._n_steps = {INPUT_NAME: signal}, number_format, n_steps
        self.held: dict[str, Held] = {}

    def hold(self, population: FloatPopulation) -> FloatPopulation:
        """Return `population` with everything held that never changes; its sources were held before."""
        signals = self._signals
        if population.maximum:  # it fires always where its source does, and never where that never does
            signals[population.name] = signals[population.synapses[0].source]
            self.held[population.name] = Held()
            return population
        read = replace(population, synapses=tuple(_without_unread(s, signals[s.source]) for s in population.synapses))
        drive = _drive(read, signals)
        if population.graded:  # whose channels share no scale: none takes bits from another
            constant = np.full(len(population.bias), np.nan)
            most = np.full(len(constant), np.inf) if population.saturation is None else population.saturation
            signals[population.name] = np.zeros_like(most), np.clip(drive[1], 0.0, most)
            held = Held()
        elif population.threshold is None:
            constant = _raised(drive)
            held = Held(raised=tuple(np.flatnonzero(~np.isnan(constant)).tolist()))
        else:
            constant = _constant_drive(drive, population.threshold, _starts(population, self._format), self._n_steps)
            signals[population.name] = _spikes(constant, population.threshold)
            never, always = (population.replicas * int(held.sum()) for held in (constant == 0, constant > 0))
            held = Held(never, always)
        self.held[population.name] = replace(held, unread=_nonzero(population) - _nonzero(read))
        return _driven_by(read, constant)


def hold(
    network: FloatNetwork, signal: Interval, number_format: IntegerFormat, n_steps: int
) -> tuple[FloatNetwork, dict[str, Held]]:
    """Hold everything in `network` that never changes; return also what was held, by population."""
    holding = Holding(signal, number_format, n_steps)
    populations = tuple(holding.hold(population) for population in network.populations)
    return replace(network, populations=populations), holding.held


def _without_unread(synapse: FloatSynapse, signal: Interval) -> FloatSynapse:
    """Set weights to 0 that multiply nothing but 0."""
    silent, weight = (signal[0] == 0) & (signal[1] == 0), synapse.weight
    if silent.any():
        weight = np.where(synapse.per_weight(silent), 0.0, weight)
    if synapse.conv is not None:
        kernel: Pair = (weight.shape[2], weight.shape[3])
        rows, columns = synapse.conv.seen_taps(synapse.summed_shape, kernel)
        if not (rows.all() and columns.all()):
            weight = weight * np.outer(rows, columns)
    return replace(synapse, weight=weight)  # the same array where nothing was set to 0


def _drive(population: FloatPopulation, signals: Mapping[str, Interval]) -> Interval:
    """Return what one step can add to each channel's potential."""
    low = high = population.bias
    for synapse in population.synapses:
        ends = [synapse.per_weight(end) for end in signals[synapse.source]]
        step = max(1, AT_ONCE // synapse.weight[0].size)
        parts = (slice(start, start + step) for start in range(0, len(synapse.weight), step))
        reach = [_reach(synapse, part, ends) for part in parts]
        low, high = (
            bias + np.concatenate(sums) for bias, sums in zip((low, high), zip(*reach, strict=True), strict=True)
        )
    return low, high


def _reach(synapse: FloatSynapse, channels: slice, ends: Sequence[FloatArray]) -> Interval:
    """Return the smallest and the largest weighted sum of some channels.

    Args:
        ends: of what each weight multiplies, broadcast over all weights.
    """
    weight = math.prod(synapse.repeat.block) * synapse.weight[channels]
    products = [weight * (end if synapse.conv is None else end[channels]) for end in ends]
    least, most = np.minimum(*products), np.maximum(*products)
    if synapse.conv is not None and any(synapse.conv.padding):
        least, most = np.minimum(least, 0.0), np.maximum(most, 0.0)
    return _smallest(least, synapse.conv), -_smallest(-most, synapse.conv)


def _smallest(terms: FloatArray, conv: ConvGeometry | None) -> FloatArray:
    """Return the smallest sum of terms, axes as those of weights, of which those of one phase occur together."""
    axes = tuple(range(1, terms.ndim))
    if conv is None or conv.input_dilation == (1, 1):
        return np.asarray(terms.sum(axis=axes))
    sums = [(terms * taps).sum(axis=axes) for taps in conv.phases((terms.shape[2], terms.shape[3]))]
    return np.asarray(np.minimum.reduce(sums))


def _starts(population: FloatPopulation, number_format: IntegerFormat) -> Interval:
    """Return the lowest and the highest potential that a replica of each channel starts a window at (rule U1)."""
    starts = np.zeros_like(population.starts) if number_format.reset == "zero" else population.starts
    return starts.min(axis=1), starts.max(axis=1)


def _constant_drive(drive: Interval, threshold: FloatArray, starts: Interval, n_steps: int) -> FloatArray:
    """Return the drive that makes the spikes of each channel: 0 for none, the threshold for all, NaN where they change.

    A potential that starts at v and grows by at most z a step stays below v + T z. One that grows by at least z, and
    loses the threshold at every step, stays above v - T (threshold - z).
    """
    low, high = drive
    never = n_steps * high < threshold - starts[1]
    always = n_steps * (threshold - low) <= starts[0]
    return np.select([never, always], [0.0, threshold], np.nan)


def _spikes(constant: FloatArray, value: FloatArray) -> Interval:
    """Return what the replicas of each channel send in a step, where spikes of all are worth `value`."""
    return np.where(constant > 0, value, 0.0), np.where(constant == 0, 0.0, value)


def _raised(drive: Interval) -> FloatArray:
    """Return the drive that classes far below the answer are raised to, NaN for all others.

    The classes that may be the answer fill an interval. As far below it as it is wide, and as its ends are large, no
    rounding of theirs makes up for the distance.
    """
    low, high = drive
    may_answer = high >= low.max()
    least, most = float(low[may_answer].min()), float(high[may_answer].max())
    distance = max(most - least, abs(least), abs(most)) or np.inf
    return np.where(high < least - distance, least - distance, np.nan)


def _driven_by(population: FloatPopulation, constant: FloatArray) -> FloatPopulation:
    """Give each channel its constant drive in place of its weights and its bias, but where it is NaN."""
    held = ~np.isnan(constant)
    if not held.any():
        return population
    first, *rest = (_without(synapse, held) for synapse in population.synapses)
    first = replace(first, bias=np.where(held, constant, first.bias))
    return replace(population, synapses=(first, *rest))


def _without(synapse: FloatSynapse, channels: NDArray[np.bool_]) -> FloatSynapse:
    column = channels.reshape(-1, *[1] * (synapse.weight.ndim - 1))
    return replace(synapse, weight=np.where(column, 0.0, synapse.weight), bias=np.where(channels, 0.0, synapse.bias))


def _nonzero(population: FloatPopulation) -> int:
    return sum(synapse.repeat.copies * int(np.count_nonzero(synapse.weight)) for synapse in population.synapses)
