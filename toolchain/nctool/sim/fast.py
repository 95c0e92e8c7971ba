"""The fast engine: the same integers as the reference engine, in batched torch kernels on CPU or GPU.

Floating point is exact on integers while no sum leaves the mantissa: below 2**24 in float32, 2**53 in float64. The
type of each population is chosen from bounds that hold for every input, so the result is equal by proof; the
tests compare it all the same. Four things make it fast: the graph has no recurrence across populations, so all
time steps of a layer are one batch of one convolution; the constant input is weighed once; a kernel that came from
folded pooling is taken apart again, sums first; memory is channels-last.

In: an IntNetwork and pixels. Out: traces or summaries, batch by batch. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.bounds import drive_interval, prove_population
from nctool.errors import RangeError, UsageError
from nctool.network import (
    ACCUMULATOR_LIMIT,
    INPUT_NAME,
    IntegrateFire,
    IntNetwork,
    Population,
)
from nctool.sim.kernel import IMAGE_AXES, Kernel, make_kernel
from nctool.sim.trace import Summary, Trace

FLOAT32_EXACT = 2**24
"""Integers of at most this magnitude are exact in float32. Source: IEEE 754, 24-bit significand."""

FLOAT64_EXACT = 2**53
"""The same for float64."""

CPU_BATCH_BYTES = 16 * 2**20
"""Memory of the largest layer's drive in one batch on a CPU: small enough to stay near the cache."""

GPU_BATCH_BYTES = 2**30
"""The same on a GPU, where a batch must be large enough to fill it."""


@dataclass(frozen=True)
class Layer:
    """One population as tensors, in the type that holds every sum exactly.

    Args:
        population: what is computed.
        kernels: one per synapse.
        bias, threshold, initial: per channel, shaped to broadcast over (samples, channels, height, width).
        proved: True when no accumulated input can leave the accumulator, so none needs counting.
    """

    population: Population
    kernels: tuple[Kernel, ...]
    bias: Tensor
    threshold: Tensor
    initial: Tensor
    proved: bool


