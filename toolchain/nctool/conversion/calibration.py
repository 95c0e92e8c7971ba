"""Calibration: what the populations that are already integers send on calibration data, by the fast engine.

In: pixels and how they enter, integer populations. Out: ranges of accumulated inputs, rates. Must not import the
reference engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.bounds import Range
from nctool.conversion.float_network import CodedInput
from nctool.conversion.second_moments import Rates
from nctool.conversion.sent import Sent, SentIntegers, SentSpikes, join, pack
from nctool.inputs import InputEncoding, PixelEncoding
from nctool.network import INPUT_NAME, Population, Shape
from nctool.progress import ProgressCallback, no_progress
from nctool.sim.fast import CPU_BATCH_BYTES, exact_arithmetic
from nctool.sim.fast_integrate_fire import IntegrateFireLayer
from nctool.sim.fast_layer import LayerRun


@dataclass(frozen=True)
class _Before:
    """What a population may read: the input, and the shapes of all sources."""

    input: PixelEncoding
    shapes: Mapping[str, Shape]


class Calibration:
    """Signals of the input and of settled populations on calibration data.

    Args:
        coded: the input.
        pixels: uint8 (samples, *input shape).
        n_steps: length of the window.
        progress: told of every batch of samples, with the name of the population that is run.
    """

    def __init__(
        self,
        coded: CodedInput,
        pixels: NDArray[np.uint8],
        n_steps: int,
        progress: ProgressCallback = no_progress,
    ) -> None:
        self.n_steps = n_steps
        self._progress = progress
        self._before = _Before(coded.encoding, {INPUT_NAME: coded.encoding.shape})
        self._measured: tuple[Population, list[SentSpikes]] | None = None
        self._sent: dict[str, Sent] = {INPUT_NAME: _sent_by_input(coded.encoding, pixels, n_steps)}

    def rates(self, name: str) -> Rates:
        """Return the mean signal over the window."""
        return self._sent[name]

    def range_of(self, population: Population) -> Range:
        """Measure the accumulated input of `population` (rule O1)."""
        lows, highs = [], []

        def observe(accumulated: Tensor) -> None:
            axes = [axis for axis in range(accumulated.dim()) if axis != 1]
            lows.append(accumulated.amin(axes))
            highs.append(accumulated.amax(axes))

        self._measured = (population, self._spikes(population, observe))
        low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
        return Range(*(each.to(torch.int64).numpy() for each in (low.clamp(max=0), high.clamp(min=0))))

    def settle(self, population: Population) -> None:
        """Keep the spikes of `population` for those that read it; it is run, unless it was the last one measured."""
        measured, spikes = self._measured or (None, [])
        if measured is None or replace(population, bound=measured.bound) != measured:
            spikes = self._spikes(population)
        self._measured = None
        self._sent[population.name] = join(spikes)
        self._before = _Before(self._before.input, {**self._before.shapes, population.name: population.shape})

    def _spikes(self, population: Population, observe: Callable[[Tensor], None] | None = None) -> list[SentSpikes]:
        """Run a population; return its spikes, of consecutive batches of the samples, or nothing of a readout."""
        return [pack(run.spikes) for run in self._runs(population, observe) if run.spikes is not None]

    def _runs(self, population: Population, observe: Callable[[Tensor], None] | None = None) -> Iterator[LayerRun]:
        """Yield the runs of consecutive batches of the samples."""
        layer = IntegrateFireLayer.prepare(self._before, population, self.n_steps, torch.device("cpu"))
        sources = {synapse.source: self._sent[synapse.source] for synapse in population.synapses}
        size = max(1, CPU_BATCH_BYTES // (4 * population.n_neurons * self.n_steps))
        n_samples = len(self._sent[population.synapses[0].source])
        for start in range(0, n_samples, size):
            self._progress(start, n_samples, population.name)
            signals = {name: sent.steps(slice(start, start + size)) for name, sent in sources.items()}
            with exact_arithmetic():
                run = layer.run(signals, self.n_steps, observe)
            yield run

    def forget(self, name: str) -> None:
        """Drop a signal that nothing reads any more."""
        del self._sent[name]


def _sent_by_input(encoding: PixelEncoding, pixels: NDArray[np.uint8], n_steps: int) -> Sent:
    """Return what the input sends; of spike trains, some samples are made at a time."""
    if isinstance(encoding, InputEncoding):
        return SentIntegers(encoding.encode(pixels))
    size = max(1, CPU_BATCH_BYTES // (4 * math.prod(encoding.shape) * n_steps))
    parts = (pixels[start : start + size] for start in range(0, len(pixels), size))
    return join([pack(torch.from_numpy(encoding.signal(part, n_steps)).transpose(0, 1)) for part in parts])
