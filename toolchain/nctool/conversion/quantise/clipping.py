"""Choose scales at which the largest weights are clipped, where that makes the output more exact.

A larger scale rounds all weights more finely and clips those that no longer fit. The error of the output is measured at
scales up to a few times the largest that fits, with the rounding that will be used, and read off between them.

In: weights, covariances of their signals. Out: a scale. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.conversion.quantise.covariance import Factor
from nctool.conversion.quantise.patches import View
from nctool.conversion.quantise.rounding import round_with_feedback
from nctool.conversion.quantise.scales import Scale, fitting_scales, hard_limits, shared_limit
from nctool.ir.network import IntArray
from nctool.ir.number_format import IntegerFormat

STEPS_PER_DOUBLING = 4

DOUBLINGS = 3
"""Scales are tried up to 2**3 times the largest that fits: at 2 bits, normal weights want 3 to 4 times."""

FACTORS = 2.0 ** (np.arange(STEPS_PER_DOUBLING * DOUBLINGS + 1) / STEPS_PER_DOUBLING)

BUDGET = 4e9
"""Multiplications spent on the curve of one synapse; beyond it, channels are left out, and are like the others."""

AT_ONCE = 2**22
"""Weights that are rounded together, 16 MiB in float32."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean square error of the output of each channel by its scale.

    Args:
        errors: float64 (FACTORS, channels), at base * FACTORS.
        base: float64 (channels,), the largest scale at which nothing is clipped; 1 where there are no weights.
    """

    errors: FloatArray
    base: FloatArray

    def at(self, scale: FloatArray) -> FloatArray:
        """Read off errors at scales (tried, channels); below the base, they grow as the steps of the weights do."""
        place = np.clip(np.log2(scale / self.base) * STEPS_PER_DOUBLING, 0, len(self.errors) - 1)
        lower = np.floor(place).astype(int)
        upper, channel = np.minimum(lower + 1, len(self.errors) - 1), np.arange(len(self.base))
        between = self.errors[lower, channel] * (lower + 1 - place) + self.errors[upper, channel] * (place - lower)
        errors: FloatArray = between * np.maximum(self.base / scale, 1.0) ** 2
        return errors


def error_curve(base: FloatArray, views: Sequence[View], exponents: Sequence[int], largest: int) -> Curve:
    """Measure the error at scales from `base`, float64 (channels,), on.

    Args:
        views: what all synapses of the population see.
        exponents: of the synapses.
        largest: magnitude that no weight exceeds.
    """
    base = np.where(np.isfinite(base), base, 1.0)
    scales = FACTORS[:, np.newaxis] * base
    errors = [
        scale_errors(view, scales / 2**exponent, largest) for view, exponent in zip(views, exponents, strict=True)
    ]
    return Curve(np.sum(errors, axis=0), base)


def scale_errors(view: View, scales: FloatArray, largest: int) -> FloatArray:
    """Return the mean square error of what a synapse gives each channel at scales (tried, channels), of that shape."""
    weight = view.by_group(view.synapse.weight)
    groups, channels = weight.shape[:2]
    scales = scales.reshape(-1, groups, channels)
    stride = max(1, round(scales.size * view.factors[0].multiplications / BUDGET))
    by_group = zip(weight[:, ::stride], np.swapaxes(scales, 0, 1)[..., ::stride], view.factors, strict=True)
    exact: FloatArray = np.stack([_feedback_errors(*of_group, largest) for of_group in by_group], axis=1)
    if stride == 1:
        return exact.reshape(len(scales), -1)
    plain = np.array([_plain_errors(weight, scale, largest) for scale in scales])
    beside = plain[..., ::stride].sum(axis=(1, 2))
    ratio = exact.sum(axis=(1, 2)) / np.where(beside > 0, beside, 1.0)
    errors: FloatArray = plain * ratio[:, np.newaxis, np.newaxis]
    errors[..., ::stride] = exact
    return errors.reshape(len(scales), -1)


def _feedback_errors(weight: FloatArray, scales: FloatArray, factor: Factor, largest: int) -> FloatArray:
    """Return errors (tried, channels) of weights (channels, fan-in) at scales (tried, channels)."""
    channel, scale = np.tile(np.arange(len(weight)), len(scales)), scales.reshape(-1, 1)
    step = max(1, AT_ONCE // weight.shape[1])
    parts = (slice(start, start + step) for start in range(0, len(scale), step))
    squares = [round_with_feedback(weight[channel[part]] * scale[part], factor, largest)[1] for part in parts]
    return np.concatenate(squares).reshape(scales.shape) / scales**2


def _plain_errors(weight: FloatArray, scale: FloatArray, largest: int) -> FloatArray:
    """Return the mean square error of the weights themselves, (groups, channels), at a scale of that shape."""
    wanted = weight * scale[..., np.newaxis]
    error = np.clip(np.rint(wanted), -largest, largest) - wanted
    mean: FloatArray = (error**2).mean(axis=2) / scale**2
    return mean


def choose_clipped(
    population: FloatPopulation,
    number_format: IntegerFormat,
    curve: Curve,
    exponents: tuple[int, ...],
    ceiling: FloatArray,
) -> Scale | None:
    """Return the scale of least output error; None if no threshold fits.

    Args:
        curve: of the population.
        exponents: of the synapses.
        ceiling: float64 (channels,), scales may not exceed it.
    """
    fitting = fitting_scales(population, number_format, exponents)
    caps = np.minimum(ceiling, hard_limits(population, number_format, fitting))
    if number_format.one_threshold or population.threshold is None:
        fitting, caps = (shared_limit(population, scales) for scales in (fitting, caps))
    tried = np.minimum(fitting * FACTORS[:, np.newaxis], caps)
    if population.threshold is None:
        tried = np.where(np.isfinite(tried), tried, 1.0)
        return Scale(tried[curve.at(tried).sum(axis=1).argmin()], None, exponents)
    threshold = _choose_threshold(population.threshold, number_format, curve, tried)
    if threshold is None:
        return None
    return Scale(threshold / population.threshold, threshold, exponents)


def _choose_threshold(
    theta: FloatArray, number_format: IntegerFormat, curve: Curve, tried: FloatArray
) -> IntArray | None:
    """Return thresholds m * 2**e with one e, of scales (tried, channels) or less: those of the least error."""
    best: IntArray | None = None
    least = np.inf
    channel = np.arange(tried.shape[1])
    for exponent in range(number_format.threshold_exponent_max + 1):
        mantissa = np.minimum(np.floor(tried * theta / 2**exponent), number_format.threshold_mantissa_max)
        if mantissa.max(axis=0).min() < 1:
            break
        errors = np.where(mantissa < 1, np.inf, curve.at(np.maximum(mantissa, 1) * 2**exponent / theta))
        if number_format.one_threshold:
            errors = np.broadcast_to(errors.sum(axis=1, keepdims=True), errors.shape)
        chosen = errors.argmin(axis=0)
        error = float(errors[chosen, channel].mean())
        if error < least:
            best, least = (mantissa[chosen, channel] * 2**exponent).astype(np.int64), error
    return best
