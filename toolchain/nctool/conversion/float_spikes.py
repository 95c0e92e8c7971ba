"""The float spiking network: what the integers stand for, before anything was rounded.

The same neurons as in training (`nctool.activation.surrogate`), with the same units, on the pixels as they are, or on
the same spike trains. Each layer reads the spikes of the float layers before it.

In: a FloatNetwork, pixels. Out: how often each neuron fires, and logits. Must not import the
reference engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.activation.surrogate import Reset, integrate_and_fire
from nctool.conversion.float_network import CodedInput, FloatArray, FloatNetwork, FloatPopulation
from nctool.fast.engine import exact_arithmetic
from nctool.fast.kernel import Kernel, kernel_of_weights
from nctool.fast.layer import weighted_sum
from nctool.ir.inputs import RateEncoding
from nctool.ir.network import INPUT_NAME, IntArray

CPU = torch.device("cpu")


@dataclass(frozen=True)
class FloatSpikes:
    """A float network made ready to run.

    Args:
        network: real numbers, spike values not absorbed.
        coded: its input.
        reset: what a spike does to the membrane potential.
        n_steps: length of the window.
        kernels: of each population, one a synapse; the first adds the bias.
    """

    network: FloatNetwork
    coded: CodedInput
    reset: Reset
    n_steps: int
    kernels: dict[str, tuple[Kernel, ...]]

    @classmethod
    def prepare(cls, network: FloatNetwork, coded: CodedInput, reset: Reset, n_steps: int) -> FloatSpikes:
        """Bring the weights of `network` to torch."""
        return cls(network, coded, reset, n_steps, {p.name: _kernels(p) for p in network.populations})

    def run(self, pixels: NDArray[np.uint8]) -> tuple[dict[str, IntArray], FloatArray]:
        """Run a batch for one window.

        Args:
            pixels: uint8 (samples, *input shape).

        Returns:
            how often each neuron fires, int64 (samples, *shape) by population, and mean logits (samples, classes).
        """
        signals, counts, logits = {INPUT_NAME: self._signal(pixels)}, {}, np.empty(0)
        last_reader = self.network.last_readers
        with exact_arithmetic():
            for population in self.network.populations:
                drive = weighted_sum(self.kernels[population.name], signals)
                signals = {name: sent for name, sent in signals.items() if last_reader.get(name) != population.name}
                if population.threshold is None:
                    logits = drive.mean(dim=0).flatten(1).numpy()
                    continue
                spikes = self._fire(population, population.threshold, drive)
                counts[population.name] = spikes.count_nonzero(dim=0).numpy()
                if population.name in last_reader:
                    signals[population.name] = spikes / population.units
        return counts, logits

    def _signal(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return the real input, float64 (n_steps or 1, samples, *shape)."""
        coded, column = self.coded, (-1, *[1] * (len(self.network.input_shape) - 1))
        if isinstance(coded.encoding, RateEncoding):
            signal = coded.encoding.signal(pixels, self.n_steps) * coded.step.reshape(column)
        else:
            signal = coded.real[np.arange(len(coded.real)).reshape(column), pixels][:, np.newaxis]
        return torch.from_numpy(np.ascontiguousarray(signal.swapaxes(0, 1)))

    def _fire(self, population: FloatPopulation, threshold: float, drive: Tensor) -> Tensor:
        """Return the threshold where a neuron fires, else 0: (n_steps, samples, *shape)."""
        steps = drive.expand(self.n_steps, *drive.shape[1:]).clone()
        if self.reset == "subtract":  # a unit starts at its own potential, not in the middle (rule U1)
            unit = torch.arange(population.shape[0], dtype=drive.dtype) % population.units
            start = threshold * ((2 * unit + 1) / (2 * population.units) - 0.5)
            steps[0] += start.reshape(-1, *[1] * (len(population.shape) - 1))
        theta = torch.tensor(threshold, dtype=drive.dtype)
        return integrate_and_fire(steps.flatten(0, 1), theta, self.n_steps, self.reset).view_as(steps)


def _kernels(population: FloatPopulation) -> tuple[Kernel, ...]:
    first, *rest = (
        kernel_of_weights(s.source, s.weight, s.conv, s.source_shape, s.repeat, CPU, torch.float64)
        for s in population.synapses
    )
    return (replace(first, bias=torch.from_numpy(population.bias.repeat(population.units))), *rest)
