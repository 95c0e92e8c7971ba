"""Calibration: what the populations that are already integers send on calibration data, by the fast engine.

What a source sent is kept in little memory: a spike is one bit.

In: pixels and how they enter, integer populations. Out: ranges of accumulated inputs, rates. Must not import the
reference engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.conversion.float_network import FloatArray
from nctool.conversion.input_encoding import EncodedInput
from nctool.conversion.quantise.patches import Rates
from nctool.fast.choice import usable
from nctool.fast.engine import CPU_BATCH_BYTES, exactly
from nctool.fast.graded import GradedLayer
from nctool.fast.integrate_fire import IntegrateFireLayer
from nctool.fast.layer import Extremes
from nctool.ir.bounds import Range
from nctool.ir.inputs import InputEncoding, PixelEncoding
from nctool.ir.network import INPUT_NAME, IntArray, Population, Shape

MARGIN = 2.0
"""Measured bounds are widened by this factor: test images reach further than 256 training images do."""

Running = Callable[[str, int, int], object]
"""Called with the name of the population that runs, the samples done and all samples."""

_Unsigned = TypeVar("_Unsigned", np.uint8, np.uint16)


def _ignore(name: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class _Before:
    """What a population may read: the input, and the shapes of all sources."""

    input: PixelEncoding
    shapes: Mapping[str, Shape]


class Recording(Rates, Protocol):
    """What one source sent on calibration data; an index gives the mean over the window."""

    def steps(self, samples: slice) -> Tensor:
        """Return the signal, (n_steps or 1, samples, *shape), in bytes or float32."""

    @property
    def is_constant(self) -> bool:
        """Return whether the signal is the same at every step."""

    @property
    def largest(self) -> int:
        """Return the largest magnitude of the signal."""

    def at(self, step: int) -> Rates:
        """Return the signal of one step."""


@dataclass(frozen=True, eq=False)
class RecordedIntegers:
    """The same integers at every step: graded input, or graded spikes.

    Args:
        values: integers (samples, *shape).
    """

    values: IntArray | NDArray[np.unsignedinteger[Any]]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, samples: slice) -> FloatArray:
        return self.values[samples].astype(np.float64)

    def steps(self, samples: slice) -> Tensor:
        """Return the signal of one step, which is that of all."""
        return torch.from_numpy(self.values[np.newaxis, samples].astype(np.float32))

    @property
    def is_constant(self) -> bool:
        """Return True."""
        return True

    @property
    def largest(self) -> int:
        """Return the largest magnitude of the signal."""
        return max(int(self.values.max(initial=0)), -int(self.values.min(initial=0)))

    def at(self, step: int) -> Rates:  # noqa: ARG002 - the same at every step
        """Return the signal of one step, which is that of all."""
        return self


@dataclass(frozen=True, eq=False)
class RecordedSpikes:
    """Spikes, eight to a byte.

    Args:
        bits: uint8 (n_steps, samples, bytes); the neurons of a sample as torch lays them out with the channels last.
        shape: of the source.
    """

    bits: NDArray[np.uint8]
    shape: Shape

    def __len__(self) -> int:
        return self.bits.shape[1]

    def __getitem__(self, samples: slice) -> FloatArray:
        bits = self.bits[:, samples]
        counts = np.zeros((bits.shape[1], self._n_neurons), np.uint16)
        for step in bits:  # one at a time: spikes of a long window take far more memory than their mean
            counts += self._unpacked(step)
        return np.moveaxis(self._by_place(counts), -1, 1) / np.float64(len(bits))

    def steps(self, samples: slice) -> Tensor:
        """Return 0 or 1, uint8 (n_steps, samples, *shape)."""
        return torch.from_numpy(self._by_place(self._unpacked(self.bits[:, samples]))).movedim(-1, 2)

    @property
    def is_constant(self) -> bool:
        """Return whether there is one step only."""
        return len(self.bits) == 1

    @property
    def largest(self) -> int:
        """Return 1: a spike is a spike."""
        return 1

    def at(self, step: int) -> Rates:
        """Return the spikes of one step."""
        return RecordedSpikes(self.bits[step : step + 1], self.shape)

    @property
    def _n_neurons(self) -> int:
        return math.prod(self.shape)

    def _unpacked(self, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the spikes that bits (..., bytes) hold, (..., neurons)."""
        return np.unpackbits(bits, axis=-1, count=self._n_neurons)

    def _by_place(self, flat: NDArray[_Unsigned]) -> NDArray[_Unsigned]:
        """Return numbers (..., neurons) with the channels last, (..., *size, channels)."""
        channels, *size = self.shape
        return flat.reshape(*flat.shape[:-1], *size, channels)


def pack(spikes: Tensor) -> RecordedSpikes:
    """Keep spikes, 0 or 1 (n_steps, samples, *shape)."""
    flat = spikes.movedim(2, -1).flatten(2).numpy()
    return RecordedSpikes(np.packbits(flat != 0, axis=-1), tuple(spikes.shape[2:]))


