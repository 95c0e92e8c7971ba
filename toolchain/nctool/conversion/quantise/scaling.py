"""Choose the scale of every output channel and round to integers.

A channel with scale a holds round(a * weight / 2**exponent) and round(a * bias), with one exponent for each synapse;
its threshold a * theta must be m * 2**e with one e for the population, so the scale is picked from those values and
thresholds are never rounded. All synapses of a population share its scales: their sums add up in one potential.

In: a folded FloatPopulation and an IntegerFormat. Out: a Population. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.conversion.quantise.comparison import comparison_limits
from nctool.conversion.quantise.exponents import candidate_exponents
from nctool.errors import RangeError
from nctool.ir.network import IntArray, IntegrateFire, Population, Readout, Synapse
from nctool.ir.number_format import WEIGHT_BITS_RANGE, IntegerFormat


@dataclass(frozen=True, eq=False)
class Scale:
    """Integer units per real unit.

    Args:
        per_channel: float64 (channels,); one value throughout for a readout, so that logits compare.
        threshold: int64 (channels,), exactly per_channel * theta; None for a readout.
        exponents: weight exponent of each synapse.
    """

    per_channel: FloatArray
    threshold: IntArray | None
    exponents: tuple[int, ...] = (0,)


def find_scale(population: FloatPopulation, form: IntegerFormat, ceiling: FloatArray | float) -> Scale | None:
    """Return the scales that keep weights, biases and thresholds in `form`, and under `ceiling`; None if none does.

    They are the largest for the exponents of the synapses, and the exponents those of least rounding error.
    """
    candidates = candidate_exponents(population, form)
    limits = [np.minimum(largest_scales(population, form, exponents), ceiling) for exponents in candidates]
    if form.one_threshold:
        limits = [np.full(len(limit), limit.min()) for limit in limits]
    scales = [_scale(population, *each, form) for each in zip(limits, candidates, strict=True)]
    fitting = [scale for scale in scales if scale is not None]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    return min(fitting, key=lambda scale: _rounding_error(population, scale))


def no_scale(population: FloatPopulation, form: IntegerFormat, ceiling: FloatArray | float) -> RangeError:
    """Return the error that says which channel keeps a population from having a scale."""
    limits = largest_scales(population, form, candidate_exponents(population, form)[-1])
    most = np.minimum(limits, ceiling) * (population.threshold or 1.0)
    channel = int(most.argmin())
    wider = ", or use more --weight-bits" if form.weight_bits < WEIGHT_BITS_RANGE[1] else ""
    return RangeError(
        f"population `{population.name}`: channel {channel} would need a threshold of {most[channel]:.3g} units, "
        "allowed >= 1",
        hint=f"its weights are far larger than its threshold: train with weight decay{wider}",
    )


def largest_scales(population: FloatPopulation, form: IntegerFormat, exponents: tuple[int, ...]) -> FloatArray:
    """Return per channel the largest scale at which weights and biases are in `form`, float64 (channels,)."""
    fitting = fitting_scales(population, form, exponents)
    return np.minimum(fitting, hard_limits(population, form, fitting))


def fitting_scales(population: FloatPopulation, form: IntegerFormat, exponents: tuple[int, ...]) -> FloatArray:
    """Return per channel the largest scale at which no weight is clipped, float64 (channels,); may be infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        limits = [form.weight_max * 2.0**e / s.largest for s, e in zip(population.synapses, exponents, strict=True)]
    fitting: FloatArray = np.minimum.reduce(limits)
    return fitting


def hard_limits(population: FloatPopulation, form: IntegerFormat, fitting: FloatArray) -> FloatArray:
    """Return per channel the largest scale that bias and comparison allow, float64 (channels,); may be infinite.

    Args:
        fitting: the largest scales at which no weight is clipped: a centre is chosen that costs them the least.
    """
    with np.errstate(divide="ignore", over="ignore"):
        limit: FloatArray = form.bias_max / np.abs(population.bias)
    if form.comparison_max is None or population.threshold is None:
        return limit
    smaller = np.minimum(fitting, limit)
    compared = comparison_limits(population, smaller, form.comparison_max, form.comparison_holds_bias)
    return np.minimum(limit, compared)


def _scale(
    population: FloatPopulation, limit: FloatArray, exponents: tuple[int, ...], form: IntegerFormat
) -> Scale | None:
    if population.threshold is None:
        shared = float(limit.min())
        return Scale(np.full(len(limit), shared if np.isfinite(shared) else 1.0), None, exponents)
    threshold = _choose_threshold(limit * population.threshold, form)
    return None if threshold is None else Scale(threshold / population.threshold, threshold, exponents)


