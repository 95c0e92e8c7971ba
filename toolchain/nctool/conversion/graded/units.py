"""What a graded spike of 1 is worth: the unit of each channel.

A small unit tells activations apart finely and takes more bits of a message. All channels of a population share the
shift of its sums, so the unit of a channel also says how finely its weights are rounded. Of the units with which most
of its activations fit the bits that are wanted, every channel gets the one of least error, and the population the shift
of least error.

In: populations of a FloatNetwork, activations on calibration images. Out: populations with units. Must not import
torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatNetwork, FloatPopulation
from nctool.conversion.quantise.clipping import Curve, error_curve
from nctool.conversion.quantise.covariance import Float32
from nctool.conversion.quantise.patches import View
from nctool.conversion.quantise.scales import fitting_scales, size_ratios
from nctool.ir.number_format import IntegerFormat, parts_of_threshold
from nctool.ir.population import IntArray

BULK = 99.9
"""Percentile of the positive activations of a channel that fits the bits which are wanted: larger ones take more."""

SPREAD = 16.0
"""Largest ratio of the units of two channels: those behind have 8 bits for both."""

COARSER = 2.0 ** (np.arange(9) / 4)
"""Units tried, in the smallest that activations allow: a larger one rounds the weights more finely."""

SHIFTS = range(-2, 5)
"""Shifts tried beside the one at which the weights of most channels just fit at the smallest unit."""

BIAS_ROOM = 0.98
"""Part of the largest bias that is used: rounding moves it."""

UNREACHED = 64.0
"""Times the largest activation of a layer, from which on an upper bound is left out."""

ENOUGH = 2.0
"""Times the largest weighted sum of a channel that never fires: so much negative bias keeps it silent."""

ROUNDING = 1.0 / 12.0
"""Mean square of what rounding to whole numbers changes."""


def trained_units(network: FloatNetwork, number_format: IntegerFormat) -> FloatNetwork:
    """Return a network whose activations were trained with a threshold and levels, with units.

    A spike carries the activation in steps of which a whole number makes a level.
    """
    bits, populations, room = number_format.activation_bits or 1, [], number_format.bias_max * BIAS_ROOM
    units: dict[str, FloatArray] = {}
    for population in network.populations:
        threshold, most = population.threshold, None
        if population.maximum:
            threshold = units[population.synapses[0].source]
        elif threshold is not None:
            held = int((threshold / (threshold + np.abs(population.bias))).min() * room)
            parts = parts_of_threshold(bits, population.levels, most=max(held, 1))
            threshold, most = threshold / parts, np.full(len(threshold), parts, np.int64)
        if threshold is not None:
            units[population.name] = threshold
        populations.append(replace(population, threshold=threshold, graded=True, most=most))
    return replace(network, populations=tuple(populations))


def with_units(
    population: FloatPopulation,
    absorbed: FloatPopulation,
    views: Sequence[View],
    activations: Float32,
    number_format: IntegerFormat,
) -> FloatPopulation:
    """Return a population of ReLUs with the units of its channels.

    Args:
        absorbed: the same with weights per unit of what it reads.
        views: what the synapses of `absorbed` see.
        activations: what the ReLUs give, float32 (patches, channels).
    """
    if population.ceiling > UNREACHED * float(activations.max(initial=0.0)):
        population = replace(population, ceiling=math.inf)
    least = np.maximum(
        _least_units(activations, number_format), _units_of_bias(population, views, activations, number_format)
    )
    least = np.full_like(least, least.max()) if number_format.one_threshold else least
    unit = _best_units(absorbed, views, least, number_format)
    if not np.isfinite(population.ceiling):
        return replace(population, threshold=unit, graded=True)
    most: IntArray = np.maximum(np.rint(population.ceiling / unit), 1).astype(np.int64)
    return replace(population, threshold=population.ceiling / most, graded=True, most=most)


def _top(number_format: IntegerFormat) -> int:
    return int(2 ** (number_format.activation_bits or 1) - 1)


def _least_units(activations: Float32, number_format: IntegerFormat) -> FloatArray:
    """Return the smallest unit of each channel with which most of its activations fit their bits."""
    positive = np.where(activations > 0, activations, np.nan).astype(np.float64)
    bulk = np.zeros(positive.shape[1])
    active = (activations > 0).any(axis=0)
    if active.any():
        bulk[active] = np.nanpercentile(positive[:, active], BULK, axis=0)
    largest = float(bulk.max()) or 1.0
    lowest = largest if number_format.one_threshold else largest / SPREAD
    least: FloatArray = np.maximum(bulk, lowest) / _top(number_format)
    return least


def _units_of_bias(
    population: FloatPopulation, views: Sequence[View], activations: Float32, number_format: IntegerFormat
) -> FloatArray:
    """Return the smallest units with which the sources of a bias hold it, and the upper bound beside it (rule G6).

    A bias that keeps a channel silent is cut off: no more of it counts than keeps it as silent.
    """
    silent = ~(activations > 0).any(axis=0) & (population.bias < 0)
    weighted = np.max(sum(view.output(view.synapse.weight) for view in views), axis=0, initial=0.0)
    bias = np.abs(population.bias)
    bias = np.where(silent, np.minimum(bias, ENOUGH * weighted), bias)
    bound = population.ceiling if np.isfinite(population.ceiling) else 0.0
    units: FloatArray = (bias + bound) / (number_format.bias_max * BIAS_ROOM)
    return units


def _best_units(
    absorbed: FloatPopulation, views: Sequence[View], least: FloatArray, number_format: IntegerFormat
) -> FloatArray:
    """Return the units, (channels,), from `least` on, that lose least with one shift for all of them."""
    exponents = size_ratios(absorbed)
    base = fitting_scales(absorbed, number_format, tuple(exponents))
    curve = error_curve(base, views, exponents, number_format.weight_max)
    weighed = np.isfinite(base)
    if not weighed.any():
        return least
    middle = round(float(np.median(np.log2(base[weighed] * least[weighed]))))
    together = number_format.one_threshold
    tried = [_at_shift(curve, least, middle + shift, together) for shift in SHIFTS]
    units, _ = min(tried, key=lambda of_shift: float(of_shift[1][weighed].sum()))
    return units


def _at_shift(curve: Curve, least: FloatArray, shift: int, together: bool) -> tuple[FloatArray, FloatArray]:
    """Return the best units of the channels where sums are shifted by so many bits, and the error of each channel.

    Args:
        together: all channels have the same unit.
    """
    units = COARSER[:, np.newaxis] * least
    errors = curve.at(2.0**shift / units) + ROUNDING * units**2
    if together:
        errors = np.broadcast_to(errors.sum(axis=1, keepdims=True) / len(least), errors.shape)
    best, channel = errors.argmin(axis=0), np.arange(len(least))
    return units[best, channel], errors[best, channel]
