"""Scales at which the distance of every neuron from its threshold fits one register.

The distance of a neuron at the start of a window is threshold - initial potential, less the bias where it does not
accumulate. Where the chip compares with one threshold register for a whole population, the rest of a distance lies in a
register of each neuron: all distances of a population must lie within +-comparison_max of one centre.

In: a folded FloatPopulation. Out: the largest scale of each channel. Must not import torch.
"""

from __future__ import annotations

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.ir.network import IntArray

CENTRES = 33
"""Centres tried between 1 and comparison_max."""

ROUNDING = 2
"""Left free: threshold, initial potential and bias are rounded one by one."""


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
    return max(limits, key=lambda each: (_worth(np.minimum(limit, each)[rounded]), _worth(each)))


def fits_comparison(distance: IntArray, comparison_max: int) -> bool:
    """Return True when all distances of integer neurons lie within comparison_max of one centre, 1..comparison_max."""
    low, high = int(distance.min()), int(distance.max())
    return high - comparison_max <= min(low + comparison_max, comparison_max) and low + comparison_max >= 1


def _distances(population: FloatPopulation, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return per channel the least and the largest distance of the units that it belongs to."""
    threshold, half_unit = population.threshold or 0.0, 0.5 / population.units
    return threshold * half_unit - bias, threshold * (1 - half_unit) - bias


def _up_to(distance: FloatArray, most: float) -> FloatArray:
    """Return the scales at which each distance reaches `most`; infinite where it never does."""
    scale: FloatArray = np.divide(most, distance, out=np.full(len(distance), np.inf), where=distance > 0)
    return scale


def _worth(limits: FloatArray) -> float:
    """Return the mean logarithm of the scales: a bit lost in one channel costs like a bit lost in another."""
    finite = limits[np.isfinite(limits)]
    return float(np.log2(np.maximum(finite, np.finfo(np.float64).tiny)).mean()) if len(finite) else 0.0
