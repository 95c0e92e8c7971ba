"""Choose the scale of every output channel and round to integers.

A channel with scale a holds round(a * weight / 2**exponent) and round(a * bias), with one exponent for each synapse;
its threshold a * theta must be m * 2**e with one e for the population, so the scale is picked from those values and
thresholds are never rounded. All synapses of a population share its scales: their sums add up in one potential.

In: a folded FloatPopulation and an IntegerFormat. Out: a Population. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nctool.conversion.comparison import comparison_limits
from nctool.conversion.exponents import candidate_exponents
from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.errors import RangeError
from nctool.integer_format import IntegerFormat
from nctool.network import IntArray, IntegrateFire, Population, Readout, Synapse


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


def choose_scale(population: FloatPopulation, form: IntegerFormat, ceiling: FloatArray | float = np.inf) -> Scale:
    """Return the scales that keep weights, biases and thresholds in `form`, and under `ceiling`.

    They are the largest for the exponents of the synapses, and the exponents those of least rounding error.

    Raises:
        RangeError: a single weight is worth so many thresholds that no scale fits.
    """
    candidates = candidate_exponents(population, form)
    limits = [np.minimum(largest_scales(population, form, exponents), ceiling) for exponents in candidates]
    if form.one_threshold:
        limits = [np.full(len(limit), limit.min()) for limit in limits]
    scales = [_scale(population, *each, form) for each in zip(limits, candidates, strict=True)]
    fitting = [scale for scale in scales if scale is not None]
    if fitting:
        return fitting[0] if len(fitting) == 1 else min(fitting, key=lambda scale: _rounding_error(population, scale))
    most = limits[-1] * (population.threshold or 1.0)
    channel = int(most.argmin())
    raise RangeError(
        f"population `{population.name}`: channel {channel} would need a threshold of {most[channel]:.3g} units, "
        "allowed >= 1",
        hint="its weights are far larger than its threshold: train with weight decay, or use more --weight-bits",
    )


def largest_scales(population: FloatPopulation, form: IntegerFormat, exponents: tuple[int, ...]) -> FloatArray:
    """Return per channel the largest scale at which weights and biases are in `form`, float64 (channels,)."""
    with np.errstate(divide="ignore", over="ignore"):
        limits = [form.weight_max * 2.0**e / s.largest for s, e in zip(population.synapses, exponents, strict=True)]
        limit: FloatArray = np.minimum.reduce([*limits, form.bias_max / np.abs(population.bias)])
    if form.comparison_max is not None and population.threshold is not None:
        limit = comparison_limits(population, limit, form.comparison_max, form.comparison_holds_bias)
    return limit


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
        float((_error(s, scale, e) ** 2).sum()) for s, e in zip(population.synapses, scale.exponents, strict=True)
    )


def _error(synapse: FloatSynapse, scale: Scale, exponent: int) -> FloatArray:
    """Return what rounding adds to each weight, in real units."""
    units = _units(synapse, scale, exponent)
    error: FloatArray = np.rint(synapse.weight * units) / units - synapse.weight
    return error


def _units(synapse: FloatSynapse, scale: Scale, exponent: int) -> FloatArray:
    """Return the integer units per real unit, shaped to broadcast over the weights."""
    per_channel: FloatArray = scale.per_channel.reshape(-1, *[1] * (synapse.weight.ndim - 1)) / 2**exponent
    return per_channel


def round_population(population: FloatPopulation, scale: Scale, form: IntegerFormat, n_steps: int) -> Population:
    """Round the weights and the bias of `population` at `scale`; the bound is left open.

    Args:
        form: says how a neuron resets, and so where it starts.
        n_steps: length of the window; the readout's scale turns its potential into a mean over the steps.
    """
    units = scale.per_channel
    if scale.threshold is None:
        neuron: IntegrateFire | Readout = Readout(1.0 / (float(units[0]) * n_steps))
    else:
        neuron = IntegrateFire(scale.threshold, _initial(scale.threshold, population.units, form), form.reset)
    pairs = zip(population.synapses, scale.exponents, strict=True)
    return Population(
        name=population.name,
        shape=population.shape,
        neuron=neuron,
        bias=np.rint(population.bias * units).astype(np.int64),
        synapses=tuple(_round_synapse(synapse, scale, exponent) for synapse, exponent in pairs),
    )


def _initial(threshold: IntArray, units: int, form: IntegerFormat) -> IntArray:
    """Return threshold * (k + 1/2) / units for unit k, rounded down, which no comparison of integers notices (U1)."""
    if form.reset == "zero":
        return np.zeros_like(threshold)
    unit = np.arange(len(threshold)) % units
    return threshold * (2 * unit + 1) // (2 * units)


def _round_synapse(synapse: FloatSynapse, scale: Scale, exponent: int) -> Synapse:
    weight = np.rint(synapse.weight * _units(synapse, scale, exponent)).astype(np.int32)
    return Synapse(synapse.source, weight, exponent, synapse.conv)


def weight_errors(population: FloatPopulation, scale: Scale) -> tuple[float, ...]:
    """Return per synapse the largest rounding error of a weight, relative to the largest weight of its channel."""
    return tuple(_relative_error(s, scale, e) for s, e in zip(population.synapses, scale.exponents, strict=True))


def _relative_error(synapse: FloatSynapse, scale: Scale, exponent: int) -> float:
    error = np.abs(_error(synapse, scale, exponent)).reshape(len(synapse.weight), -1).max(axis=1)
    return float((error / np.where(synapse.largest > 0, synapse.largest, 1.0)).max())
