"""Integrate-and-fire populations and readouts in the fast engine.

In: signals as tensors. Out: a LayerRun. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nctool.fast.kernel import Kernel, kernel_of_synapse
from nctool.fast.layer import LayerRun, Surroundings, empty_steps, exact_type, weighted_sum
from nctool.ir.bounds import prove_population
from nctool.ir.network import ACCUMULATOR_LIMIT, IntArray, IntegrateFire, Population


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
    """

    population: Population
    kernels: tuple[Kernel, ...]
    start: Tensor
    taken: Tensor
    fires: bool
    clears: bool
    proved: bool

    @classmethod
    def prepare(
        cls, network: Surroundings, population: Population, n_steps: int, device: torch.device
    ) -> IntegrateFireLayer:
        """Choose the type of a population and bring its numbers to the device.

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
        dtype = exact_type(population, network, beyond + reach)
        shape = (-1, *[1] * (len(population.shape) - 1))

        def column(values: IntArray) -> Tensor:
            return torch.from_numpy(values.astype(np.int64)).to(device, dtype).reshape(shape)

        kernels = [kernel_of_synapse(s, network.shapes[s.source], device, dtype) for s in population.synapses]
        if population.bias.any():
            kernels[0] = replace(kernels[0], bias=column(population.bias).flatten())
        return cls(
            population=population,
            kernels=tuple(kernels),
            start=column(population.start + shift),
            taken=column(-shift if clears else threshold),
            fires=fires,
            clears=clears,
            proved=fires and reach <= ACCUMULATOR_LIMIT,
        )

    def run(
        self, signals: Mapping[str, Tensor], n_steps: int, observe: Callable[[Tensor], None] | None = None
    ) -> LayerRun:
        """Step the population through a window (rules S1 to S4) and count its overflows (rule O1).

        The membrane of a step replaces its drive, and its spikes replace the membrane: no other memory is touched.

        Args:
            signals: per source, (n_steps or 1, samples, *source shape).
            observe: is shown the membrane of every step, (samples, *shape), shifted as `start` is; overflows are then
                not counted.
        """
        drive = weighted_sum(self.kernels, signals)
        steps = drive if len(drive) == n_steps else empty_steps(drive[0], n_steps)
        torch.add(drive[0], self.start, out=steps[0])
        overflows = 0
        for step in range(n_steps):
            membrane = steps[step]
            following = steps[step + 1] if step + 1 < n_steps else None
            if observe is not None:
                observe(membrane)
            elif not self.proved:
                overflows += count_overflows(membrane, self.start)
            if following is not None:
                torch.add(drive[min(step + 1, len(drive) - 1)], membrane, out=following)  # S1
            if self.fires:
                self._fire(membrane, following)
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
