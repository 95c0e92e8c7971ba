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

from nctool.conversion.float_network import CodedInput
from nctool.conversion.quantise.second_moments import Rates
from nctool.conversion.quantise.sent import Sent, SentIntegers, SentSpikes, join, pack
from nctool.fast.engine import CPU_BATCH_BYTES, exact_arithmetic
from nctool.fast.integrate_fire import IntegrateFireLayer
from nctool.fast.layer import LayerRun
from nctool.ir.bounds import Range
from nctool.ir.inputs import InputEncoding, PixelEncoding
from nctool.ir.network import INPUT_NAME, Population, Shape

Running = Callable[[str, int, int], object]
"""Told which population is run, on how many samples it was, and on how many it will be."""


def _not_told(name: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class _Before:
    """What a population may read: the input, and the shapes of all sources."""

    input: PixelEncoding
    shapes: Mapping[str, Shape]


class _Extremes:
    """Smallest and largest value of each channel in tensors (samples, channels, ...), seen batch by batch.

    Within a batch they are kept for each neuron and sample: that takes a tenth of the time of looking over the batch at
    every step.
    """

    def __init__(self) -> None:
        self._batch: tuple[Tensor, Tensor] | None = None
        self._closed: list[tuple[Tensor, Tensor]] = []

    def see(self, values: Tensor) -> None:
        """Look at values of the same batch."""
        if self._batch is None:
            self._batch = values.clone(), values.clone()
            return
        low, high = self._batch
        torch.minimum(low, values, out=low)
        torch.maximum(high, values, out=high)

    def close(self) -> None:
        """End the batch."""
        if self._batch is not None:
            low, high = self._batch
            axes = [axis for axis in range(low.dim()) if axis != 1]
            self._closed.append((low.amin(axes), high.amax(axes)))
        self._batch = None

    @property
    def low(self) -> Tensor:
        """Return the smallest value of each channel."""
        return torch.stack([low for low, _ in self._closed]).amin(0)

    @property
    def high(self) -> Tensor:
        """Return the largest value of each channel."""
        return torch.stack([high for _, high in self._closed]).amax(0)


class Calibration:
    """Signals of the input and of settled populations on calibration data.

    Args:
        coded: the input.
        pixels: uint8 (samples, *input shape).
        n_steps: length of the window.
        running: told of every batch of samples.
    """

    def __init__(
        self,
        coded: CodedInput,
        pixels: NDArray[np.uint8],
        n_steps: int,
        running: Running = _not_told,
    ) -> None:
        self.n_steps = n_steps
        self._running = running
        self._before = _Before(coded.encoding, {INPUT_NAME: coded.encoding.shape})
        self._measured: tuple[Population, list[SentSpikes]] | None = None
        self._sent: dict[str, Sent] = {INPUT_NAME: _sent_by_input(coded.encoding, pixels, n_steps)}

    def rates(self, name: str) -> Rates:
        """Return the mean signal over the window."""
        return self._sent[name]

    def range_of(self, population: Population) -> Range:
        """Measure the accumulated input of `population` (rule O1)."""
        extremes, spikes = _Extremes(), []
        layer = self._layer(population)
        for run in self._runs(layer, extremes.see):
            extremes.close()
            spikes += [] if run.spikes is None else [pack(run.spikes)]
        self._measured = (population, spikes)
        start = layer.start.flatten()
        low, high = extremes.low - start, extremes.high - start
        return Range(*(each.to(torch.int64).numpy() for each in (low.clamp(max=0), high.clamp(min=0))))

    def settle(self, population: Population) -> None:
        """Keep the spikes of `population` for those that read it; it is run, unless it was the last one measured."""
        measured, spikes = self._measured or (None, [])
        if measured is None or replace(population, bound=measured.bound) != measured:
            runs = self._runs(self._layer(population))
            spikes = [pack(run.spikes) for run in runs if run.spikes is not None]
        self._measured = None
        self._sent[population.name] = join(spikes)
        self._before = _Before(self._before.input, {**self._before.shapes, population.name: population.shape})

    def _layer(self, population: Population) -> IntegrateFireLayer:
        return IntegrateFireLayer.prepare(self._before, population, self.n_steps, torch.device("cpu"))

    def _runs(self, layer: IntegrateFireLayer, observe: Callable[[Tensor], None] | None = None) -> Iterator[LayerRun]:
        """Yield the runs of consecutive batches of the samples."""
        population = layer.population
        sources = {synapse.source: self._sent[synapse.source] for synapse in population.synapses}
        size = max(1, CPU_BATCH_BYTES // (4 * population.n_neurons * self.n_steps))
        n_samples = len(self._sent[population.synapses[0].source])
        for start in range(0, n_samples, size):
            self._running(population.name, start, n_samples)
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
