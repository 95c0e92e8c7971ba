"""The scale of a population for the tests: found, or the error that conversion raises."""

from __future__ import annotations

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.conversion.quantise.scales import Scale, find_scale, no_scale
from nctool.ir.number_format import IntegerFormat


def choose_scale(
    population: FloatPopulation, number_format: IntegerFormat, ceiling: FloatArray | float = np.inf
) -> Scale:
    """Return the scale at which no weight is clipped.

    Raises:
        RangeError: there is none.
    """
    scale = find_scale(population, number_format, ceiling)
    if scale is None:
        raise no_scale(population, number_format, ceiling)
    return scale


def thresholds(threshold: float | None, channels: int) -> FloatArray | None:
    """Return one threshold for each channel; None for a readout."""
    return None if threshold is None else np.full(channels, float(threshold))