class FastEngine:
    """A network prepared for a device and a window.

    Args:
        network: what to run.
        n_steps: length of the window; the network's own by default.
        device: `cpu` or `cuda`.

    Raises:
        RangeError: n_steps < 1, or a sum could leave the mantissa of float64.
        UsageError: the device is not there.
    """

    def __init__(self, network: IntNetwork, *, n_steps: int | None = None, device: str = "cpu") -> None:
        self.network = network
        self.n_steps = network.n_steps if n_steps is None else n_steps
        if self.n_steps < 1:
            raise RangeError(f"simulation: n_steps is {self.n_steps}, allowed >= 1")
        self.device = find_device(device)
        self.layers = [prepare(network, population, self.n_steps, self.device) for population in network.populations]
        self.batch = self._batch_size()

    def traces(self, pixels: NDArray[np.uint8]) -> Iterator[Trace]:
        """Yield full traces of consecutive batches: every spike of every population."""
        for logits, spikes, overflows in self._batches(pixels):
            numpy_spikes = {name: _to_numpy(s).astype(np.bool_) for name, s in spikes.items()}
            yield Trace(numpy_spikes, _to_numpy(logits).astype(np.int64), overflows, {})

    def summaries(self, pixels: NDArray[np.uint8]) -> Iterator[Summary]:
        """Yield logits, spike counts and overflow counts of consecutive batches; spikes stay on the device."""
        for logits, spikes, overflows in self._batches(pixels):
            counts = {name: count(s) for name, s in spikes.items()}
            yield Summary(_to_numpy(logits).astype(np.int64), counts, overflows)

    def _batches(self, pixels: NDArray[np.uint8]) -> Iterator[tuple[Tensor, dict[str, Tensor], dict[str, int]]]:
        if len(pixels) == 0:
            raise RangeError("simulation: number of samples is 0, allowed >= 1")
        for start in range(0, len(pixels), self.batch):
            with exact_arithmetic():
                result = self._window(self.network.input.encode(pixels[start : start + self.batch]))
            yield result

    def _window(self, encoded: NDArray[np.int8]) -> tuple[Tensor, dict[str, Tensor], dict[str, int]]:
        """Run one batch; signals are (steps, samples, *shape), with one step for the constant input."""
        signals = {INPUT_NAME: torch.from_numpy(encoded).to(self.device).unsqueeze(0)}
        overflows: dict[str, int] = {}
        last = signals[INPUT_NAME]
        for layer in self.layers:
            name = layer.population.name
            last, overflows[name] = run_layer(layer, signals, self.n_steps)
            signals[name] = last
        del signals[INPUT_NAME], signals[self.network.readout.name]
        return last, signals, overflows

    def _batch_size(self) -> int:
        largest = max(population.n_neurons for population in self.network.populations) * self.n_steps
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
    """Switch off gradients and everything that rounds a float32 product or sum to fewer bits."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision())
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        with torch.inference_mode():
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before[:2]
        torch.set_float32_matmul_precision(before[2])  # last: it sets matmul.allow_tf32 too


def prepare(network: IntNetwork, population: Population, n_steps: int, device: torch.device) -> Layer:
    """Choose the type of a population and bring its numbers to the device."""
    reach = prove_population(population, network.input, n_steps)
    dtype = exact_type(population, network, int(reach.magnitude.max()))
    shape = (-1, *[1] * (len(population.shape) - 1))

    def column(values: NDArray[np.signedinteger]) -> Tensor:  # type: ignore[type-arg]  # any width
        return torch.from_numpy(values.astype(np.int64)).to(device, dtype).reshape(shape)

    neuron = population.neuron
    zero = np.zeros_like(population.bias)
    spiking = isinstance(neuron, IntegrateFire)
    return Layer(
        population=population,
        kernels=tuple(make_kernel(s, network.shapes[s.source], device, dtype) for s in population.synapses),
        bias=column(population.bias),
        threshold=column(neuron.threshold if isinstance(neuron, IntegrateFire) else zero),
        initial=column(neuron.initial if isinstance(neuron, IntegrateFire) else zero),
        proved=spiking and int(reach.magnitude.max()) <= ACCUMULATOR_LIMIT,
    )


def exact_type(population: Population, network: IntNetwork, reach: int) -> torch.dtype:
    """Return the smallest float type in which every partial sum of `population` is an exact integer.

    Args:
        reach: largest accumulated input over the window, for every possible input.

    Raises:
        RangeError: not even float64 is wide enough.
    """
    low, high = drive_interval(population, network.input)
    neuron = population.neuron
    start = int(np.abs(neuron.initial).max()) if isinstance(neuron, IntegrateFire) else 0
    top = int(neuron.threshold.max()) if isinstance(neuron, IntegrateFire) else 0
    worst = int((high - low).max()) + int(np.abs(population.bias).max()) + reach + start + top
    for dtype, limit in ((torch.float32, FLOAT32_EXACT), (torch.float64, FLOAT64_EXACT)):
        if worst < limit:
            return dtype
    raise RangeError(f"population `{population.name}`: sums may reach {worst}, the fast engine is exact below 2**53")


def run_layer(layer: Layer, signals: dict[str, Tensor], n_steps: int) -> tuple[Tensor, int]:
    """Step one population through a window (rules S1 to S4) and count its overflows (rule O1).

    Returns:
        spikes, or the potentials of a readout, (steps, samples, *shape), and the number of overflows.
    """
    drive = sum_of_inputs(layer, signals)
    is_constant = len(drive) == 1
    output = _like(drive[0], n_steps) if is_constant else drive
    membrane = torch.empty_like(drive[0]).copy_(layer.initial.expand(drive.shape[1:]))
    neuron, overflows, below = layer.population.neuron, 0, layer.threshold - 1
    for step in range(n_steps):
        membrane.add_(drive[0 if is_constant else step])  # S1
        if not layer.proved:
            overflows += count_overflows(membrane, layer.initial)
        if not isinstance(neuron, IntegrateFire):
            output[step] = membrane  # S4
            continue
        spikes = torch.sub(membrane, below, out=output[step]).clamp_(0, 1)  # S2: integers, so m >= θ iff m - (θ-1) > 0
        if neuron.reset == "subtract":  # S3
            membrane.addcmul_(spikes, layer.threshold, value=-1)
        else:
            membrane.mul_(1 - spikes)
    return output, overflows


def count_overflows(membrane: Tensor, initial: Tensor) -> int:
    """Count rule O1 over one step; the exact count is made only when the extremes leave room for one."""
    low, high = (int(value.item()) for value in torch.aminmax(membrane))
    if low - int(initial.max()) >= -ACCUMULATOR_LIMIT and high - int(initial.min()) <= ACCUMULATOR_LIMIT:
        return 0
    return int(((membrane - initial).abs_() > ACCUMULATOR_LIMIT).sum().item())


def _like(signal: Tensor, n_steps: int) -> Tensor:
    """Return an uninitialised (n_steps, *signal.shape) whose steps are laid out as `signal` is."""
    layout = torch.channels_last if signal.dim() == IMAGE_AXES else torch.contiguous_format
    shape = (n_steps * len(signal), *signal.shape[1:])
    empty = torch.empty(shape, dtype=signal.dtype, device=signal.device, memory_format=layout)
    steps: Tensor = empty.unflatten(0, (n_steps, len(signal)))
    return steps


def sum_of_inputs(layer: Layer, signals: dict[str, Tensor]) -> Tensor:
    """Weigh every source over all its steps at once (rules W1 to W3) and add the bias.

    Returns:
        (steps or 1, samples, *shape).
    """
    total: Tensor | None = None
    for kernel in layer.kernels:
        signal = signals[kernel.source].to(kernel.weight.dtype)
        steps, samples = signal.shape[:2]
        weighted = kernel(signal.flatten(0, 1)).unflatten(0, (steps, samples))
        total = weighted if total is None else total + weighted
    if total is None:
        raise RangeError(f"population `{layer.population.name}`: number of synapses is 0, allowed >= 1")
    return total.add_(layer.bias)


def count(spikes: Tensor) -> int:
    """Count the spikes of (steps, samples, *shape): per step and sample in its own type, then in float64."""
    per_sample = spikes.sum(dim=tuple(range(2, spikes.dim())))
    return int(per_sample.sum(dtype=torch.float64).item())


def _to_numpy(values: Tensor) -> NDArray[np.floating]:  # type: ignore[type-arg]  # float32 or float64
    """Return (steps, samples, ...) as a NumPy array (samples, steps, ...)."""
    array: NDArray[np.floating] = values.transpose(0, 1).contiguous().cpu().numpy()  # type: ignore[type-arg]  # as above
    return array
