"""Integers that stand for those of a network that is not trained yet: of the same size, so that it can be placed.

The numbers are the largest of their kind, which take as much memory as trained ones: weights fill their bits, and each
neuron has a bias.

In: a FloatNetwork whose poolings are folded. Out: an IntNetwork of the same populations and synapses.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain

import numpy as np

from nctool.conversion.float_network import FloatNetwork, FloatPopulation, FloatSynapse
from nctool.conversion.graded.neurons import bounded, maximum_neurons
from nctool.conversion.input_encoding import EncodedInput
from nctool.conversion.quantise.maxima import integer_maximum
from nctool.ir.network import (
    Bound,
    GradedReadout,
    GradedReLU,
    IntegrateFire,
    IntNetwork,
    Population,
    Readout,
    Synapse,
)
from nctool.ir.number_format import IntegerFormat

THRESHOLD = 2**10
"""Of all neurons: every backend holds it."""

BIAS = 2**9 + 1
"""Of all neurons: it has bits enough to take two sources, as most trained ones do."""

BOUND = Bound("proved", 0, 0)
"""Of all populations: there is room."""

MEASURED = Bound("calibrated", 0, 0)
"""Of graded populations: numbers that are all the largest of their kind leave no room for a proof."""


def stand_in(network: FloatNetwork, encoded: EncodedInput, number_format: IntegerFormat, n_steps: int) -> IntNetwork:
    """Return integers of the size of `network`.

    Args:
        network: with its replicas, and the channels of the encoded input.
        encoded: the input.
        number_format: what the integers may be.
        n_steps: length of the window.
    """

    def populations(real: FloatPopulation) -> list[Population]:
        if number_format.is_graded:
            return _graded(real, number_format)
        if real.maximum:
            return [integer_maximum(real, encoded.encoding, n_steps)]
        return [_population(real, number_format)]

    return IntNetwork(encoded.encoding, tuple(chain.from_iterable(map(populations, network.populations))), n_steps)


def _graded(real: FloatPopulation, number_format: IntegerFormat) -> list[Population]:
    """Return the populations of a graded one: a maximum and an upper bound take several."""
    if real.maximum:
        return [replace(population, bound=MEASURED) for population in maximum_neurons(real)]
    has_most = real.threshold is not None and (math.isfinite(real.ceiling) or real.levels > 0)
    most = np.full(real.shape[0], THRESHOLD, np.int64) if has_most else None
    return [replace(population, bound=MEASURED) for population in bounded(_population(real, number_format), most)]


def _population(real: FloatPopulation, number_format: IntegerFormat) -> Population:
    channels = real.shape[0]
    synapses = tuple(_synapse(synapse, number_format.weight_max) for synapse in real.synapses)
    bias = np.full(channels, BIAS, np.int64)
    return Population(real.name, real.shape, _neuron(real, number_format), bias, synapses, BOUND)


def _neuron(real: FloatPopulation, number_format: IntegerFormat) -> IntegrateFire | GradedReLU | Readout:
    if real.threshold is None:
        return GradedReadout(1.0) if number_format.is_graded else Readout(1.0)
    if number_format.is_graded:
        return GradedReLU()
    channels, initial = real.shape[0], 0 if number_format.reset == "zero" else THRESHOLD // 2
    return IntegrateFire(
        np.full(channels, THRESHOLD, np.int64), np.full(channels, initial, np.int64), reset=number_format.reset
    )


def _synapse(real: FloatSynapse, weight: int) -> Synapse:
    """Return a synapse whose weights take no memory: all are the same number."""
    shape = real.repeat.spread(np.broadcast_to(np.int8(0), real.weight.shape), real.source_shape).shape
    conv = None if real.conv is None else real.repeat.on_neurons(real.conv)
    return Synapse(real.source, np.broadcast_to(np.int32(weight), shape), conv=conv)
