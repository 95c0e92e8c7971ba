"""Choose how finely the input is graded.

The accumulator holds products of input and weight: where it is the limit, bits given to the input are bits taken
from the weights. The range of the graded input is the one that reproduces the first layer's drive best.

In: a folded FloatNetwork, the normalisation, calibration pixels. Out: an EncodedInput.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray, FloatNetwork, FloatPopulation, FloatSynapse
from nctool.conversion.folding import absorb_spike_values
from nctool.conversion.input_encoding import EncodedInput, encode_input
from nctool.conversion.quantise.accumulator import fit_population
from nctool.conversion.quantise.calibration import Calibration
from nctool.errors import UnsupportedError
from nctool.ir.network import INPUT_NAME, IntegrateFire, Population, Readout, Synapse
from nctool.ir.number_format import IntegerFormat
from nctool.reference.synapses import convolve, dense

LARGEST = (127, 63, 31, 15, 7)
"""Candidates for the magnitude of the largest graded input: 8 to 4 signed bits."""

SAMPLES = 64
"""Calibration samples that candidates are compared on."""

WEIGHTS = 2**21
"""Of a synapse of more weights, candidates are compared on some channels, as many as hold so many."""


def choose_input(
    network: FloatNetwork,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    number_format: IntegerFormat,
    pixels: NDArray[np.uint8],
    n_steps: int,
) -> EncodedInput:
    """Return 8 bits where the weights keep theirs; else the finest graded input that a coarser one does not beat.

    Args:
        network: folded, weights per unit of real input.
        mean, std: normalisation per channel, in units of pixel / 255.
        pixels: uint8 calibration samples.
    """
    pixels = pixels[:SAMPLES]
    best, *coarser = (encode_input(network.input_shape, mean, std, largest) for largest in LARGEST)
    readers = round_readers(network, best, number_format, pixels, n_steps)
    if all(_fills(population, number_format) for _, population in readers):
        return best
    least = drive_error(readers, best, pixels, n_steps)
    for graded in coarser:
        readers = round_readers(network, graded, number_format, pixels, n_steps)
        error = drive_error(readers, graded, pixels, n_steps)
        if error >= least:
            break
        best, least = graded, error
    return best


def round_readers(
    network: FloatNetwork, graded: EncodedInput, number_format: IntegerFormat, pixels: NDArray[np.uint8], n_steps: int
) -> list[tuple[FloatPopulation, Population]]:
    """Return what reads the input, in real numbers per unit of graded input and rounded; other sources are left out."""
    absorbed = absorb_spike_values(network, graded).populations
    reading = ((p, tuple(s for s in p.synapses if s.source == INPUT_NAME)) for p in absorbed)
    readers = [_some_channels(replace(population, synapses=synapses)) for population, synapses in reading if synapses]
    return [(p, fit_population(p, graded, number_format, Calibration(graded, pixels, n_steps))[0]) for p in readers]


def _some_channels(population: FloatPopulation) -> FloatPopulation:
    """Return a population of some of the channels, evenly spread, where its weights are many and not in groups."""
    every = max(-(-synapse.weight.size // WEIGHTS) for synapse in population.synapses)
    if every == 1 or any(synapse.groups > 1 for synapse in population.synapses):
        return population
    synapses = (replace(s, weight=s.weight[::every], bias=s.bias[::every]) for s in population.synapses)
    threshold, shift = (
        None if values is None else values[::every] for values in (population.threshold, population.shift)
    )
    channels = len(population.bias[::every]) * population.replicas
    shape = (channels, *population.shape[1:])
    return replace(population, shape=shape, synapses=tuple(synapses), threshold=threshold, shift=shift)


def _fills(population: Population, number_format: IntegerFormat) -> bool:
    """Return True when most channels of every synapse use at least half the range of its weights."""
    return all(
        _typical_weight(synapse, number_format) >= number_format.weight_max / 2 for synapse in population.synapses
    )


def _typical_weight(synapse: Synapse, number_format: IntegerFormat) -> float:
    """Return the median over the channels of the largest weight; of no weights at all, the full range."""
    largest = np.abs(synapse.weight.reshape(len(synapse.weight), -1)).max(axis=1)
    return float(np.median(largest[largest > 0] if largest.any() else number_format.weight_max))


def drive_error(
    readers: list[tuple[FloatPopulation, Population]],
    graded: EncodedInput,
    pixels: NDArray[np.uint8],
    n_steps: int,
) -> float:
    """Return the root mean square error of one step's drive, relative to the threshold, over what reads the input."""
    encoded = graded.encoding.signal(pixels, n_steps)[:, 0].astype(np.float64)
    channel = np.arange(pixels.shape[1]).reshape(-1, *[1] * (pixels.ndim - 2))
    exact = (graded.real / graded.step[:, np.newaxis])[channel, pixels]
    squares = []
    for real, rounded in readers:
        wanted = _drive(exact, real, [synapse.weight for synapse in real.synapses], real.bias)
        weights = [
            synapse.repeat.distinct(integer.weight, synapse.source_shape) * 2.0**integer.exponent
            for synapse, integer in zip(real.synapses, rounded.synapses, strict=True)
        ]
        drive = _drive(encoded, real, weights, rounded.bias[:: real.replicas].astype(np.float64))
        error = drive / _per_channel(_scale(real, rounded, n_steps), drive) - wanted
        unit = wanted.std() or 1.0 if real.threshold is None else _per_channel(real.threshold, wanted)
        squares.append(np.mean((error / unit) ** 2))
    return float(np.sqrt(np.mean(squares)))


def _drive(
    signal: FloatArray, population: FloatPopulation, weights: Sequence[FloatArray], bias: FloatArray
) -> FloatArray:
    """Return what the distinct weights of a population make of its input."""
    terms = (_weigh(signal, *pair) for pair in zip(population.synapses, weights, strict=True))
    total = reduce(np.add, terms)
    return total + _per_channel(bias, total)


def _weigh(signal: FloatArray, synapse: FloatSynapse, weight: FloatArray) -> FloatArray:
    summed: FloatArray = synapse.repeat.summed(signal)
    return dense(summed, weight) if synapse.conv is None else convolve(summed, weight, synapse.conv)


def _scale(real: FloatPopulation, rounded: Population, n_steps: int) -> FloatArray:
    """Return what a real unit is in integers, for each channel."""
    neuron = rounded.neuron
    if isinstance(neuron, IntegrateFire):
        return neuron.threshold[:: real.replicas] / np.float64(1.0 if real.threshold is None else real.threshold)
    if isinstance(neuron, Readout):
        return np.full(len(rounded.bias), 1.0 / (neuron.scale * n_steps))
    raise UnsupportedError(f"population `{rounded.name}`: current-based neurons are not converted")


def _per_channel(values: FloatArray, like: FloatArray) -> FloatArray:
    return values.reshape(-1, *[1] * (like.ndim - 2))
