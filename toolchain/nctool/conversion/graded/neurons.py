"""Neurons beside those of the activations: for maxima (rule G5) and for upper bounds (rule G6). Nothing is rounded.

In: a FloatPopulation that is a maximum; a graded population. Out: graded populations. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nctool.conversion.float_network import FloatPopulation
from nctool.ir.geometry import ConvGeometry, Shape
from nctool.ir.network import GradedReLU, IntArray, Population, Synapse

BELOW = ".below"
"""What the name of a population that a bounded one reads ends in."""


def bounded(population: Population, most: IntArray | None) -> list[Population]:
    """Return a population whose spikes carry no more than `most`, int64 (channels,), behind the one that it reads.

    A sum that is shifted is rounded down, half a unit in the mean. The bias makes up for it, also where the weights are
    negated.
    """
    if most is None:
        return [population]
    shifted = sum(synapse.exponent < 0 for synapse in population.synapses)
    below = replace(
        population,
        name=f"{population.name}{BELOW}",
        bias=most - population.bias + shifted,
        synapses=tuple(replace(synapse, weight=-synapse.weight) for synapse in population.synapses),
    )
    return [below, replace(population, bias=most, synapses=(_one_to_one(below.name, population.shape, -1),))]


def _one_to_one(source: str, shape: Shape, weight: int) -> Synapse:
    """Return a synapse that gives each neuron what one neuron of its source sends, times `weight`."""
    if len(shape) == 1:
        return Synapse(source, weight * np.eye(shape[0], dtype=np.int32))
    weights = np.full((shape[0], 1, 1, 1), weight, np.int32)
    return Synapse(source, weights, conv=ConvGeometry(groups=shape[0]))


@dataclass(frozen=True)
class _Term:
    """What one synapse adds to a sum of graded spikes: `taps` of a window of the source, or channels of differences.

    Args:
        source: what is read.
        weights: int32 (kernel height, kernel width) of each window, or (differences,) of a window.
    """

    source: str
    weights: IntArray


def maximum_neurons(real: FloatPopulation) -> list[Population]:
    """Return the populations that compute a maximum of graded spikes.

    Sums of terms stand for the maxima of pairs, of pairs of pairs, ... Each level is one population, whose channels
    hold the differences of all pairs of a window side by side.
    """
    (synapse,) = real.synapses
    taps = np.argwhere(synapse.weight[0, 0] > 0)
    sums = [[_Term(synapse.source, _single(synapse.weight.shape[2:], tap))] for tap in taps]
    populations: list[Population] = []
    while len(sums) > 1:
        pairs = [(sums[k], sums[k + 1]) for k in range(0, len(sums) - 1, 2)]
        name, left = f"{real.name}.level{len(populations) + 1}", sums[2 * len(pairs) :]
        populations.append(_differences(name, real, pairs))
        sums = [[*x, _Term(name, np.eye(len(pairs), dtype=np.int32)[k])] for k, (x, _) in enumerate(pairs)] + left
    populations.append(_population(real.name, real, [sums[0]]))
    return populations


def _single(size: Shape, tap: IntArray) -> IntArray:
    kernel = np.zeros(size, np.int32)
    kernel[tuple(tap)] = 1
    return kernel


def _differences(name: str, real: FloatPopulation, pairs: list[tuple[list[_Term], list[_Term]]]) -> Population:
    """Return the population that sends max(0, y - x) for each pair (x, y) of sums."""
    negated = [[*y, *(replace(term, weights=-term.weights) for term in x)] for x, y in pairs]
    return _population(name, real, negated)


def _population(name: str, real: FloatPopulation, sums: list[list[_Term]]) -> Population:
    """Return the population of one graded ReLU for each sum, in every window of every channel."""
    channels = real.shape[0]
    sources = dict.fromkeys(term.source for terms in sums for term in terms)
    synapses = tuple(_synapse(source, real, sums) for source in sources)
    shape = (channels * len(sums), *real.shape[1:])
    return Population(name, shape, GradedReLU(), np.zeros(shape[0], np.int64), synapses)


def _synapse(source: str, real: FloatPopulation, sums: list[list[_Term]]) -> Synapse:
    """Return what one source adds to each of the sums."""
    (synapse,) = real.synapses
    kernels = [sum(term.weights for term in terms if term.source == source) for terms in sums]
    like = next(term.weights for terms in sums for term in terms if term.source == source)
    of_window = np.array([np.broadcast_to(kernel, like.shape) for kernel in kernels], np.int32)
    channels = real.shape[0]
    geometry = synapse.conv or ConvGeometry()
    if source != synapse.source:  # the differences of a window, side by side
        of_window, geometry = of_window[:, :, np.newaxis, np.newaxis], ConvGeometry(groups=channels)
    else:
        of_window = of_window[:, np.newaxis]
    return Synapse(source, np.tile(of_window, (channels, 1, 1, 1)), conv=replace(geometry, groups=channels))
