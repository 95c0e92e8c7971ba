"""Choose the scale of every output channel, and the exponent of every synapse.

A channel with scale a holds round(a * weight / 2**exponent) and round(a * bias), with one exponent for each synapse;
its threshold a * theta must be m * 2**e with one e for the population, so the scale is picked from those values and
thresholds are never rounded. All synapses of a population share its scales: their sums add up in one potential. A
branch whose weights are large takes few of its bits away from the others if its integers are multiplied by 2**exponent.
A population of one synapse needs no exponent.

Where the chip compares with one threshold register for a whole population, the rest of a neuron's distance from its
threshold lies in a register of its own: all distances of a population must lie within +-comparison_max of one centre.
The distance at the start of a window is threshold - initial potential, less the bias where it does not accumulate.

In: a folded FloatPopulation and an IntegerFormat. Out: a Scale. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.errors import RangeError
from nctool.ir.network import IntArray
from nctool.ir.number_format import WEIGHT_BITS_RANGE, IntegerFormat

SPREAD = 2
"""Exponents tried above the ratio of the sizes: the ratio of some channels is larger than that of most."""

CENTRES = 33
"""Centres tried between 1 and comparison_max."""

ROUNDING = 2
"""Left free: threshold, initial potential and bias are rounded one by one."""


@dataclass(frozen=True, eq=False)
class Scale:
    """What a real unit is in integers.

    Args:
        per_channel: float64 (channels,); one value throughout for a readout, so that logits compare.
        threshold: int64 (channels,), exactly per_channel * theta; None for a readout.
        exponents: weight exponent of each synapse.
    """

    per_channel: FloatArray
    threshold: IntArray | None
    exponents: tuple[int, ...] = (0,)


def find_scale(population: FloatPopulation, number_format: IntegerFormat, ceiling: FloatArray | float) -> Scale | None:
    """Return the scales that keep weights, biases and thresholds in the format, under `ceiling`; None if none does.

    They are the largest for the exponents of the synapses, and the exponents those of least rounding error.
    """
    candidates = candidate_exponents(population, number_format)
    limits = [np.minimum(largest_scales(population, number_format, exponents), ceiling) for exponents in candidates]
    if number_format.one_threshold:
        limits = [shared_limit(population, limit) for limit in limits]
    pairs = zip(limits, candidates, strict=True)
    scales = [_scale(population, limit, exponents, number_format) for limit, exponents in pairs]
    fitting = [scale for scale in scales if scale is not None]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    return min(fitting, key=lambda scale: _rounding_error(population, scale))


def no_scale(population: FloatPopulation, number_format: IntegerFormat, ceiling: FloatArray | float) -> RangeError:
    """Return the error that names the channel which leaves a population without a scale."""
    limits = largest_scales(population, number_format, candidate_exponents(population, number_format)[-1])
    most = np.minimum(limits, ceiling) * (1.0 if population.threshold is None else population.threshold)
    channel = int(most.argmin())
    wider = ", or use more --weight-bits" if number_format.weight_bits < WEIGHT_BITS_RANGE[1] else ""
    return RangeError(
        f"population `{population.name}`: channel {channel} would need a threshold of {most[channel]:.3g} units, "
        "allowed >= 1",
        hint=f"its weights are far larger than its threshold: train with weight decay{wider}",
    )


def largest_scales(population: FloatPopulation, number_format: IntegerFormat, exponents: tuple[int, ...]) -> FloatArray:
    """Return per channel the largest scale at which weights and biases are in `number_format`, float64 (channels,)."""
    fitting = fitting_scales(population, number_format, exponents)
    return np.minimum(fitting, hard_limits(population, number_format, fitting))


def fitting_scales(population: FloatPopulation, number_format: IntegerFormat, exponents: tuple[int, ...]) -> FloatArray:
    """Return per channel the largest scale at which no weight is clipped, float64 (channels,); may be infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        limits = [
            number_format.weight_max * 2.0**e / s.largest for s, e in zip(population.synapses, exponents, strict=True)
        ]
    fitting: FloatArray = np.minimum.reduce(limits)
    return fitting


def hard_limits(population: FloatPopulation, number_format: IntegerFormat, fitting: FloatArray) -> FloatArray:
    """Return per channel the largest scale that bias and comparison allow, float64 (channels,); may be infinite.

    Args:
        fitting: the largest scales at which no weight is clipped: a centre is chosen that costs them the least.
    """
    with np.errstate(divide="ignore", over="ignore"):
        limit: FloatArray = number_format.bias_max / np.abs(population.bias)
    if number_format.comparison_max is None or population.threshold is None:
        return limit
    smaller = np.minimum(fitting, limit)
    compared = comparison_limits(population, smaller, number_format.comparison_max, number_format.comparison_holds_bias)
    return np.minimum(limit, compared)


def shared_limit(population: FloatPopulation, limit: FloatArray) -> FloatArray:
    """Return the largest scales under `limit`, (channels,), of one threshold for all channels, or of one readout."""
    if population.threshold is None:
        return np.full(len(limit), limit.min())
    share = population.threshold / population.threshold.max()
    shared: FloatArray = (limit * share).min() / share
    return shared


