"""The errors that rounding makes: of weights, and in the output of a population.

In: a FloatPopulation, what it was rounded to, what its synapses see on calibration data. Out: errors. Must not import
torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.conversion.quantise.patches import View
from nctool.conversion.quantise.scales import Scale, weight_scale
from nctool.ir.network import Population, Synapse


def output_error(population: FloatPopulation, error: FloatArray, views: Sequence[View]) -> float:
    """Return the root mean square error of the drive of one step, relative to that of the drive, over all patches.

    Only what can change an output counts: channels that have weights, and of neurons the drive from 0, which gives no
    spike, to the threshold, which gives one at every step.

    Args:
        error: see `drive_error`.
    """
    changing = np.any([view.synapse.largest > 0 for view in views], axis=0)
    wanted = _drive(population, views)[:, changing]
    rounded_drive = wanted + error[:, changing]
    if population.saturation is not None:
        most = population.saturation[changing]
        wanted, rounded_drive = (np.clip(drive, 0.0, most) for drive in (wanted, rounded_drive))
    return relative_error(float(np.square(rounded_drive - wanted).sum()), float(np.square(wanted).sum()))


def relative_error(squares: float, power: float) -> float:
    """Return the root of the sum of the squared errors, relative to that of the squares of what was wanted.

    Where nothing was wanted, it is 0 if nothing was found, else 1: all of it is wrong.
    """
    return float(np.sqrt(squares / power)) if power > 0 else float(squares > 0)


def _drive(population: FloatPopulation, views: Sequence[View]) -> FloatArray:
    """Return the drive of one step, in real units, (rows, channels)."""
    total: FloatArray = population.bias + sum(view.output(view.synapse.weight) for view in views)
    return total


def drive_error(population: FloatPopulation, scale: Scale, rounded: Population, views: Sequence[View]) -> FloatArray:
    """Return what rounding adds to the drive of one step, in real units, (rows, channels)."""
    lost = 0.5 * sum(synapse.exponent < 0 for synapse in rounded.synapses)  # by rounding down: the bias makes up for it
    total: FloatArray = (rounded.bias[:: population.replicas] - lost) / scale.per_channel - population.bias
    for view, synapse in zip(views, rounded.synapses, strict=True):
        distinct = synapse.repeat.distinct(synapse.weight, view.synapse.source_shape)
        total = total + view.output(view.error(distinct, scale.per_channel / 2**synapse.exponent))
    return total


def weight_errors(population: FloatPopulation, scale: Scale, rounded: Population) -> tuple[float, ...]:
    """Return per synapse the largest error of a weight, relative to the largest weight of its channel."""
    pairs = zip(population.synapses, rounded.synapses, strict=True)
    return tuple(_relative_error(real, synapse, scale) for real, synapse in pairs)


def _relative_error(real: FloatSynapse, rounded: Synapse, scale: Scale) -> float:
    distinct = real.repeat.distinct(rounded.weight, real.source_shape)
    error = np.abs(distinct / weight_scale(real, scale, rounded.exponent) - real.weight)
    largest = np.where(real.largest > 0, real.largest, 1.0)
    return float((error.reshape(len(largest), -1).max(axis=1) / largest).max())
