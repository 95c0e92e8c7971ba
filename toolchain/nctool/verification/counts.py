"""Count how two traces differ: per population how many spikes, where, and by how much the spike counts are off.

The counts of consecutive chunks add up, so that no trace of a whole data set is ever held.

In: traces of the same network and samples. Out: PairCounts. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import IntNetwork
from nctool.reference.trace import Spikes, Trace

COUNT_BINS = ("0", "1", "2", "3", "more")
"""How far apart two spike counts are."""

Histogram = Mapping[str, int]


@dataclass(frozen=True)
class SpikeCounts:
    """How the spikes of one population differ.

    Args:
        layer: name of the population.
        compared: spike values compared, one per neuron, step and sample.
        differing: how many of them differ.
        samples: how many samples hold a difference.
        first_step: earliest one-based step that differs in any sample; None where none does.
        count_differences: of the neurons whose spikes differ, once per sample, how many are off by `0`, `1`, `2`, `3`
            or `more` spikes over the window; off by 0 is the same number at other steps. Of graded spikes, it is what
            they carry that is off.
    """

    layer: str
    compared: int
    differing: int
    samples: int
    first_step: int | None
    count_differences: Histogram

    quantity: ClassVar = "spike"
    sent: ClassVar = "spike counts"

    def __add__(self, later: SpikeCounts) -> SpikeCounts:
        return type(self)(
            layer=self.layer,
            compared=self.compared + later.compared,
            differing=self.differing + later.differing,
            samples=self.samples + later.samples,
            first_step=_earliest(self.first_step, later.first_step),
            count_differences=_sum(self.count_differences, later.count_differences),
        )

    @property
    def title(self) -> str:
        """Return what to call this among the layers."""
        return self.layer

    def describe(self) -> str:
        """Return one line that says how the layer differs."""
        off_by = ", ".join(f"{name} in {count:,}" for name, count in self.count_differences.items() if count)
        return f"{_extent_text(self, 'spike values')}; neurons whose {self.sent} are off by {off_by}"


class PayloadCounts(SpikeCounts):
    """How the spikes of one graded population differ."""

    sent: ClassVar = "payloads"


@dataclass(frozen=True)
class LogitCounts:
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

    quantity: ClassVar = "logit"

    def __add__(self, later: LogitCounts) -> LogitCounts:
        magnitudes = _sum(self.magnitudes, later.magnitudes)
        return LogitCounts(
            layer=self.layer,
            compared=self.compared + later.compared,
            differing=self.differing + later.differing,
            samples=self.samples + later.samples,
            first_step=_earliest(self.first_step, later.first_step),
            largest=max(self.largest, later.largest),
            magnitudes={low: magnitudes[low] for low in sorted(magnitudes, key=int)},
            changed_predictions=self.changed_predictions + later.changed_predictions,
        )

    @property
    def title(self) -> str:
        """Return what to call this among the layers: the last population may spike, too."""
        return f"{self.layer} logits"

    def describe(self) -> str:
        """Return one line that says how the logits differ."""
        changed = f"{self.changed_predictions} predictions change, largest difference {self.largest:,}"
        return f"{_extent_text(self, 'logits')}; {changed}"


@dataclass(frozen=True)
class PairCounts:
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
    spikes: tuple[SpikeCounts, ...]
    logits: LogitCounts

    def __add__(self, later: PairCounts) -> PairCounts:
        return PairCounts(
            expected_by=self.expected_by,
            actual_by=self.actual_by,
            samples=self.samples + later.samples,
            spikes=tuple(mine + its for mine, its in zip(self.spikes, later.spikes, strict=True)),
            logits=self.logits + later.logits,
        )

    @property
    def layers(self) -> tuple[SpikeCounts | LogitCounts, ...]:
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


def compare_traces(network: IntNetwork, expected: Trace, actual: Trace, names: tuple[str, str]) -> PairCounts:
    """Count the differences of two traces of `network`.

    Args:
        names: who produced `expected` and `actual`.
    """
    spiking = [p.name for p in network.populations if p.name in expected.spikes]
    spikes = tuple(_spike_counts(name, expected.spikes[name], actual.spikes[name]) for name in spiking)
    logits = _logit_counts(network.readout.name, expected.logits, actual.logits)
    return PairCounts(*names, expected.n_samples, spikes, logits)


def _spike_counts(layer: str, expected: Spikes, actual: Spikes) -> SpikeCounts:
    differs = _where_different(expected, actual)
    counts: Histogram = dict.fromkeys(COUNT_BINS, 0)
    if differs.any() and expected.shape == actual.shape:
        off_by = np.abs(expected.sum(axis=1) - actual.sum(axis=1))[differs.any(axis=1)]
        counts = _count_bins(off_by)
    kind = SpikeCounts if expected.dtype == np.bool_ else PayloadCounts
    return kind(layer, differs.size, *_extent(differs), counts)


def _logit_counts(layer: str, expected: NDArray[np.int64], actual: NDArray[np.int64]) -> LogitCounts:
    differs = _where_different(expected, actual)
    largest, changed = 0, 0
    magnitudes: Histogram = {}
    if differs.any() and expected.shape == actual.shape:
        off_by = np.abs(expected - actual)[differs]
        largest, magnitudes = int(off_by.max()), _magnitude_bins(off_by)
        changed = int((expected[:, -1].argmax(axis=1) != actual[:, -1].argmax(axis=1)).sum())
    return LogitCounts(layer, differs.size, *_extent(differs), largest, magnitudes, changed)


def _where_different(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where two arrays differ: everywhere, if their shapes do."""
    if expected.shape != actual.shape:
        return np.ones(expected.shape, np.bool_)
    return np.not_equal(expected, actual)


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


def _extent_text(counts: SpikeCounts | LogitCounts, values: str) -> str:
    return (
        f"layer `{counts.layer}`: {counts.differing:,} of {counts.compared:,} {values} differ, in {counts.samples} "
        f"samples, from step {counts.first_step}"
    )


def _earliest(*steps: int | None) -> int | None:
    return min((step for step in steps if step is not None), default=None)


def _sum(*histograms: Histogram) -> Histogram:
    names = dict.fromkeys(name for histogram in histograms for name in histogram)
    return {name: sum(histogram.get(name, 0) for histogram in histograms) for name in names}
