"""Count how two traces differ: per population how many spikes, where, and by how much the spike counts are off.

The counts of consecutive chunks add up, so that no trace of a whole data set is ever held.

In: traces of the same network and samples. Out: PairDifferences. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import IntNetwork
from nctool.reference.trace import Trace

COUNT_BINS = ("0", "1", "2", "3", "more")
"""How far apart two spike counts are."""

Histogram = Mapping[str, int]


@dataclass(frozen=True)
class SpikeDifferences:
    """How the spikes of one population differ.

    Args:
        layer: name of the population.
        compared: spike values compared, one per neuron, step and sample.
        differing: how many of them differ.
        samples: how many samples hold a difference.
        first_step: earliest one-based step that differs in any sample; None where none does.
        count_differences: of the neurons whose spikes differ, once per sample, how many are off by `0`, `1`, `2`, `3`
            or `more` spikes over the window; off by 0 is the same number at other steps.
    """

    layer: str
    compared: int
    differing: int
    samples: int
    first_step: int | None
    count_differences: Histogram

    @property
    def title(self) -> str:
        """Return what to call this among the layers."""
        return self.layer


@dataclass(frozen=True)
class LogitDifferences:
    """How the logits differ.

    Args:
        layer: name of the last population; it may spike too.
        compared: logits compared, one per class, step and sample.
        differing: how many of them differ.
        samples: how many samples hold a difference.
        first_step: earliest one-based step that differs in any sample; None where none does.
        largest: largest magnitude of a difference, in units of the membrane potential.
        magnitudes: how many differences have a magnitude from the key, a power of two, to below twice the key.
        changed_predictions: samples whose answer after the whole window differs.
    """

    layer: str
    compared: int
    differing: int
    samples: int
    first_step: int | None
    largest: int
    magnitudes: Histogram
    changed_predictions: int

    @property
    def title(self) -> str:
        """Return what to call this among the layers: the last population may spike, too."""
        return f"{self.layer} logits"


@dataclass(frozen=True)
class PairDifferences:
    """How the traces of two engines differ over all samples that both ran.

    Args:
        expected_by, actual_by: who produced the traces.
        samples: samples compared.
        spikes: per spiking population, in network order.
        logits: of the readout.
    """

    expected_by: str
    actual_by: str
    samples: int
    spikes: tuple[SpikeDifferences, ...]
    logits: LogitDifferences

    @property
    def layers(self) -> tuple[SpikeDifferences | LogitDifferences, ...]:
        """Return the differences of every population in network order."""
        return (*self.spikes, self.logits)

    @property
    def equal(self) -> bool:
        """Return whether nothing differs."""
        return not any(layer.differing for layer in self.layers)

    @property
    def compared_spikes(self) -> int:
        """Return how many spike values were compared."""
        return sum(layer.compared for layer in self.spikes)


def differences(network: IntNetwork, expected: Trace, actual: Trace, names: tuple[str, str]) -> PairDifferences:
    """Count the differences of two traces of `network`.

    Args:
        names: who produced `expected` and `actual`.
    """
    spiking = [p.name for p in network.populations if p.name in expected.spikes]
    spikes = tuple(_spike_differences(name, expected.spikes[name], actual.spikes[name]) for name in spiking)
    logits = _logit_differences(network.readout.name, expected.logits, actual.logits)
    return PairDifferences(*names, expected.n_samples, spikes, logits)


def add(one: PairDifferences, other: PairDifferences) -> PairDifferences:
    """Add the counts of two chunks of samples of the same pair."""
    pairs = zip(one.spikes, other.spikes, strict=True)
    return PairDifferences(
        one.expected_by,
        one.actual_by,
        one.samples + other.samples,
        tuple(_add_spikes(a, b) for a, b in pairs),
        _add_logits(one.logits, other.logits),
    )


def _spike_differences(layer: str, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> SpikeDifferences:
    differs = _where_different(one, other)
    counts: Histogram = dict.fromkeys(COUNT_BINS, 0)
    if differs.any() and one.shape == other.shape:
        off_by = np.abs(one.sum(axis=1) - other.sum(axis=1))[differs.any(axis=1)]
        counts = _count_bins(off_by)
    return SpikeDifferences(layer, differs.size, *_extent(differs), counts)


def _logit_differences(layer: str, one: NDArray[np.int64], other: NDArray[np.int64]) -> LogitDifferences:
    differs = _where_different(one, other)
    largest, changed = 0, 0
    magnitudes: Histogram = {}
    if differs.any() and one.shape == other.shape:
        off_by = np.abs(one - other)[differs]
        largest, magnitudes = int(off_by.max()), _magnitude_bins(off_by)
        changed = int((one[:, -1].argmax(axis=1) != other[:, -1].argmax(axis=1)).sum())
    return LogitDifferences(layer, differs.size, *_extent(differs), largest, magnitudes, changed)


def _where_different(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where two arrays differ: everywhere, if their shapes do."""
    if one.shape != other.shape:
        return np.ones(one.shape, np.bool_)
    return np.not_equal(one, other)


def _extent(differs: NDArray[np.bool_]) -> tuple[int, int, int | None]:
    """Return the number of differences, of samples that hold one, and the first step; (samples, steps, ...)."""
    if not differs.any():
        return 0, 0, None
    flat = differs.reshape(*differs.shape[:2], -1).any(axis=2)
    return int(differs.sum()), int(flat.any(axis=1).sum()), int(flat.any(axis=0).argmax()) + 1


def _count_bins(off_by: NDArray[np.int64]) -> Histogram:
    bins = np.bincount(np.minimum(off_by, len(COUNT_BINS) - 1), minlength=len(COUNT_BINS))
    return dict(zip(COUNT_BINS, bins.tolist(), strict=True))


def _magnitude_bins(off_by: NDArray[np.int64]) -> Histogram:
    """Count by powers of two; logits stay below 2**53, so their float64 exponents are exact."""
    exponents, counts = np.unique(np.frexp(off_by.astype(np.float64))[1] - 1, return_counts=True)
    return {str(2**exponent): count for exponent, count in zip(exponents.tolist(), counts.tolist(), strict=True)}


def _add_spikes(one: SpikeDifferences, other: SpikeDifferences) -> SpikeDifferences:
    return SpikeDifferences(
        one.layer,
        one.compared + other.compared,
        one.differing + other.differing,
        one.samples + other.samples,
        _earliest(one.first_step, other.first_step),
        _add_histograms(one.count_differences, other.count_differences),
    )


def _add_logits(one: LogitDifferences, other: LogitDifferences) -> LogitDifferences:
    return LogitDifferences(
        one.layer,
        one.compared + other.compared,
        one.differing + other.differing,
        one.samples + other.samples,
        _earliest(one.first_step, other.first_step),
        max(one.largest, other.largest),
        dict(sorted(_add_histograms(one.magnitudes, other.magnitudes).items(), key=lambda each: int(each[0]))),
        one.changed_predictions + other.changed_predictions,
    )


def _earliest(*steps: int | None) -> int | None:
    return min((step for step in steps if step is not None), default=None)


def _add_histograms(one: Histogram, other: Histogram) -> Histogram:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
