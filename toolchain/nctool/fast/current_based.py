"""Current-based populations in the fast engine.

Both states are integers below 2**32 and a decay multiplies them by at most 2**12, so a float64 holds every product
exactly: dividing by 2**12 and truncating is the integer shift. The weighted input is computed for all time steps at
once, in float32 or in 8-bit integers where that is exact. A compiled loop steps a population whose registers hold
everything, torch any other.

In: signals as tensors. Out: a LayerRun. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.fast.choice import FLOAT, Choice
from nctool.fast.layer import LayerRun, empty_steps, exact_type, flat, tiled
from nctool.fast.synapses import RegisteredSynapse, held
from nctool.ir.bounds import drive_interval
from nctool.ir.network import INPUT_NAME, CurrentBased, IntArray, IntNetwork, Pair, Population
from nctool.ir.population import SUM_BITS

UNITS = 2**6
"""Weights, biases and thresholds meet the states in units of 2**6 (rules C1 to C3)."""

DECAY_UNITY = 2**12
WRAP = 2**23


@dataclass(frozen=True)
class CurrentBasedLayer:
    """One population as tensors.

    Args:
        population: what is computed.
        neuron: its neuron.
        synapses: what drives it from before it.
        recurrent: what it sends to itself.
        may_wrap, may_saturate: False where no input can make the current wrap or the voltage saturate.
        kept: what is left of the current and of the voltage after a step, as `kept_share` returns it.
        bias: float64 per channel, in units of the states, shaped to broadcast over (samples, *shape).
        latency: how many of the steps come before time step 1 (rule C4).
        is_answer: True for the last population of the network.
        numbers: float64 (2, tile), what is left of both states, for a compiled loop; None where torch steps.
    """

    population: Population
    neuron: CurrentBased
    synapses: tuple[RegisteredSynapse, ...]
    recurrent: tuple[RegisteredSynapse, ...]
    kept: tuple[float | Tensor, float | Tensor]
    bias: Tensor
    may_wrap: bool
    may_saturate: bool
    latency: int
    is_answer: bool
    numbers: NDArray[np.float64] | None = None

    @classmethod
    def prepare(
        cls,
        network: IntNetwork,
        population: Population,
        neuron: CurrentBased,
        device: torch.device,
        choice: Choice = FLOAT,
    ) -> CurrentBasedLayer:
        """Choose the kernels and their type and bring the numbers to the device.

        Args:
            neuron: of the population.

        Raises:
            RangeError: a sum could leave the mantissa of float64.
        """
        dtype = exact_type(population, network, 0, choice)
        synapses, recurrent = (
            tuple(RegisteredSynapse.prepare(synapse, network, population, device, dtype, choice) for synapse in some)
            for some in (population.feedforward, population.recurrent)
        )
        bias = _per_channel(population, population.bias.astype(np.int64) * UNITS, device)
        decays = (neuron.current_decay, neuron.voltage_decay)
        current_kept, voltage_kept = (kept_share(_per_channel(population, decay, device)) for decay in decays)
        may_wrap, may_saturate = reachable(network, population, neuron)
        is_answer = population is network.readout
        kept = (current_kept, voltage_kept)
        ways = (synapses, recurrent)
        layer = cls(population, neuron, *ways, kept, bias, may_wrap, may_saturate, network.latency, is_answer)
        held = may_wrap or may_saturate or recurrent or any(synapse.register_bits for synapse in synapses)
        return layer if held or dtype != torch.float32 or not choice.fused else layer._fused()

    def _fused(self) -> CurrentBasedLayer:
        """Return the layer with what a compiled loop takes."""
        channels = (self.population.shape[0],)
        kept = (np.broadcast_to(np.asarray(share, np.float64).reshape(-1), channels) for share in self.kept)
        return replace(self, numbers=tiled(np.stack(list(kept))))

    @property
    def chosen(self) -> str:
        """Return which kernels run, for people: of each synapse, then of the neurons."""
        parts = (part for synapse in (*self.synapses, *self.recurrent) for part in synapse.parts)
        names = " + ".join(dict.fromkeys(part.kernel.weights.name for part in parts))
        return f"{names or 'no synapses'}, {'step by step' if self.numbers is None else 'fused'}"

    def run(self, signals: Mapping[str, Tensor], n_steps: int) -> LayerRun:
        """Step the population through a window (rules C1 to C5) and count wraps and saturations (rule O2).

        Args:
            signals: per source, (n_steps or 1, samples, *source shape).
            n_steps: length of the window and of what comes before it.
        """
        (weighted, overflows), bias = self._weighted(signals, n_steps), self._bias(signals)
        if self.numbers is not None:
            return self._in_one_pass(weighted, bias, self.numbers, n_steps, overflows)
        some = next(iter(signals.values()))
        current = torch.zeros((some.shape[1], *self.population.shape), dtype=torch.float64, device=some.device)
        voltage = torch.zeros_like(current)
        sizes = (n_steps, some.shape[1], self.population.shape)
        spikes = empty_steps(*sizes, torch.float32, some.device)
        voltages = empty_steps(*sizes, torch.float64, some.device) if self.is_answer else None
        first = self.latency - self.neuron.latency
        spikes[:first] = 0
        for step in range(first, n_steps):  # C4
            if self.neuron.reset_interval and (step - self.latency) % self.neuron.reset_interval == 0:  # C5
                current.zero_()
                voltage.zero_()
            decay_(current, self.kept[0])
            if weighted is not None:
                current.add_(weighted[min(step, len(weighted) - 1)], alpha=UNITS)
            if step > first:
                overflows += self._add_own(current, spikes[step - 1 : step])
            wraps = wrap_(current) if self.may_wrap else 0  # C1
            decay_(voltage, self.kept[1]).add_(current).add_(bias)
            saturations = saturate_(voltage) if self.may_saturate else 0  # C2
            fired = voltage > UNITS * self.neuron.threshold
            overflows += wraps + saturations  # O2
            spikes[step] = fired
            voltage.masked_fill_(fired, 0)  # C3
            if voltages is not None:
                voltages[step] = voltage
        return LayerRun(spikes, voltages, overflows)

    def _in_one_pass(
        self, weighted: Tensor | None, bias: Tensor, numbers: NDArray[np.float64], n_steps: int, overflows: int
    ) -> LayerRun:
        """Step the population through a window in a compiled loop; nothing can wrap or saturate.

        Args:
            weighted: float32 (n_steps or 1, samples, *shape), or None where the bias has the samples.
        """
        from nctool.fast.fused import leak

        shape, neuron, units = self.population.shape, self.neuron, float(UNITS)
        if weighted is None:
            drive = np.zeros((1, bias.numel()), np.float32)
            biases, samples = flat(bias[None])[0], len(bias)
        else:
            drive, samples = flat(weighted), weighted.shape[1]
            biases = tiled(bias.numpy().reshape(1, -1))[0]
        spikes = empty_steps(n_steps, samples, shape, torch.uint8, bias.device)
        voltages = empty_steps(n_steps, samples, shape, torch.float64, bias.device) if self.is_answer else None
        seen = np.empty((0, 0)) if voltages is None else flat(voltages)
        when = (self.latency - neuron.latency, self.latency, neuron.reset_interval or 0)
        n_spikes = leak(drive, units, numbers, biases, units * neuron.threshold, *when, flat(spikes), seen)
        return LayerRun(spikes, voltages, overflows, n_spikes)

    def _add_own(self, current: Tensor, spikes: Tensor) -> int:
        """Add what the population's own spikes of the step before bring, and return how many sums changed (rule W6)."""
        changed = 0
        for synapse in self.recurrent:
            arriving, sums_changed = synapse({self.population.name: spikes}, 1)
            current.add_(arriving[0], alpha=UNITS)
            changed += sums_changed
        return changed

    def _bias(self, signals: Mapping[str, Tensor]) -> Tensor:
        """Return the bias of every neuron; the sample is in it where no synapse drives the population (rule I3)."""
        if self.population.synapses:
            return self.bias
        return self.bias + UNITS * signals[INPUT_NAME][-1].double()

    def _weighted(self, signals: Mapping[str, Tensor], n_steps: int) -> tuple[Tensor | None, int]:
        """Return the weighted input, (n_steps or 1, samples, *shape), and how many sums a register changed.

        The input is None where no synapse drives the population.
        """
        total, changed = None, 0
        for synapse in self.synapses:
            arriving, sums_changed = synapse(signals, n_steps)
            total, changed = arriving if total is None else total + arriving, changed + sums_changed
        return total, changed