def _scale(
    population: FloatPopulation, limit: FloatArray, exponents: tuple[int, ...], number_format: IntegerFormat
) -> Scale | None:
    if population.threshold is None:
        shared = float(limit.min())
        return Scale(np.full(len(limit), shared if np.isfinite(shared) else 1.0), None, exponents)
    threshold = _choose_threshold(limit * population.threshold, number_format)
    return None if threshold is None else Scale(threshold / population.threshold, threshold, exponents)


def _choose_threshold(most: FloatArray, number_format: IntegerFormat) -> IntArray | None:
    """Return thresholds m * 2**e <= most, m <= threshold_mantissa_max, with the e of least rounding error.

    The error of a rounded weight counts in thresholds, so it falls with 1 / threshold. None if there are none.
    """
    best: IntArray | None = None
    least = np.inf
    for exponent in range(number_format.threshold_exponent_max + 1):
        mantissa = np.minimum(np.floor(most / 2**exponent), number_format.threshold_mantissa_max)
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
    of_weights = weight_scale(synapse, scale, exponent)
    error: FloatArray = np.rint(synapse.weight * of_weights) / of_weights - synapse.weight
    return error


def weight_scale(synapse: FloatSynapse, scale: Scale, exponent: int) -> FloatArray:
    """Return what a real unit is in integers, shaped to broadcast over the weights."""
    per_channel: FloatArray = scale.per_channel.reshape(-1, *[1] * (synapse.weight.ndim - 1)) / 2**exponent
    return per_channel


def candidate_exponents(population: FloatPopulation, number_format: IntegerFormat) -> tuple[tuple[int, ...], ...]:
    """Return tuples of one exponent a synapse, from all zero to a little more than the sizes ask for.

    The branch of the smallest weights keeps exponent 0.
    """
    ratios = size_ratios(population)
    most = max(ratios)
    steps = range(-most, SPREAD + 1) if most > 0 else range(1)
    tried = (tuple(_clip(ratio + step if ratio > 0 else 0, number_format) for ratio in ratios) for step in steps)
    return tuple(dict.fromkeys(tried))


def size_ratios(population: FloatPopulation) -> list[int]:
    """Return per synapse how many times its weights must be halved to be no larger than those of the smallest.

    The median over the channels counts, of those in which the synapse has weights at all.
    """
    largest = np.array([synapse.largest for synapse in population.synapses])
    least = np.where(largest > 0, largest, np.inf).min(axis=0)
    return [_halvings(sizes[sizes > 0], least[sizes > 0]) for sizes in largest]


def _halvings(sizes: FloatArray, least: FloatArray) -> int:
    return int(np.ceil(np.median(np.log2(sizes) - np.log2(least)))) if len(sizes) else 0


def _clip(exponent: int, number_format: IntegerFormat) -> int:
    return min(max(exponent, 0), number_format.weight_exponent_max)


def comparison_limits(
    population: FloatPopulation, limit: FloatArray, comparison_max: int, holds_bias: bool
) -> FloatArray:
    """Return the largest scale of each channel for the centre that costs the least; infinite where it sets no limit.

    Args:
        population: one that spikes.
        limit: float64 (channels,), the largest scales for other reasons, which say what a centre costs.
        comparison_max: largest magnitude of what is left of a distance beside the centre, in weight units.
        holds_bias: the bias is a part of the distance.
    """
    lowest, highest = _distances(population, population.bias if holds_bias else np.zeros_like(population.bias))
    reach = comparison_max - ROUNDING
    centres = np.linspace(1, reach, CENTRES)
    limits = [np.minimum(_up_to(highest, c + reach), _up_to(-lowest, reach - c)) for c in centres]
    rounded = np.isfinite(limit)  # of a channel without weights and bias, nothing is rounded
    return max(limits, key=lambda of_centre: (_worth(np.minimum(limit, of_centre)[rounded]), _worth(of_centre)))


def fits_comparison(distance: IntArray, comparison_max: int) -> bool:
    """Return True when all distances of integer neurons lie within comparison_max of one centre, 1..comparison_max."""
    low, high = int(distance.min()), int(distance.max())
    return high - comparison_max <= min(low + comparison_max, comparison_max) and low + comparison_max >= 1


def _distances(population: FloatPopulation, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return per channel the least and the largest distance of the replicas that it belongs to."""
    distance = np.zeros_like(bias) if population.threshold is None else population.threshold
    starts = population.starts
    return distance - starts.max(axis=1) - bias, distance - starts.min(axis=1) - bias


def _up_to(distance: FloatArray, most: float) -> FloatArray:
    """Return the scales at which each distance reaches `most`; infinite where it never does."""
    scale: FloatArray = np.divide(most, distance, out=np.full(len(distance), np.inf), where=distance > 0)
    return scale


def _worth(limits: FloatArray) -> float:
    """Return the mean logarithm of the scales: a bit lost in one channel costs like a bit lost in another."""
    finite = limits[np.isfinite(limits)]
    return float(np.log2(np.maximum(finite, np.finfo(np.float64).tiny)).mean()) if len(finite) else 0.0
