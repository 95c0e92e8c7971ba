"""Choose how finely the input is graded.

The accumulator holds products of input and weight: where it is the limit, bits given to the input are bits taken
from the weights. The range of the graded input is the one that reproduces the first layer's drive best.

In: a folded FloatNetwork, the normalisation, calibration pixels. Out: a GradedInput. Must not import torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.accumulator import Calibration, fit_population
from nctool.conversion.float_network import FloatArray, FloatNetwork, FloatPopulation, GradedInput
from nctool.conversion.folding import absorb_spike_values, encode_input
from nctool.integer_format import IntegerFormat
from nctool.network import INPUT_NAME, ConvGeometry, IntegrateFire, Population
from nctool.sim.reference import convolve, dense

LARGEST = (127, 63, 31, 15, 7)
"""Candidates for the magnitude of the largest graded input: 8 to 4 signed bits."""

SAMPLES = 64
"""Calibration samples that candidates are compared on."""


def choose_input(
    network: FloatNetwork,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    form: IntegerFormat,
    pixels: NDArray[np.uint8],
    n_steps: int,
) -> GradedInput:
    """Return the finest graded input that a coarser one does not beat.

    Args:
        network: folded, weights per unit of real input.
        mean, std: normalisation per channel, in units of pixel / 255.
        pixels: uint8 calibration samples.
    """
    best = encode_input(network.input_shape, mean, std, LARGEST[0])
    least = drive_error(network, best, form, pixels[:SAMPLES], n_steps)
    for largest in LARGEST[1:]:
        coarser = encode_input(network.input_shape, mean, std, largest)
        error = drive_error(network, coarser, form, pixels[:SAMPLES], n_steps)
        if error >= least:
            break
        best, least = coarser, error
    return best


def drive_error(
    network: FloatNetwork, graded: GradedInput, form: IntegerFormat, pixels: NDArray[np.uint8], n_steps: int
) -> float:
    """Return the root mean square error of one step's drive, relative to the threshold, over what reads the input."""
    channel = np.arange(network.input_shape[0]).reshape(-1, *[1] * (len(network.input_shape) - 1))
    exact = (graded.real / graded.step[:, np.newaxis])[channel, pixels]
    encoded = graded.encoding.encode(pixels).astype(np.float64)
    squares = []
    for real in absorb_spike_values(network, graded).populations:
        if real.source == INPUT_NAME:
            rounded, _ = fit_population(real, graded, form, Calibration(graded, pixels, n_steps))
            wanted = _drive(exact, real.weight, real.bias, real.conv)
            weight = rounded.synapses[0].weight.astype(np.float64)
            got = _drive(encoded, weight, rounded.bias.astype(np.float64), real.conv)
            units = _per_channel(_units(real, rounded, n_steps), got)
            squares.append(np.mean((got / units - wanted) ** 2) / (real.threshold or wanted.std() or 1.0) ** 2)
    return float(np.sqrt(np.mean(squares)))


def _drive(signal: FloatArray, weight: FloatArray, bias: FloatArray, conv: ConvGeometry | None) -> FloatArray:
    weighted = dense(signal, weight) if conv is None else convolve(signal, weight, conv)
    drive: FloatArray = weighted + _per_channel(bias, weighted)
    return drive


def _units(real: FloatPopulation, rounded: Population, n_steps: int) -> FloatArray:
    """Return the integer units per real unit of each channel."""
    neuron = rounded.neuron
    if isinstance(neuron, IntegrateFire):
        return neuron.threshold / np.float64(real.threshold or 1.0)
    return np.full(len(rounded.bias), 1.0 / (neuron.scale * n_steps))


def _per_channel(values: FloatArray, like: FloatArray) -> FloatArray:
    return values.reshape(-1, *[1] * (like.ndim - 2))
