"""FloatNetwork: a traced network in real numbers, on its way to integers.

In: what `tracing` read from a torch module. Out: frozen dataclasses that the conversion steps replace one by
one. NumPy float64 only. Must not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.ir.geometry import ConvGeometry, Pair, Shape
from nctool.ir.repeat import NO_REPEAT, Repeat

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Average pooling between a source and the weights that read it.

    Args:
        module: name of the torch module, for messages.
        kernel, stride, padding: (height, width).
        divisor: what a window's sum is divided by.
        source: shape that is pooled, (channels, height, width).
    """

    module: str
    kernel: Pair
    stride: Pair
    padding: Pair
    divisor: int
    source: Shape

    @property
    def output(self) -> Shape:
        """Return the pooled shape."""
        geometry = ConvGeometry(self.stride, self.padding)
        return (self.source[0], *geometry.output_size(self.source, self.kernel))


@dataclass(frozen=True)
class Enlargement:
    """An image that is enlarged between a source and the weights that read it.

    Args:
        module: name of the torch module, for messages.
        factor: how many times as (high, wide) it becomes.
        source: shape that is enlarged, (channels, height, width).
        shuffles: the pixels of a block come from as many neighbouring channels; else one neuron gives all.
    """

    module: str
    factor: Pair
    source: Shape
    shuffles: bool = False

    @property
    def output(self) -> Shape:
        """Return the enlarged shape."""
        channels, height, width = self.source
        high, wide = self.factor
        return (channels // (high * wide) if self.shuffles else channels, height * high, width * wide)


Resized = Pool | Enlargement
"""What makes an image smaller or larger between a source and the weights that read it."""


@dataclass(frozen=True, eq=False)
class Norm:
    """Batch normalisation after the weighted sum: y = gain * x + shift, float64 (channels,) each."""

    gain: FloatArray
    shift: FloatArray


@dataclass(frozen=True, eq=False)
class Scaled:
    """What batch normalisation makes of spikes, or of the input, on their way to a linear layer.

    Args:
        module: the norms, for messages.
        source: population or `input` that sends.
        pools: poolings and enlargements met since.
        norm: float64 (channels,), or (features,) once they are flattened.
    """

    module: str
    source: str
    pools: tuple[Resized, ...]
    norm: Norm


@dataclass(frozen=True, eq=False)
class Composed:
    """What a layer read whose weights were multiplied by those of a second: the two round one after the other.

    Args:
        first: what the second one read.
        weight: magnitudes of the second one's weights, float64 (channels, channels of `first`), summed over its kernel;
            (channels,) where it weighs each channel on its own.
    """

    first: FloatSynapse | Scaled
    weight: FloatArray


@dataclass(frozen=True, eq=False)
class FloatSynapse:
    """A linear layer: what one branch adds to the pre-activation of a population.

    Args:
        module: name of the linear module, or of the sum that an identity is a part of, for messages.
        source: population or `input` that it reads.
        source_shape: shape of that source, before pooling.
        weight: float64, each weight once, axes as in `nctool.ir.network.Synapse`; per unit of the (pooled) source.
        bias: float64 (channels,), of one replica for each activation.
        conv: geometry of the distinct weights on what they read; None for a dense layer.
        norm: batch normalisation still to be folded.
        pools: poolings and enlargements still to be folded, first applied first.
        repeat: how the weights repeat on the source.
        composed: layers whose weights are in these, as no activation lies between.
    """

    module: str
    source: str
    source_shape: Shape
    weight: FloatArray
    bias: FloatArray
    conv: ConvGeometry | None
    norm: Norm | None = None
    pools: tuple[Resized, ...] = ()
    repeat: Repeat = NO_REPEAT
    composed: tuple[Composed, ...] = ()

    @property
    def groups(self) -> int:
        """Return how many parts the source is split into, each read by channels of its own."""
        return 1 if self.conv is None else self.conv.groups

    @property
    def summed_shape(self) -> Shape:
        """Return the shape of the sums of signals that share a weight."""
        return self.repeat.summed_shape(self.source_shape)

    def per_weight(self, values: NDArray[Any]) -> NDArray[Any]:
        """Spread a value of each channel of the source, (channels,), over the weights that read it, to broadcast."""
        if self.conv is None:
            return np.repeat(values, math.prod(self.summed_shape[1:]))
        return values[self.conv.source_channels(self.weight.shape)][:, :, np.newaxis, np.newaxis]

    @property
    def largest(self) -> FloatArray:
        """Return the largest magnitude of a weight of each channel, float64 (channels,)."""
        largest: FloatArray = np.abs(self.weight).reshape(len(self.weight), -1).max(axis=1)
        return largest


@dataclass(frozen=True, eq=False)
class FloatPopulation:
    """The sum of linear layers with the activation behind it.

    Args:
        name: name of the first linear module, or of the sum if there is none.
        shape: (channels,) or (channels, height, width) of the output, all replicas counted.
        synapses: the branches of the sum, at least one.
        threshold: of the activation, > 0, in units of the pre-activation, float64 (channels,) of one replica; infinite
            where it is still to be chosen, None for the readout.
        replicas: neurons that share an activation, >= 1; their channels lie side by side, and a spike of one is worth
            threshold / replicas.
        shift: what the initial potential of every replica has beside threshold * (k + 1/2) / replicas, in the same
            units, float64 (channels,) of one replica; None for nothing.
        ceiling: largest value of the activation that a ReLU network has here; infinite for a plain ReLU.
        levels: steps that the activation was trained with; 0 for a ReLU.
        maximum: each neuron fires where one of those that it reads does (rule M1). Its one synapse reads every channel
            on its own, all replicas counted, by weights of 0 and 1; threshold and replicas are those of its source.
        graded: spikes carry numbers (rule G2); the threshold is then what a spike of 1 is worth.
        most: largest number that a graded spike carries, int64 (channels,); None for any.
    """

    name: str
    shape: Shape
    synapses: tuple[FloatSynapse, ...]
    threshold: FloatArray | None = None
    replicas: int = 1
    shift: FloatArray | None = None
    ceiling: float = math.inf
    levels: int = 0
    maximum: bool = False
    graded: bool = False
    most: NDArray[np.int64] | None = None

    @property
    def saturation(self) -> FloatArray | None:
        """Return the drive above which a step sends no more, float64 (channels,); None of a readout."""
        if self.threshold is None or not self.graded:
            return self.threshold
        return np.full(len(self.threshold), np.inf) if self.most is None else self.threshold * self.most

    @property
    def bias(self) -> FloatArray:
        """Return the sum of the biases of all branches, float64 (channels,), of one replica for each activation."""
        bias: FloatArray = np.sum([synapse.bias for synapse in self.synapses], axis=0)
        return bias

    @property
    def starts(self) -> FloatArray:
        """Return the potential that each replica of what spikes starts a window at, float64 (channels, replicas)."""
        if self.threshold is None:
            return np.zeros((len(self.bias), self.replicas))
        middle = self.threshold[:, np.newaxis] * (np.arange(self.replicas) + 0.5) / self.replicas
        return middle if self.shift is None else middle + self.shift[:, np.newaxis]


@dataclass(frozen=True)
class FloatNetwork:
    """Populations in topological order; the last one is the readout.

    Args:
        input_shape: shape of one sample.
        populations: what the input drives.
    """

    input_shape: Shape
    populations: tuple[FloatPopulation, ...]

    @property
    def has_neurons(self) -> bool:
        """Return False where a threshold is still to be chosen: it is infinite."""
        return all(p.threshold is None or np.isfinite(p.threshold).all() for p in self.populations)

    def up_to_readers_of(self, source: str) -> FloatNetwork:
        """Return the populations up to the last that reads a source; a network without its readout."""
        last = max(i for i, p in enumerate(self.populations) if any(s.source == source for s in p.synapses))
        return replace(self, populations=self.populations[: last + 1])

    @property
    def maxima(self) -> dict[str, FloatPopulation]:
        """Return, by the name of a population that nothing but a maximum reads, that maximum."""
        readers: dict[str, list[FloatPopulation]] = {}
        for population in self.populations:
            for source in {synapse.source for synapse in population.synapses}:
                readers.setdefault(source, []).append(population)
        return {source: reading[0] for source, reading in readers.items() if len(reading) == 1 and reading[0].maximum}

    @property
    def last_readers(self) -> dict[str, str]:
        """Return the last reader of each source that a population reads, by name."""
        return {synapse.source: population.name for population in self.populations for synapse in population.synapses}


def map_synapses(network: FloatNetwork, step: Callable[[FloatSynapse], FloatSynapse]) -> FloatNetwork:
    """Apply `step` to every synapse."""
    populations = (replace(p, synapses=tuple(step(synapse) for synapse in p.synapses)) for p in network.populations)
    return replace(network, populations=tuple(populations))