def _choose_threshold(most: FloatArray, form: IntegerFormat) -> IntArray | None:
    """Return thresholds m * 2**e <= most, m <= threshold_mantissa_max, with the e of least rounding error.

    The error of a rounded weight counts in thresholds, so it falls with 1 / threshold. None if there are none.
    """
    best: IntArray | None = None
    least = np.inf
    for exponent in range(form.threshold_exponent_max + 1):
        mantissa = np.minimum(np.floor(most / 2**exponent), form.threshold_mantissa_max)
        if mantissa.min() < 1:
            break
        threshold = (mantissa * 2**exponent).astype(np.int64)
        error = float((1.0 / threshold**2).mean())
        if error < least:
            best, least = threshold, error
    return best


def _rounding_error(population: FloatPopulation, scale: Scale) -> float:
    """Return the sum of the squared rounding errors of all weights, in real units."""
    return sum(
        s.repeat.copies * float((_error(s, scale, e) ** 2).sum())
        for s, e in zip(population.synapses, scale.exponents, strict=True)
    )


def _error(synapse: FloatSynapse, scale: Scale, exponent: int) -> FloatArray:
    """Return what rounding adds to each weight, in real units."""
    units = integer_units(synapse, scale, exponent)
    error: FloatArray = np.rint(synapse.weight * units) / units - synapse.weight
    return error


def integer_units(synapse: FloatSynapse, scale: Scale, exponent: int) -> FloatArray:
    """Return the integer units per real unit, shaped to broadcast over the weights."""
    per_channel: FloatArray = scale.per_channel.reshape(-1, *[1] * (synapse.weight.ndim - 1)) / 2**exponent
    return per_channel


def round_population(population: FloatPopulation, scale: Scale, form: IntegerFormat, n_steps: int) -> Population:
    """Round the weights and the bias of `population` at `scale`, each to the nearest integer."""
    pairs = zip(population.synapses, scale.exponents, strict=True)
    weights = tuple(np.rint(s.weight * integer_units(s, scale, exponent)) for s, exponent in pairs)
    return assemble(population, scale, form, n_steps, weights, np.rint(population.bias * scale.per_channel))


def assemble(
    population: FloatPopulation,
    scale: Scale,
    form: IntegerFormat,
    n_steps: int,
    weights: tuple[NDArray[Any], ...],
    bias: NDArray[Any],
) -> Population:
    """Return the integer population of rounded numbers; the bound is left open.

    Args:
        form: says how a neuron resets, and so where it starts.
        n_steps: length of the window; the readout's scale turns its potential into a mean over the steps.
        weights: whole numbers, one array a synapse, each weight once.
        bias: whole numbers (channels,).
    """
    if scale.threshold is None:
        neuron: IntegrateFire | Readout = Readout(1.0 / (float(scale.per_channel[0]) * n_steps))
    else:
        threshold = scale.threshold.repeat(population.units)
        neuron = IntegrateFire(threshold, _initial(threshold, population.units, form), form.reset)
    parts = zip(population.synapses, weights, scale.exponents, strict=True)
    return Population(
        name=population.name,
        shape=population.shape,
        neuron=neuron,
        bias=bias.astype(np.int64).repeat(population.units),
        synapses=tuple(_synapse(real, weight, exponent) for real, weight, exponent in parts),
    )


def _synapse(real: FloatSynapse, weight: NDArray[Any], exponent: int) -> Synapse:
    """Return all weights of a synapse, of the distinct ones rounded."""
    whole = real.repeat.spread(weight.astype(np.int32), real.source_shape)
    conv = None if real.conv is None else real.repeat.on_neurons(real.conv)
    return Synapse(real.source, whole, exponent, conv, repeat=real.repeat)


def _initial(threshold: IntArray, units: int, form: IntegerFormat) -> IntArray:
    """Return threshold * (k + 1/2) / units for unit k, rounded down, which no comparison of integers notices (U1)."""
    if form.reset == "zero":
        return np.zeros_like(threshold)
    unit = np.arange(len(threshold)) % units
    return threshold * (2 * unit + 1) // (2 * units)


def weight_errors(population: FloatPopulation, scale: Scale, rounded: Population) -> tuple[float, ...]:
    """Return per synapse the largest error of a weight, relative to the largest weight of its channel."""
    pairs = zip(population.synapses, rounded.synapses, strict=True)
    return tuple(_relative_error(real, synapse, scale) for real, synapse in pairs)


def _relative_error(real: FloatSynapse, rounded: Synapse, scale: Scale) -> float:
    distinct = real.repeat.distinct(rounded.weight, real.source_shape)
    error = np.abs(distinct / integer_units(real, scale, rounded.exponent) - real.weight)
    largest = np.where(real.largest > 0, real.largest, 1.0)
    return float((error.reshape(len(largest), -1).max(axis=1) / largest).max())
