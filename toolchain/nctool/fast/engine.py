"""The fast engine: the same integers as the reference engine, in batched kernels on CPU or GPU.

Floating point is exact on integers while no sum leaves the mantissa: below 2**24 in float32, 2**53 in float64. The
type of each population is chosen from bounds that hold for every input, so the result is equal by proof; the
tests compare it all the same. What makes it fast: the graph has no recurrence across populations, so all time steps of
a layer are one batch of one convolution; the constant input is weighed once; a kernel that came from folded pooling is
taken apart again, sums first; memory is channels-last. On a CPU, weights of 8 bits run on integer kernels where these
are exact, and compiled loops step the neurons. On a GPU, convolutions are matrix products (`nctool.fast.products`).

In: an IntNetwork and samples. Out: traces or summaries, batch by batch. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.errors import RangeError, UsageError
from nctool.fast.choice import Choice, usable_on
from nctool.fast.current_based import CurrentBasedLayer
from nctool.fast.graded import GradedLayer
from nctool.fast.integrate_fire import IntegrateFireLayer
from nctool.fast.layer import LayerRun
from nctool.fast.precision import full_precision
from nctool.ir.inputs import Samples
from nctool.ir.network import INPUT_NAME, CurrentBased, IntNetwork, Population
from nctool.reference.signal import input_signal
from nctool.reference.trace import Spikes, Summary, Trace, join, join_summaries
from nctool.threads import on_one_thread, side_by_side

CPU_BATCH_BYTES = 8 * 2**20
"""Memory of the largest layer's drive in what a thread of a CPU computes at a time: small enough for its cache."""

GPU_BATCH_BYTES = 2**28
"""The same on a GPU, where a batch must be large enough to fill it; all layers together take several times as much."""

WORK_OF_A_THREAD = 2**27
"""Connections times steps that are worth a thread of their own: about a millisecond."""

WORK_OF_ALL_THREADS = 2**31
"""The same of a part whose single operations are worth all threads, where there is but one part."""

Part = TypeVar("Part")
Result = TypeVar("Result")