def _per_channel(population: Population, values: IntArray, device: torch.device) -> Tensor:
    """Return one value per channel, (channels,), in float64, shaped to broadcast over (samples, *shape)."""
    column = values.reshape(-1, *[1] * (len(population.shape) - 1))
    return torch.from_numpy(column.astype(np.int64)).to(device, torch.float64)


def reachable(network: IntNetwork, population: Population, neuron: CurrentBased) -> tuple[bool, bool]:
    """Return whether some input could make the current wrap, and the voltage saturate.

    A state that loses d / 4096 a step and gains at most g stays within g * 4096 / d.
    """
    low, high = drive_interval(replace(population, bias=np.zeros_like(population.bias)), network.input)
    bias = np.abs(population.bias).max()
    if not population.synapses:
        bias += max(np.abs(values).max() for values in network.input.channel_range())
    current = _reach(UNITS * float(max(high.max(), -low.min())), int(neuron.current_decay.min()))
    voltage = _reach(current + UNITS * float(bias), int(neuron.voltage_decay.min()))
    return current >= WRAP, voltage >= WRAP


def _reach(gain: float, decay: int) -> float:
    if gain == 0:
        return 0.0
    return gain * DECAY_UNITY / decay if decay else float("inf")


def kept_share(decay: Tensor) -> float | Tensor:
    """Return what is left of 1 after a step: one number where all neurons agree."""
    kept = (DECAY_UNITY - decay) / DECAY_UNITY
    first = float(kept.reshape(-1)[0].item())
    return first if bool((kept == first).all()) else kept


