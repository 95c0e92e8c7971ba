"""The integers of graded populations: shifts, rounded weights, and neurons for maxima and upper bounds.

In: a FloatPopulation with units, what its synapses see. Out: integer populations with bounds. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.conversion.graded.neurons import bounded, maximum_neurons
from nctool.conversion.quantise.calibration import MARGIN, Calibration
from nctool.conversion.quantise.candidates import Errors
from nctool.conversion.quantise.clipping import choose_clipped, error_curve, scale_errors
from nctool.conversion.quantise.patches import View, views
from nctool.conversion.quantise.rounding import round_for_output
from nctool.conversion.quantise.rounding_error import drive_error, output_error, weight_errors
from nctool.conversion.quantise.scales import Scale, fitting_scales, shared_limit, size_ratios
from nctool.errors import RangeError
from nctool.ir.bounds import Payloads, prove_population, proved_sum
from nctool.ir.checks import largest_sum
from nctool.ir.inputs import PixelEncoding
from nctool.ir.network import IntArray, Population, Synapse
from nctool.ir.number_format import IntegerFormat
from nctool.ir.population import GRADED_SUM_LIMIT, PAYLOAD_LIMIT

CLIPPED = range(-1, 3)
"""Shifts tried beside the largest with which no weight of most channels is clipped."""

MOST_SHIFTED = 12
"""Bits that the sums of a readout are shifted by at most; a bias that needs more makes its weights coarser."""

UNLIMITED = 2**40
"""In place of the limit of a bias, where the shift is still to be chosen."""


@dataclass(frozen=True)
class Surroundings:
    """What a population is fitted into.

    Args:
        encoding: of the input.
        number_format: what the integers may be.
        calibration: what the populations before it send.
        payloads: the largest number that a spike of each of these can carry, where it is proved.
    """

    encoding: PixelEncoding
    number_format: IntegerFormat
    calibration: Calibration
    payloads: Payloads


def graded_populations(real: FloatPopulation, around: Surroundings) -> tuple[list[Population], Errors | None]:
    """Return the populations that compute `real`, the last one of its name, and the errors of what was rounded.

    Args:
        real: its weights are per unit of what it reads.

    Raises:
        RangeError: it has no room in the registers.
    """
    if real.maximum:
        return maximum_neurons(real), None
    seen = views(real, around.calibration.rates)
    if real.threshold is None:
        scale = _readout_scale(real, seen, around)
    else:
        unit: FloatArray = 1.0 / real.threshold
        scale = Scale(unit, None, _exponents(real, unit, seen, around.number_format))
    rounded = round_for_output(real, scale, around.number_format, 1, seen)
    _require_bias(rounded, around.number_format)
    output = output_error(real, drive_error(real, scale, rounded, seen), seen)
    errors = Errors(weight_errors(real, scale, rounded), output)
    return bounded(rounded, real.most), errors


def _exponents(
    real: FloatPopulation, per_channel: FloatArray, seen: Sequence[View], number_format: IntegerFormat
) -> tuple[int, ...]:
    """Return the exponent of each synapse, of the least error of its output."""
    chosen = []
    for synapse, view in zip(real.synapses, seen, strict=True):
        alone = replace(real, synapses=(synapse,))
        fitting = fitting_scales(alone, number_format, (0,))
        weighed = np.isfinite(fitting)
        if not weighed.any():
            chosen.append(0)
            continue
        most = int(np.floor(np.median(np.log2(fitting[weighed] / per_channel[weighed]))))
        shifts = sorted({_within(most + more, number_format) for more in CLIPPED})
        scales = np.array([per_channel * 2.0**shift for shift in shifts])
        errors = scale_errors(view, scales, number_format.weight_max) * per_channel**2
        chosen.append(-shifts[int(errors.sum(axis=1).argmin())])
    return tuple(chosen)


def _within(shift: int, number_format: IntegerFormat) -> int:
    return min(max(shift, -number_format.weight_exponent_max), -number_format.weight_exponent_min)


def _readout_scale(real: FloatPopulation, seen: Sequence[View], around: Surroundings) -> Scale:
    """Return the finest scale of a readout, and the shift that its bias and its sums need."""
    number_format = replace(around.number_format, bias_max=UNLIMITED, comparison_max=None)
    ratios = tuple(min(max(ratio, 0), number_format.weight_exponent_max) for ratio in size_ratios(real))
    base = shared_limit(real, fitting_scales(real, number_format, ratios))
    curve = error_curve(base, seen, ratios, number_format.weight_max)
    finest = choose_clipped(real, number_format, curve, ratios, np.full(len(base), np.inf))
    scale = Scale(np.ones(len(base)), None, ratios) if finest is None else finest
    sums = sum(np.abs(view.output(view.synapse.weight)) for view in seen)
    largest = scale.per_channel[0] * np.array([MARGIN * float(np.max(sums)), float(np.abs(real.bias).max())])
    limits = np.array([around.number_format.accumulator_max / 2, around.number_format.bias_max - 2])
    needed = max(0, int(np.ceil(np.log2(np.maximum(largest / limits, 1.0)).max())))
    shift = min(needed, MOST_SHIFTED)
    return Scale(scale.per_channel / 2**needed, None, tuple(ratio - shift for ratio in ratios))


def _require_bias(rounded: Population, number_format: IntegerFormat) -> None:
    worst = int(rounded.bias[np.abs(rounded.bias).argmax()])
    if abs(worst) > number_format.bias_max:
        raise RangeError(
            f"population `{rounded.name}`: bias {worst} beside activations of {number_format.activation_bits} bits, "
            f"allowed -{number_format.bias_max}..{number_format.bias_max}",
            hint="use fewer --activation-bits",
        )


def with_bound(population: Population, around: Surroundings) -> tuple[Population, IntArray]:
    """Return a graded population with its bound, and the largest number that each of its channels can send.

    A bound is proved where that of its drive and those of all sums behind it are.

    Raises:
        RangeError: its drive, or a sum before its shift, has no room.
    """
    for synapse in population.synapses:
        _require_sums(population, synapse, around)
    proved = prove_population(population, around.encoding, 1, around.payloads)
    limit = around.number_format.accumulator_max
    sums = (proved_sum(synapse, around.encoding, around.payloads) for synapse in population.synapses)
    is_proved = bool(proved.magnitude.max() <= limit) and max(sums) <= GRADED_SUM_LIMIT
    reach, margin = (proved, 1.0) if is_proved else (around.calibration.range_of(population), MARGIN)
    most = float(reach.magnitude.max()) * margin
    if most > limit:
        raise _no_room(population.name, "drive", most, limit)
    bound = reach.bound("proved" if is_proved else "calibrated", margin)
    return replace(population, bound=bound), np.minimum(proved.high, PAYLOAD_LIMIT)


def _require_sums(population: Population, synapse: Synapse, around: Surroundings) -> None:
    """Require that the sums of a synapse are held before they are shifted (rule O3).

    They are measured only where the largest signals that came could leave the register.
    """
    plain = replace(synapse, exponent=0)
    if largest_sum(plain, around.calibration.rates(synapse.source).largest) * MARGIN <= GRADED_SUM_LIMIT:
        return
    alone = replace(population, synapses=(plain,), bias=np.zeros_like(population.bias))
    most = float(around.calibration.range_of(alone).magnitude.max()) * MARGIN
    if most > GRADED_SUM_LIMIT:
        raise _no_room(population.name, f"weighted sum from `{synapse.source}`", most, GRADED_SUM_LIMIT)


def _no_room(name: str, what: str, most: float, limit: int) -> RangeError:
    return RangeError(
        f"population `{name}`: its {what} may reach {most:.3g}, allowed {limit}",
        hint="use fewer --activation-bits or fewer --weight-bits",
    )
