"""Ways to round a population: each weight by itself at the largest scale, and with clipping and error feedback.

Where the second is not better on calibration data, the first is taken.

In: a FloatPopulation and what its synapses see. Out: integer populations, their errors. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.conversion.quantise.clipping import Curve, choose_clipped, error_curve
from nctool.conversion.quantise.patches import View
from nctool.conversion.quantise.rounding import round_for_output, round_population
from nctool.conversion.quantise.rounding_error import drive_error, output_error, weight_errors
from nctool.conversion.quantise.scales import (
    Scale,
    candidate_exponents,
    find_scale,
    fitting_scales,
    no_scale,
    shared_limit,
)
from nctool.ir.network import Population
from nctool.ir.number_format import IntegerFormat


@dataclass(frozen=True, eq=False)
class Candidate:
    """A population rounded at a scale.

    Args:
        drive_error: what rounding adds to the drive of one step, in real units, float64 (rows, channels).
    """

    scale: Scale
    population: Population
    drive_error: FloatArray


@dataclass(frozen=True)
class Errors:
    """What rounding did to one population.

    Args:
        weights: per synapse, the largest error of a weight, relative to the largest weight of its channel.
        output: of the drive on calibration data, as far as it can change an output (see `output_error`).
    """

    weights: tuple[float, ...]
    output: float


class Candidates:
    """The ways to round one population.

    Args:
        real: the population.
        number_format: what its integers may be.
        n_steps: length of the window.
        views: what its synapses see on calibration data.
    """

    def __init__(
        self, real: FloatPopulation, number_format: IntegerFormat, n_steps: int, views: tuple[View, ...]
    ) -> None:
        self.real = real
        self.number_format = number_format
        self.n_steps = n_steps
        self.views = views
        self._curves: dict[tuple[int, ...], Curve] = {}

    def at(self, ceiling: FloatArray) -> list[Candidate]:
        """Return the candidates whose scales do not exceed `ceiling`, float64 (channels,), the plainest first.

        Raises:
            RangeError: there is none.
        """
        plain, candidates = find_scale(self.real, self.number_format, ceiling), []
        exponents = candidate_exponents(self.real, self.number_format)[-1] if plain is None else plain.exponents
        if plain is not None:
            candidates.append(self._of(plain, round_population(self.real, plain, self.number_format, self.n_steps)))
        clipped = choose_clipped(self.real, self.number_format, self._curve(exponents), exponents, ceiling)
        if clipped is not None:
            rounded = round_for_output(self.real, clipped, self.number_format, self.n_steps, self.views)
            candidates.append(self._of(clipped, rounded))
        if not candidates:
            raise no_scale(self.real, self.number_format, ceiling)
        return candidates

    def _of(self, scale: Scale, rounded: Population) -> Candidate:
        return Candidate(scale, rounded, drive_error(self.real, scale, rounded, self.views))

    def _curve(self, exponents: tuple[int, ...]) -> Curve:
        if exponents not in self._curves:
            base = fitting_scales(self.real, self.number_format, exponents)
            if self.number_format.one_threshold or self.real.threshold is None:
                base = shared_limit(self.real, base)
            self._curves[exponents] = error_curve(base, self.views, exponents, self.number_format.weight_max)
        return self._curves[exponents]

    def error(self, candidate: Candidate) -> float:
        """Return the mean square error of the drive on calibration data, in real units."""
        return float(np.square(candidate.drive_error).mean())

    def errors(self, candidate: Candidate) -> Errors:
        """Return the errors that a conversion reports of a candidate."""
        scale, rounded = candidate.scale, candidate.population
        output = output_error(self.real, candidate.drive_error, self.views)
        return Errors(weight_errors(self.real, scale, rounded), output)
