"""Integrate-and-fire populations and readouts in the fast engine.

In: signals as tensors. Out: a LayerRun. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nctool.bounds import prove_population
from nctool.network import ACCUMULATOR_LIMIT, IntArray, IntegrateFire, IntNetwork, Population
from nctool.sim.fast_layer import LayerRun, empty_steps, exact_type, weighted_sum
from nctool.sim.kernel import Kernel, make_kernel


@dataclass(frozen=True)
class IntegrateFireLayer:
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

    @classmethod
    def prepare(
        cls, network: IntNetwork, population: Population, n_steps: int, device: torch.device
    ) -> IntegrateFireLayer:
        """Choose the type of a population and bring its numbers to the device.

        Raises:
            RangeError: a sum could leave the mantissa of float64.
        """
        reach = int(prove_population(population, network.input, n_steps).magnitude.max())
        neuron, zero = population.neuron, np.zeros_like(population.bias)
        fires = isinstance(neuron, IntegrateFire)
        initial = neuron.initial if isinstance(neuron, IntegrateFire) else zero
        threshold = neuron.threshold if isinstance(neuron, IntegrateFire) else zero
        beyond = sum(int(np.abs(values).max()) for values in (population.bias, initial, threshold))
        dtype = exact_type(population, network, beyond + reach)
        shape = (-1, *[1] * (len(population.shape) - 1))

        def column(values: IntArray) -> Tensor:
            return torch.from_numpy(values.astype(np.int64)).to(device, dtype).reshape(shape)

        return cls(
            population=population,
            kernels=tuple(make_kernel(s, network.shapes[s.source], device, dtype) for s in population.synapses),
            bias=column(population.bias),
            threshold=column(threshold),
            initial=column(initial),
            proved=fires and reach <= ACCUMULATOR_LIMIT,
        )

    def run(self, signals: Mapping[str, Tensor], n_steps: int) -> LayerRun:
        """Step the population through a window (rules S1 to S4) and count its overflows (rule O1).

        Args:
            signals: per source, (n_steps or 1, samples, *source shape).
        """
        drive = weighted_sum(self.kernels, signals).add_(self.bias)
        is_constant = len(drive) == 1
        output = empty_steps(drive[0], n_steps) if is_constant else drive
        membrane = torch.empty_like(drive[0]).copy_(self.initial.expand(drive.shape[1:]))
        neuron, overflows, below = self.population.neuron, 0, self.threshold - 1
        for step in range(n_steps):
            membrane.add_(drive[0 if is_constant else step])  # S1
            if not self.proved:
                overflows += count_overflows(membrane, self.initial)
            if not isinstance(neuron, IntegrateFire):
                output[step] = membrane  # S4
                continue
            # S2: these are integers, so m >= θ iff m - (θ - 1) > 0
            spikes = torch.sub(membrane, below, out=output[step]).clamp_(0, 1)
            if neuron.reset == "subtract":  # S3
                membrane.addcmul_(spikes, self.threshold, value=-1)
            else:
                membrane.mul_(1 - spikes)
        fires = isinstance(neuron, IntegrateFire)
        return LayerRun(output if fires else None, None if fires else output, overflows)


def count_overflows(membrane: Tensor, initial: Tensor) -> int:
    """Count rule O1 over one step; the exact count is made only when the extremes leave room for one."""
    low, high = (int(value.item()) for value in torch.aminmax(membrane))
    if low - int(initial.max()) >= -ACCUMULATOR_LIMIT and high - int(initial.min()) <= ACCUMULATOR_LIMIT:
        return 0
    return int(((membrane - initial).abs_() > ACCUMULATOR_LIMIT).sum().item())