class FastEngine:
    """A network prepared for a device and a window.

    Args:
        network: what to run.
        n_steps: length of the window; the network's own by default.
        device: `cpu` or `cuda`.
        choice: the kernels that may be used, on a CPU; by default all that work here. A GPU has no choice.

    Attributes:
        kernels: which run, by population.
        batch: samples of a trace or summary, as many as all threads compute at a time.
        part: samples that one thread computes at a time.

    Raises:
        RangeError: there is no such window, or a sum could leave the mantissa of float64.
        UsageError: the device is not there.
    """

    def __init__(
        self, network: IntNetwork, *, n_steps: int | None = None, device: str = "cpu", choice: Choice | None = None
    ) -> None:
        self.network = network
        self.n_steps = network.window(n_steps)
        self.device = find_device(device)
        with exact_arithmetic():
            self.choice = usable_on(self.device) if choice is None or self.device.type != "cpu" else choice
            self.layers = [self._layer(population) for population in network.populations]
        self.latency = network.latency
        self.kernels = {layer.population.name: layer.chosen for layer in self.layers}
        self.n_threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        self.work = self.n_steps * sum(map(network.synapse_count, network.populations))
        self.part = self._part_size()
        self.batch = self.part * self.n_threads

    def __repr__(self) -> str:
        """Return the sizes, and which kernels run."""
        return f"FastEngine(n_steps={self.n_steps}, device={self.device.type}, batch={self.batch}, {self.kernels})"

    def _layer(self, population: Population) -> IntegrateFireLayer | CurrentBasedLayer | GradedLayer:
        neuron = population.neuron
        if neuron.is_graded:
            return GradedLayer.prepare(self.network, population, self.device, self.choice)
        if isinstance(neuron, CurrentBased):
            return CurrentBasedLayer.prepare(self.network, population, neuron, self.device, self.choice)
        return IntegrateFireLayer.prepare(self.network, population, self.n_steps, self.device, self.choice)

    def traces(self, samples: Samples) -> Iterator[Trace]:
        """Yield full traces of consecutive batches: every spike of every population."""
        return self._batches(samples, self._trace, join)

    def summaries(self, samples: Samples) -> Iterator[Summary]:
        """Yield logits, spike counts and overflow counts of consecutive batches; spikes stay on the device."""
        return self._batches(samples, self._summary, join_summaries)

    def _batches(
        self, samples: Samples, result: Callable[[Samples], Result], joined: Callable[[list[Result]], Result]
    ) -> Iterator[Result]:
        """Yield the result of each batch, all of whose parts are computed side by side."""
        if len(samples) == 0:
            raise RangeError("simulation: number of samples is 0, allowed >= 1")
        for start in range(0, len(samples), self.batch):
            parts = self._parts(samples[start : start + self.batch])
            few = len(parts) == 1 and self.work * len(parts[0]) < WORK_OF_ALL_THREADS
            with full_precision(), on_one_thread() if few else nullcontext():
                results = side_by_side(result, parts, self.n_threads)
            yield results[0] if len(results) == 1 else joined(results)

    def _parts(self, samples: Samples) -> list[Samples]:
        """Share a batch among the threads, if there is work for several; no part is larger than the cache allows."""
        shares = min(self.n_threads, len(samples), self.work * len(samples) // WORK_OF_A_THREAD)
        size = -(-len(samples) // max(shares, -(-len(samples) // self.part), 1))
        return [samples[start : start + size] for start in range(0, len(samples), size)]

    def _trace(self, samples: Samples) -> Trace:
        runs = self._window(samples)
        spikes = {name: self._spikes(run.spikes) for name, run in runs.items() if run.spikes is not None}
        overflows = {name: run.overflows for name, run in runs.items()}
        return Trace(spikes, self._logits(runs), overflows, {}, self.kernels)

    def _summary(self, samples: Samples) -> Summary:
        runs = self._window(samples)
        counts = {name: spike_count(run) for name, run in runs.items() if run.spikes is not None}
        return Summary(self._logits(runs), counts, {name: run.overflows for name, run in runs.items()}, self.kernels)

    def _spikes(self, spikes: Tensor) -> Spikes:
        array = _to_numpy(spikes)
        return array.astype(np.int32) if self.network.is_graded else array.astype(np.bool_)

    def _logits(self, runs: dict[str, LayerRun]) -> NDArray[np.int64]:
        """Return the answer of the last population (rules S4 and C6), int64 (samples, steps, neurons)."""
        run = runs[self.network.readout.name]
        answer = run.potentials
        if self.network.readout.neuron.answers_by_count and run.spikes is not None:
            answer = run.spikes.cumsum(dim=0, dtype=torch.float64)
        if answer is None:
            raise RangeError(f"population `{self.network.readout.name}`: gives no answer, allowed a readout")
        return _to_numpy(answer.flatten(2)).astype(np.int64)

    def _window(self, samples: Samples) -> dict[str, LayerRun]:
        """Run some samples through all layers."""
        signal = input_signal(self.network, samples, self.n_steps)
        with _modes():
            steps_first = torch.from_numpy(signal).transpose(0, 1).to(self.device, torch.float32)
            signals, runs, latency = {INPUT_NAME: steps_first}, {}, self.latency
            for layer in self.layers:
                run = layer.run(signals, latency + self.n_steps)
                if run.spikes is not None:
                    signals[layer.population.name] = run.spikes
                runs[layer.population.name] = run.after(latency)
        return runs

    def _part_size(self) -> int:
        steps = self.latency + self.n_steps
        largest = max(population.n_neurons for population in self.network.populations) * steps
        budget = CPU_BATCH_BYTES if self.device.type == "cpu" else GPU_BATCH_BYTES
        return max(1, min(4096, budget // (4 * largest)))


def find_device(name: str) -> torch.device:
    """Return the torch device called `name`; a UsageError says when it is not there."""
    if name not in ("cpu", "cuda"):
        raise UsageError(f"unknown device `{name}`, allowed cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device `cuda` is not available here", hint="use --device cpu")
    return torch.device(name)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Switch off gradients and what rounds a float32 product or sum to fewer bits, an autocast of the caller too."""
    with full_precision(), _modes():
        yield


def exactly(action: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Return what an action gives for every part, in exact arithmetic; several parts at a time, each on one thread."""

    def exact(part: Part) -> Result:
        with _modes():
            return action(part)

    with full_precision():
        return side_by_side(exact, parts, torch.get_num_threads())


@contextmanager
def _modes() -> Iterator[None]:
    """Set of this what torch keeps for each thread."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def spike_count(run: LayerRun) -> int:
    """Return the number of spikes; where it is not known they are counted by step and sample, then in float64."""
    if run.n_spikes is not None or run.spikes is None:
        return run.n_spikes or 0
    per_sample = run.spikes.sum(dim=tuple(range(2, run.spikes.dim())))
    return int(per_sample.sum(dtype=torch.float64).item())


def _to_numpy(values: Tensor) -> NDArray[np.floating]:  # type: ignore[type-arg]  # float32 or float64
    """Return (steps, samples, ...) as a NumPy array (samples, steps, ...)."""
    array: NDArray[np.floating] = values.transpose(0, 1).contiguous().cpu().numpy()  # type: ignore[type-arg]  # as above
    return array
