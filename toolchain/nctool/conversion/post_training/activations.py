"""What the activations of the trained network give on calibration images, population by population.

In: a FloatNetwork of one neuron for each activation, the real input. Out: drives and activations in real numbers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nctool.conversion.float_network import FloatNetwork, FloatPopulation, FloatSynapse
from nctool.conversion.input_encoding import EncodedInput
from nctool.conversion.maximum_values import maximum_values
from nctool.conversion.quantise.covariance import Float32
from nctool.conversion.quantise.patches import Neurons
from nctool.fast.engine import exact_arithmetic
from nctool.fast.kernel import Kernel, kernel_of_weights
from nctool.fast.layer import weighted_sum
from nctool.ir.network import INPUT_NAME

BATCH_NUMBERS = 2**24
"""Numbers of a drive that are computed together, 64 MiB."""

MOST_KEPT = 2**28
"""Numbers of the largest layer on all images, 1 GiB; two or three layers are kept at once."""

FEWEST_IMAGES = 16
"""Images however large a layer is."""


def affordable(network: FloatNetwork, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return as many of the pixels as the largest layer leaves memory for, spread over all of them."""
    largest = max(int(np.prod(population.shape)) for population in network.populations)
    return pixels[:: -(-len(pixels) // max(FEWEST_IMAGES, MOST_KEPT // largest))]


class Activations:
    """A trained network that runs on calibration images, one population after the other.

    Args:
        network: with batch norm and pooling folded, each activation one neuron.
        encoded: the input, whose real values are read.
        pixels: uint8 (samples, *input shape).
    """

    def __init__(self, network: FloatNetwork, encoded: EncodedInput, pixels: NDArray[np.uint8]) -> None:
        self._populations = {population.name: population for population in network.populations}
        self._last_readers = network.last_readers
        column = np.arange(len(encoded.real)).reshape(-1, *[1] * (pixels.ndim - 2))
        copies = len(encoded.real) // pixels.shape[1]
        real = encoded.real[column, pixels.repeat(copies, axis=1)]
        self._sent: dict[str, Tensor] = {INPUT_NAME: torch.from_numpy(real.astype(np.float32))}

    def run(self, name: str) -> Tensor:
        """Return the drive of a population, float32 (samples, *shape), and keep what its activations give.

        Sources must have run before; those that nothing reads any more are dropped.
        """
        population = self._populations[name]
        drive = self._drive(population)
        if name in self._last_readers:
            self._sent[name] = activated(drive, population.ceiling)
        for source in {synapse.source for synapse in population.synapses}:
            if self._last_readers[source] == name:
                del self._sent[source]
        return drive

    def _drive(self, population: FloatPopulation) -> Tensor:
        """Weigh what the sources sent, batch by batch; of a maximum, take it."""
        if population.maximum:
            return maximum_values(population, self._sent[population.synapses[0].source])
        kernels = kernels_of(population)
        sources = {synapse.source: self._sent[synapse.source] for synapse in population.synapses}
        size = max(1, BATCH_NUMBERS // int(np.prod(population.shape)))
        n_samples = len(next(iter(sources.values())))
        with exact_arithmetic():
            parts = [
                weighted_sum(kernels, {name: sent[None, start : start + size] for name, sent in sources.items()})[0]
                for start in range(0, n_samples, size)
            ]
        return torch.cat(parts)

    def readers(self, name: str) -> list[FloatSynapse]:
        """Return the synapses of the trained network that read a population, but those of maxima."""
        reading = (population for population in self._populations.values() if not population.maximum)
        return [synapse for population in reading for synapse in population.synapses if synapse.source == name]

    def maximum(self, name: str, sent: Tensor) -> Tensor:
        """Return what a maximum makes of what its source gives."""
        return maximum_values(self._populations[name], sent)

    def sent(self, name: str) -> Tensor:
        """Return what a population's activations give, float32 (samples, *shape), until its last reader has run."""
        return self._sent[name]


def activated(drive: Tensor, ceiling: float) -> Tensor:
    """Return what ReLUs with an upper bound give for a drive."""
    return drive.clamp(min=0.0, max=ceiling)


def rows(values: Tensor, neurons: Neurons) -> Float32:
    """Return the values of the neurons that are looked at, float32 (patches, channels) of (samples, *shape)."""
    image = values.reshape(*values.shape[:2], *(values.shape[2:] or (1, 1)))
    chosen: Float32 = image.permute(0, 2, 3, 1)[neurons.sample, neurons.y, neurons.x].numpy()
    return chosen


def provisional(network: FloatNetwork, encoded: EncodedInput, pixels: NDArray[np.uint8]) -> FloatNetwork:
    """Return the network with the largest value of each activation as its threshold, until a better one is chosen."""
    activations, populations = Activations(network, encoded, pixels), []
    for population in network.populations:
        drive, threshold = activations.run(population.name), population.threshold
        if threshold is not None:
            threshold = np.full(len(threshold), float(activated(drive, population.ceiling).max()) or 1.0)
        populations.append(replace(population, threshold=threshold))
    return replace(network, populations=tuple(populations))


def kernels_of(population: FloatPopulation) -> tuple[Kernel, ...]:
    """Return the synapses of a population in float32, the first with the bias."""
    first, *others = (
        kernel_of_weights(s.source, s.weight, s.conv, s.source_shape, s.repeat, torch.device("cpu"), torch.float32)
        for s in population.synapses
    )
    return (replace(first, bias=torch.from_numpy(population.bias.astype(np.float32))), *others)