def whole(spikes: Tensor) -> RecordedIntegers:
    """Keep graded spikes, float32 (1, samples, *shape), in 16 bits where they fit."""
    values = spikes[0].numpy()
    return RecordedIntegers(values.astype(np.uint16 if values.max(initial=0) < 2**16 else np.int32))


def join_whole(parts: Sequence[RecordedIntegers]) -> RecordedIntegers:
    """Concatenate the graded spikes of consecutive samples."""
    return RecordedIntegers(np.concatenate([part.values for part in parts]))


def join(parts: Sequence[RecordedSpikes]) -> RecordedSpikes:
    """Concatenate the spikes of consecutive samples."""
    return RecordedSpikes(np.concatenate([part.bits for part in parts], axis=1), parts[0].shape)


class Calibration:
    """Signals of the input and of settled populations on calibration data.

    Args:
        encoded: the input.
        pixels: uint8 (samples, *input shape).
        n_steps: length of the window.
        running: called before every batch of samples.
    """

    def __init__(
        self,
        encoded: EncodedInput,
        pixels: NDArray[np.uint8],
        n_steps: int,
        running: Running = _ignore,
    ) -> None:
        self.n_steps = n_steps
        self._running = running
        self._before = _Before(encoded.encoding, {INPUT_NAME: encoded.encoding.shape})
        self._measured: tuple[Population, list[Any]] | None = None
        self._sent: dict[str, Recording] = {INPUT_NAME: _record_input(encoded.encoding, pixels, n_steps)}

    def rates(self, name: str) -> Recording:
        """Return the signal of a source; an index gives its mean over the window."""
        return self._sent[name]

    def range_of(self, population: Population) -> Range:
        """Measure the accumulated input of `population` (rule O1)."""
        extremes, layer = Extremes(), self._layer(population)
        self._measured = (population, list(self._kept(layer, extremes)))
        start = layer.start.flatten()
        low, high = extremes.low - start, extremes.high - start
        return Range(*(extreme.to(torch.int64).numpy() for extreme in (low.clamp(max=0), high.clamp(min=0))))

    def settle(self, population: Population) -> None:
        """Keep the spikes of `population` for those that read it; it is run, unless it was the last one measured."""
        measured, spikes = self._measured or (None, [])
        if measured is None or replace(population, bound=measured.bound) != measured:
            spikes = list(self._kept(self._layer(population)))
        self._measured = None
        self._sent[population.name] = (join_whole if population.neuron.is_graded else join)(spikes)
        self._before = _Before(self._before.input, {**self._before.shapes, population.name: population.shape})

    def _layer(self, population: Population) -> IntegrateFireLayer | GradedLayer:
        if population.neuron.is_graded:
            return GradedLayer.prepare(self._before, population, torch.device("cpu"))
        return IntegrateFireLayer.prepare(self._before, population, self.n_steps, torch.device("cpu"), usable())

    def _kept(self, layer: IntegrateFireLayer | GradedLayer, extremes: Extremes | None = None) -> Iterator[Any]:
        """Run the samples, batch by batch; yield what is kept of the spikes, and let `extremes` see all potentials."""
        population, keep = layer.population, whole if layer.population.neuron.is_graded else pack
        sources = {synapse.source: self._sent[synapse.source] for synapse in population.synapses}
        n_samples = len(self._sent[population.synapses[0].source])
        size = max(1, CPU_BATCH_BYTES // (4 * population.n_neurons * self.n_steps))

        def kept(samples: slice) -> Any:
            signals = {name: sent.steps(samples) for name, sent in sources.items()}
            seen = None if extremes is None else Extremes()  # of this part alone, which has a thread of its own
            spikes = layer.run(signals, self.n_steps, seen).spikes
            if extremes is not None and seen is not None:
                extremes.add(seen.low, seen.high)
            return None if spikes is None else keep(spikes)

        together = size * torch.get_num_threads()
        for start in range(0, n_samples, together):
            self._running(population.name, start, n_samples)
            stop = min(start + together, n_samples)
            parts = [slice(first, min(first + size, stop)) for first in range(start, stop, size)]
            yield from (spikes for spikes in exactly(kept, parts) if spikes is not None)

    def forget(self, name: str) -> None:
        """Drop a signal that nothing reads any more."""
        del self._sent[name]


def _record_input(encoding: PixelEncoding, pixels: NDArray[np.uint8], n_steps: int) -> Recording:
    """Record what the input sends; spike trains are made for some samples at a time."""
    if isinstance(encoding, InputEncoding):
        return RecordedIntegers(encoding.encode(pixels))
    size = max(1, CPU_BATCH_BYTES // (4 * math.prod(encoding.shape) * n_steps))
    parts = (pixels[start : start + size] for start in range(0, len(pixels), size))
    return join([pack(torch.from_numpy(encoding.signal(part, n_steps)).transpose(0, 1)) for part in parts])
