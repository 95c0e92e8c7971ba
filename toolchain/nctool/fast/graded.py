"""Graded populations and their readout in the fast engine.

What a graded spike may carry is known for no layer but the first, so each batch is looked at: the largest number that
came bounds every partial sum of the next layer, and so says whether float32 holds it exactly.

In: signals as tensors. Out: a LayerRun. Must not import the reference engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nctool.fast.choice import FLOAT, Choice
from nctool.fast.integer_weights import FLOAT32_EXACT
from nctool.fast.kernel import FloatWeights, Kernel, kernel_of_synapse
from nctool.fast.layer import Extremes, LayerRun, Surroundings
from nctool.ir.checks import largest_sum
from nctool.ir.network import PAYLOAD_LIMIT, Population, Readout, Synapse
from nctool.ir.population import GRADED_SUM_LIMIT


@dataclass(frozen=True)
class GradedSynapse:
    """One synapse, ready to run.

    Args:
        kernel: without the exponent, in float32 where that holds every weight.
        exponent: its sums are multiplied by 2**exponent, and rounded down.
        reach: largest magnitude of a sum where every signal is 1 or -1.
    """

    kernel: Kernel
    exponent: int
    reach: float

    @classmethod
    def prepare(cls, synapse: Synapse, network: Surroundings, device: torch.device, choice: Choice) -> GradedSynapse:
        """Bring the weights to the device; of the choice, integer kernels are not used."""
        plain = replace(synapse, exponent=0)
        is_wide = int(np.abs(synapse.weight.astype(np.int64)).max()) > FLOAT32_EXACT or not choice.float32
        dtype = torch.float64 if is_wide else torch.float32
        floats = replace(choice, integer=False, fused=False)
        kernel = kernel_of_synapse(plain, network.shapes[synapse.source], device, dtype, choice=floats)
        return cls(kernel, synapse.exponent, largest_sum(plain, 1))

    def __call__(self, signal: Tensor) -> tuple[Tensor, float, int]:
        """Weigh (samples, *source shape) (rules W1 to W3).

        Returns:
            the weighted signal (samples, *shape), the largest magnitude that any of it can have, and how many sums
            are beyond what is held before the shift (rule O3).
        """
        most = self.reach * float(signal.abs().amax().item())
        sums = self._sums(signal, torch.float32 if most < FLOAT32_EXACT else torch.float64)
        beyond = int((sums.abs() > GRADED_SUM_LIMIT).sum().item()) if most > GRADED_SUM_LIMIT else 0
        factor = 2.0**self.exponent
        arriving = sums if self.exponent == 0 else sums * factor
        return arriving.floor_() if self.exponent < 0 else arriving, most * factor + 1, beyond

    def _sums(self, signal: Tensor, dtype: torch.dtype) -> Tensor:
        """Weigh a signal in the type that holds every sum exactly."""
        weights = self.kernel.weights
        if weights.dtype in (dtype, torch.float64) or not isinstance(weights, FloatWeights):
            return self.kernel(signal)
        return replace(self.kernel, weights=replace(weights, values=weights.values.to(dtype)))(signal)


@dataclass(frozen=True)
class GradedLayer:
    """One population as tensors.

    Args:
        population: what is computed.
        synapses: ready to run.
        bias: float64, shaped to broadcast over (samples, *shape).
        largest_bias: its largest magnitude.
        fires: False for a readout.
    """

    population: Population
    synapses: tuple[GradedSynapse, ...]
    bias: Tensor
    largest_bias: int
    fires: bool

    @classmethod
    def prepare(
        cls, network: Surroundings, population: Population, device: torch.device, choice: Choice = FLOAT
    ) -> GradedLayer:
        """Bring the numbers of a population to the device."""
        shape = (-1, *[1] * (len(population.shape) - 1))
        return cls(
            population=population,
            synapses=tuple(GradedSynapse.prepare(synapse, network, device, choice) for synapse in population.synapses),
            bias=torch.from_numpy(population.bias.astype(np.float64)).to(device).reshape(shape),
            largest_bias=int(np.abs(population.bias).max()),
            fires=not isinstance(population.neuron, Readout),
        )

    @property
    def chosen(self) -> str:
        """Return what the kernels are called: the type is chosen for each batch."""
        return "float32 or float64"

    @property
    def start(self) -> Tensor:
        """Return 0: a graded neuron has no memory."""
        return torch.zeros(1, dtype=torch.float64)

    def run(
        self,
        signals: Mapping[str, Tensor],
        n_steps: int,  # noqa: ARG002 - as the other layers
        extremes: Extremes | None = None,
    ) -> LayerRun:
        """Run the one step of a window (rules G2 to G4) and count what has no room (rule O3).

        Args:
            signals: per source, (1, samples, *source shape).
            n_steps: 1.
            extremes: take those of the drive.
        """
        weighted = [synapse(signals[synapse.kernel.source][0]) for synapse in self.synapses]
        most = self.largest_bias + sum(reach for _, reach, _ in weighted)
        exact = torch.float32 if most < FLOAT32_EXACT else torch.float64
        drive = self.bias.to(exact)
        for arriving, _, _ in weighted:
            drive = drive + arriving.to(exact)
        beyond = sum(count for _, _, count in weighted)
        if extremes is not None:
            extremes.see(drive)
            extremes.close()
        if most > PAYLOAD_LIMIT:
            beyond += int((drive.abs() > PAYLOAD_LIMIT).sum().item())
        if not self.fires:
            return LayerRun(None, drive[None], beyond)
        sent = drive.clamp(0, PAYLOAD_LIMIT).to(torch.float32)
        return LayerRun(sent[None], None, beyond, int(sent.count_nonzero().item()))
