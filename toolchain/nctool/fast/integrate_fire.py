"""Integrate-and-fire populations and readouts in the fast engine.

Where compiled loops may be used, one pass steps a population through the window; else torch does, step by step.

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
from nctool.fast.kernel import Kernel, kernel_of_synapse
from nctool.fast.layer import (
    Extremes,
    LayerRun,
    Surroundings,
    empty_steps,
    exact_type,
    flat,
    over_steps,
    signal_range,
    tiled,
    weighted_sum,
)
from nctool.ir.bounds import prove_population
from nctool.ir.network import ACCUMULATOR_LIMIT, IntArray, IntegrateFire, Population

CHANNEL_AXIS = 2
"""Of (steps, samples, channels, ...)."""


@dataclass(frozen=True)
class IntegrateFireLayer:
    """One population as tensors, in the type that holds every sum exactly.

    Args:
        population: what is computed.
        kernels: one per synapse; the first adds the bias.
        start: membrane at the start of a window, per channel, shaped to broadcast over (samples, channels, height,
            width), shifted by 1 - threshold, so that a neuron fires above 0: these are
            integers, so the spike is the membrane, clamped to 0 .. 1.
        taken: what a spike takes off the membrane, beside all that is above 0 where a spike clears it.
        fires, clears: False for a readout; True for a reset to zero.
        proved: True when no accumulated input can leave the accumulator, so none needs counting.
        numbers: float32 (3, tile), what `nctool.fast.fused` takes; None where torch steps the population.
    """

    population: Population
    kernels: tuple[Kernel, ...]
    start: Tensor
    taken: Tensor
    fires: bool
    clears: bool
    proved: bool
    numbers: NDArray[np.float32] | None = None

    @classmethod
    def prepare(
        cls,
        network: Surroundings,
        population: Population,
        n_steps: int,
        device: torch.device,
        choice: Choice = FLOAT,
    ) -> IntegrateFireLayer:
        """Choose the kernels and the type of a population and bring its numbers to the device.

        Raises:
            RangeError: a sum could leave the mantissa of float64.
        """
        reach = int(prove_population(population, network.input, n_steps).magnitude.max())
        neuron = population.neuron
        threshold = shift = np.zeros_like(population.bias)
        fires = clears = False
        if isinstance(neuron, IntegrateFire):
            threshold, shift = neuron.threshold, 1 - neuron.threshold
            fires, clears = True, neuron.reset == "zero"
        beyond = sum(int(np.abs(values).max()) for values in (population.bias, population.start, threshold))
        dtype = exact_type(population, network, beyond + reach, choice)
        shape = (-1, *[1] * (len(population.shape) - 1))

        def column(values: IntArray) -> Tensor:
            return torch.from_numpy(values.astype(np.int64)).to(device, dtype).reshape(shape)

        kernels = [
            kernel_of_synapse(
                synapse,
                network.shapes[synapse.source],
                device,
                dtype,
                choice=choice,
                signal=signal_range(synapse.source, network.input),
            )
            for synapse in population.synapses
        ]
        if population.bias.any():
            kernels[0] = replace(kernels[0], bias=column(population.bias).flatten())
        layer = cls(
            population=population,
            kernels=tuple(kernels),
            start=column(population.start + shift),
            taken=column(-shift if clears else threshold),
            fires=fires,
            clears=clears,
            proved=fires and reach <= ACCUMULATOR_LIMIT,
        )
        return layer._fused() if choice.fused and dtype == torch.float32 else layer

    def _fused(self) -> IntegrateFireLayer:
        """Return the layer with what a compiled loop takes: numbers of so many neurons, all channels a few times."""
        channels = self.population.shape[0]
        bias = self.population.bias if self._is_copied else np.zeros(channels)
        columns = (self.start.flatten().numpy(), bias, self.taken.flatten().numpy())
        return replace(self, numbers=tiled(np.stack(columns).astype(np.float32)))

    @property
    def _is_copied(self) -> bool:
        """Return whether a compiled loop writes out equal channels and adds the bias, which one kernel then leaves."""
        return len(self.kernels) == 1 and self.kernels[0].repeat.copies_out > 1

    @property
    def chosen(self) -> str:
        """Return which kernels run, for people: of each synapse, then of the neurons."""
        names = " + ".join(kernel.weights.name for kernel in self.kernels)
        return f"{names}, {'step by step' if self.numbers is None else 'fused'}"

    def run(self, signals: Mapping[str, Tensor], n_steps: int, extremes: Extremes | None = None) -> LayerRun:
        """Step the population through a window (rules S1 to S4) and count its overflows (rule O1).

        Args:
            signals: per source, (n_steps or 1, samples, *source shape).
            extremes: take those of the membrane before it fires, shifted as `start` is; overflows are then not counted.
        """
        if self.numbers is None:
            return self._step_by_step(weighted_sum(self.kernels, signals), n_steps, extremes)
        if self._is_copied:
            kernel = self.kernels[0]
            drive = over_steps(kernel.distinct, signals[kernel.source])
            return self._in_one_pass(drive, self.numbers, n_steps, kernel.repeat.copies_out, extremes)
        return self._in_one_pass(weighted_sum(self.kernels, signals), self.numbers, n_steps, 1, extremes)

    def _in_one_pass(
        self, drive: Tensor, numbers: NDArray[np.float32], n_steps: int, copies: int, extremes: Extremes | None
    ) -> LayerRun:
        """Step the population through a window in a compiled loop.

        Args:
            drive: float32 (n_steps or 1, samples, channels / copies, ...).
        """
        from nctool.fast.fused import fire, fire_within, integrate

        sizes, limit = (n_steps, drive.shape[1], self.population.shape), float(ACCUMULATOR_LIMIT)
        if not self.fires:
            potentials = empty_steps(*sizes, torch.float32, drive.device)
            overflows = integrate(flat(drive), numbers, limit, copies, flat(potentials))
            if extremes is not None:
                axes = [axis for axis in range(potentials.dim()) if axis != CHANNEL_AXIS]
                extremes.add(potentials.amin(axes), potentials.amax(axes))
            return LayerRun(None, potentials, overflows)
        spikes, kept = empty_steps(*sizes, torch.uint8, drive.device), 0.0 if self.clears else 1.0
        if extremes is None:
            n_spikes, overflows = fire(flat(drive), numbers, kept, limit, copies, flat(spikes))
            return LayerRun(spikes, None, overflows, n_spikes)
        found = np.empty((2, self.population.shape[0]), np.float32)
        fire_within(flat(drive), numbers, kept, copies, flat(spikes), found)
        extremes.add(*torch.from_numpy(found))
        return LayerRun(spikes, None, 0)

    def _step_by_step(self, drive: Tensor, n_steps: int, extremes: Extremes | None) -> LayerRun:
        """Step the population through a window by torch.

        The membrane of a step replaces its drive, and its spikes replace the membrane: no other memory is touched.
        """
        sizes = (n_steps, drive.shape[1], self.population.shape)
        steps = drive if len(drive) == n_steps else empty_steps(*sizes, drive.dtype, drive.device)
        torch.add(drive[0], self.start, out=steps[0])
        overflows = 0
        for step in range(n_steps):
            membrane = steps[step]
            following = steps[step + 1] if step + 1 < n_steps else None
            if extremes is not None:
                extremes.see(membrane)
            elif not self.proved:
                overflows += count_overflows(membrane, self.start)
            if following is not None:
                torch.add(drive[min(step + 1, len(drive) - 1)], membrane, out=following)  # S1
            if self.fires:
                self._fire(membrane, following)
        if extremes is not None:
            extremes.close()
        return LayerRun(steps if self.fires else None, None if self.fires else steps, overflows)

    def _fire(self, membrane: Tensor, following: Tensor | None) -> None:
        """Turn a shifted membrane into spikes, in place, and reset what follows (rules S2 and S3)."""
        if self.clears and following is not None:
            following.sub_(membrane.clamp(min=0))  # what fired is above 0: take off all that is
        spikes = membrane.clamp_(0, 1)
        if following is not None:
            following.addcmul_(spikes, self.taken, value=-1)


def count_overflows(membrane: Tensor, start: Tensor) -> int:
    """Count rule O1 over one step; the exact count is made only when the extremes leave room for one."""
    low, high = (int(value.item()) for value in torch.aminmax(membrane))
    if low - int(start.max()) >= -ACCUMULATOR_LIMIT and high - int(start.min()) <= ACCUMULATOR_LIMIT:
        return 0
    return int(((membrane - start).abs_() > ACCUMULATOR_LIMIT).sum().item())
