"""Calibration: what the populations that are already integers send on calibration data, by the fast engine.

In: pixels and how they enter, integer populations. Out: ranges of accumulated inputs, rates. Must not import the
reference engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.bounds import Range
from nctool.conversion.float_network import CodedInput, FloatArray
from nctool.inputs import PixelEncoding
from nctool.network import INPUT_NAME, Population, Shape
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
    """

    def __init__(self, coded: CodedInput, pixels: NDArray[np.uint8], n_steps: int) -> None:
        self.n_steps = n_steps
        self._before = _Before(coded.encoding, {INPUT_NAME: coded.encoding.shape})
        steps_first = coded.encoding.signal(pixels, n_steps).swapaxes(0, 1)
        self._signals = {INPUT_NAME: torch.from_numpy(np.ascontiguousarray(steps_first))}

    def rates(self, name: str) -> FloatArray:
        """Return the mean signal over the window, float64 (samples, *shape)."""
        rates: FloatArray = self._signals[name].to(torch.float64).mean(dim=0).numpy()
        return rates

    def range_of(self, population: Population) -> Range:
        """Measure the accumulated input of `population` (rule O1)."""
        lows, highs = [], []

        def observe(accumulated: Tensor) -> None:
            axes = [axis for axis in range(accumulated.dim()) if axis != 1]
            lows.append(accumulated.amin(axes))
            highs.append(accumulated.amax(axes))

        for _ in self._runs(population, observe):
            pass
        low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
        return Range(*(each.to(torch.int64).numpy() for each in (low.clamp(max=0), high.clamp(min=0))))

    def settle(self, population: Population) -> None:
        """Run a population that spikes and keep its spikes for those that read it."""
        spikes = [run.spikes.to(torch.bool) for run in self._runs(population) if run.spikes is not None]
        self._signals[population.name] = torch.cat(spikes, dim=1)
        self._before = _Before(self._before.input, {**self._before.shapes, population.name: population.shape})

    def _runs(self, population: Population, observe: Callable[[Tensor], None] | None = None) -> Iterator[LayerRun]:
        """Yield the runs of consecutive batches of the samples."""
        layer = IntegrateFireLayer.prepare(self._before, population, self.n_steps, torch.device("cpu"))
        sources = {synapse.source: self._signals[synapse.source] for synapse in population.synapses}
        size = max(1, CPU_BATCH_BYTES // (4 * population.n_neurons * self.n_steps))
        n_samples = self._signals[population.synapses[0].source].shape[1]
        for start in range(0, n_samples, size):
            signals = {name: signal[:, start : start + size] for name, signal in sources.items()}
            with exact_arithmetic():
                run = layer.run(signals, self.n_steps, observe)
            yield run

    def forget(self, name: str) -> None:
        """Drop a signal that nothing reads any more."""
        del self._signals[name]
