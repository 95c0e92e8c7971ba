"""The error that rounding makes in the output of a population, and a rounding that makes it small.

In: a FloatPopulation, what its synapses see on calibration data. Out: a Population, its error. Must not import torch.

Source of the bias correction: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction,
ICCV 2019, arXiv 1906.04721.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation, FloatSynapse
from nctool.conversion.quantise.calibration import Calibration
from nctool.conversion.quantise.clipping import Weights
from nctool.conversion.quantise.comparison import fits_comparison
from nctool.conversion.quantise.factors import Factor, factor
from nctool.conversion.quantise.rounding import round_with_feedback
from nctool.conversion.quantise.scaling import Scale, assemble
from nctool.conversion.quantise.second_moments import Float32, extract, moments, n_patches
from nctool.ir.network import IntArray, IntegrateFire, Population
from nctool.ir.number_format import IntegerFormat


@dataclass(frozen=True, eq=False)
class View:
    """What one synapse sees on calibration data.

    Args:
        synapse: which one.
        patches: float32 (groups, rows, fan-in); row r of every synapse of a population is of the same neuron.
    """

    synapse: FloatSynapse
    patches: Float32

    @cached_property
    def mean(self) -> FloatArray:
        """Return the mean of the patches, float64 (groups, fan-in)."""
        mean: FloatArray = self.patches.mean(axis=1, dtype=np.float64)
        return mean

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """Return the factor of the covariance of each group."""
        found = moments(self.patches)
        return tuple(factor(found, group) for group in range(len(self.patches)))

    def by_group(self, weight: FloatArray) -> FloatArray:
        """Return weights as (groups, out / groups, fan-in)."""
        return weight.reshape(len(self.patches), -1, self.patches.shape[2])

    def weights(self, exponent: int) -> Weights:
        """Return the weights with the factors of what they weigh."""
        return Weights(self.by_group(self.synapse.weight), self.factors, exponent)

    def output(self, weight: FloatArray) -> Float32:
        """Weigh the patches; float32 (rows, out)."""
        weighted = self.patches @ np.swapaxes(self.by_group(weight).astype(np.float32), 1, 2)
        return np.swapaxes(weighted, 0, 1).reshape(weighted.shape[1], -1)

    def mean_output(self, weight: FloatArray) -> FloatArray:
        """Weigh the mean of the patches; float64 (out,)."""
        mean: FloatArray = np.einsum("gof,gf->go", self.by_group(weight), self.mean)
        return mean.reshape(-1)

    def round(self, units: FloatArray, largest: int) -> IntArray:
        """Round with error feedback at integer units per real unit, (out,); whole numbers."""
        wanted = self.by_group(self.synapse.weight * _column(units, self.synapse.weight))
        pairs = zip(wanted, self.factors, strict=True)
        rounded = [round_with_feedback(each, factor, largest)[0] for each, factor in pairs]
        return np.concatenate(rounded).reshape(self.synapse.weight.shape)

    def error(self, rounded: IntArray, units: FloatArray) -> FloatArray:
        """Return what rounding added to each weight, in real units."""
        found: FloatArray = rounded / _column(units, rounded) - self.synapse.weight
        return found


def view(population: FloatPopulation, calibration: Calibration) -> tuple[View, ...]:
    """Return what every synapse of `population` sees."""
    patches = n_patches(population.synapses)
    return tuple(View(s, extract(s, calibration.rates(s.source), patches)) for s in population.synapses)


def round_for_output(
    population: FloatPopulation, scale: Scale, form: IntegerFormat, n_steps: int, views: Sequence[View]
) -> Population:
    """Round `population` at `scale` with error feedback; the mean of the error that is left goes into its bias."""
    units, bias = scale.per_channel, population.bias
    weights = []
    for each, exponent in zip(views, scale.exponents, strict=True):
        rounded = each.round(units / 2**exponent, form.weight_max)
        bias = bias - each.mean_output(each.error(rounded, units / 2**exponent))
        weights.append(rounded)
    corrected = np.clip(np.rint(bias * units), -form.bias_max, form.bias_max)
    found = assemble(population, scale, form, n_steps, tuple(weights), corrected)
    if _fits(found, form):
        return found
    return assemble(population, scale, form, n_steps, tuple(weights), np.rint(population.bias * scale.per_channel))


def _fits(rounded: Population, form: IntegerFormat) -> bool:
    neuron = rounded.neuron
    if form.comparison_max is None or not form.comparison_holds_bias or not isinstance(neuron, IntegrateFire):
        return True
    return fits_comparison(neuron.threshold - neuron.initial - rounded.bias, form.comparison_max)


def squared_error(population: FloatPopulation, scale: Scale, rounded: Population, views: Sequence[View]) -> float:
    """Return the mean square error of the drive of one step, in real units, over channels and patches."""
    return float((_drive_error(population, scale, rounded, views) ** 2).mean())


def output_error(population: FloatPopulation, scale: Scale, rounded: Population, views: Sequence[View]) -> float:
    """Return the root mean square error of the drive of one step, relative to that of the drive, over all patches.

    Only what can change an output counts: channels that have weights, and of neurons the drive from 0, which gives no
    spike, to the threshold, which gives one at every step.
    """
    changing = np.any([each.synapse.weight.reshape(each.synapse.weight.shape[0], -1).any(axis=1) for each in views], 0)
    wanted = _drive(population, views)[:, changing]
    found = wanted + _drive_error(population, scale, rounded, views)[:, changing]
    if population.threshold is not None:
        wanted, found = (np.clip(each, 0.0, population.threshold) for each in (wanted, found))
    return relative_error(float(np.square(found - wanted).sum()), float(np.square(wanted).sum()))


def relative_error(squares: float, power: float) -> float:
    """Return the root of the sum of the squared errors, relative to that of the squares of what was wanted.

    Where nothing was wanted, it is 0 if nothing was found, else 1: all of it is wrong.
    """
    return float(np.sqrt(squares / power)) if power > 0 else float(squares > 0)


def _drive(population: FloatPopulation, views: Sequence[View]) -> FloatArray:
    """Return the drive of one step, in real units, (rows, channels)."""
    total: FloatArray = population.bias + sum(each.output(each.synapse.weight) for each in views)
    return total


def _drive_error(population: FloatPopulation, scale: Scale, rounded: Population, views: Sequence[View]) -> FloatArray:
    """Return what rounding adds to the drive of one step, in real units, (rows, channels)."""
    units = scale.per_channel
    total: FloatArray = rounded.bias[:: population.units] / units - population.bias
    for each, synapse in zip(views, rounded.synapses, strict=True):
        distinct = synapse.repeat.distinct(synapse.weight, each.synapse.source_shape)
        total = total + each.output(each.error(distinct, units / 2**synapse.exponent))
    return total


def _column(values: FloatArray, like: FloatArray | IntArray) -> FloatArray:
    return values.reshape(-1, *[1] * (like.ndim - 1))
