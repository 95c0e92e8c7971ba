"""Choose the scale of every output channel and round to integers.

A channel with scale a holds round(a * weight) and round(a * bias); its threshold a * theta must be m * 2**e with
one e for the population, so the scale is picked from those values and thresholds are never rounded.

In: a folded FloatPopulation and an IntegerFormat. Out: a Population. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.errors import RangeError
from nctool.integer_format import IntegerFormat
from nctool.network import IntArray, IntegrateFire, Population, Readout, Synapse


@dataclass(frozen=True, eq=False)
class Scale:
    """Integer units per real unit.

    Args:
        per_channel: float64 (channels,); one value throughout for a readout, so that logits compare.
        threshold: int64 (channels,), exactly per_channel * theta; None for a readout.
    """

    per_channel: FloatArray
    threshold: IntArray | None


def choose_scale(population: FloatPopulation, form: IntegerFormat, ceiling: FloatArray | float = np.inf) -> Scale:
    """Return the largest scales that keep weights, biases and thresholds in `form`, and under `ceiling`.

    Raises:
        RangeError: a single weight is worth so many thresholds that no scale fits.
    """
    largest = np.abs(population.weight).reshape(len(population.weight), -1).max(axis=1)
    with np.errstate(divide="ignore", over="ignore"):
        limit = np.minimum(form.weight_max / largest, form.bias_max / np.abs(population.bias))
    limit = np.minimum(limit, ceiling)
    if population.threshold is None:
        shared = float(limit.min())
        return Scale(np.full(len(limit), shared if np.isfinite(shared) else 1.0), None)
    threshold = _choose_threshold(population, limit * population.threshold, form)
    return Scale(threshold / population.threshold, threshold)


def _choose_threshold(population: FloatPopulation, most: FloatArray, form: IntegerFormat) -> IntArray:
    """Return thresholds m * 2**e <= most, m <= threshold_mantissa_max, with the e of least rounding error.

    The error of a rounded weight counts in thresholds, so it falls with 1 / threshold.
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
    if best is None:
        channel = int(most.argmin())
        raise RangeError(
            f"population `{population.name}`: channel {channel} would need a threshold of {most[channel]:.3g} units, "
            "allowed >= 1",
            hint="its weights are far larger than its threshold: train with weight decay, or use more --weight-bits",
        )
    return best


def round_population(population: FloatPopulation, scale: Scale, n_steps: int) -> Population:
    """Round the weights and the bias of `population` at `scale`; the bound is left open.

    Args:
        n_steps: length of the window; the readout's scale turns its potential into a mean over the steps.
    """
    units = scale.per_channel
    weight = np.rint(population.weight * units.reshape(-1, *[1] * (population.weight.ndim - 1)))
    if scale.threshold is None:
        neuron: IntegrateFire | Readout = Readout(1.0 / (float(units[0]) * n_steps))
    else:
        neuron = IntegrateFire(scale.threshold, scale.threshold // 2)
    return Population(
        name=population.name,
        shape=population.shape,
        neuron=neuron,
        bias=np.rint(population.bias * units).astype(np.int64),
        synapses=(Synapse(population.source, weight.astype(np.int32), conv=population.conv),),
    )


def weight_error(population: FloatPopulation, rounded: Population, scale: Scale) -> float:
    """Return the largest rounding error of a weight, relative to the largest weight of its channel."""
    real = population.weight.reshape(len(population.weight), -1)
    back = rounded.synapses[0].weight.reshape(real.shape) / scale.per_channel[:, np.newaxis]
    largest = np.abs(real).max(axis=1, keepdims=True)
    return float((np.abs(back - real) / np.where(largest > 0, largest, 1.0)).max())