def decay_(state: Tensor, kept: float | Tensor) -> Tensor:
    """Leave of a state what a step leaves, rounded towards zero, in place (rules C1 and C2)."""
    if isinstance(kept, float) and kept in (0.0, 1.0):
        return state if kept else state.zero_()
    return state.mul_(kept).trunc_()


def wrap_(current: Tensor) -> int:
    """Hold a sum in 32 bits and wrap it to 24 once, in place (rule C1); return how many that changed."""
    low, high = extremes(current)
    if low > -WRAP and high <= WRAP:
        return 0
    changed = int(((current > WRAP) | (current <= -WRAP)).sum())
    if low < -(2 ** (SUM_BITS - 1)) or high >= 2 ** (SUM_BITS - 1):
        current.copy_(held(current, SUM_BITS))
    above, below = current > WRAP, current <= -WRAP
    current.add_(above, alpha=-2 * WRAP).add_(below, alpha=2 * WRAP)
    return changed


def saturate_(voltage: Tensor) -> int:
    """Saturate a sum to 24 bits, in place (rule C2); return how many did."""
    low, high = extremes(voltage)
    if low > -WRAP and high < WRAP:
        return 0
    beyond = int((voltage.abs() >= WRAP).sum())
    voltage.clamp_(-WRAP + 1, WRAP - 1)
    return beyond


def extremes(values: Tensor) -> Pair:
    """Return the smallest and largest of some integers."""
    low, high = torch.aminmax(values)
    return int(low.item()), int(high.item())
