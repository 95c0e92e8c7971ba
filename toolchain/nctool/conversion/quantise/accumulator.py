"""Fit every population into the accumulator: the step from real numbers to integers.

A population is rounded at the best scale; if interval arithmetic proves that its accumulated input fits, that is
kept. If not, the scale is lowered for a proof where the largest scale that fits gives up at most one bit for it. If
that is not enough, the bound is measured on calibration data, widened by a margin, and the scale lowered until it
fits: marked `calibrated`.

In: folded populations, an IntegerFormat, calibration pixels. Out: an IntNetwork with bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray, FloatPopulation
from nctool.conversion.graded.fitting import Surroundings, graded_populations, with_bound
from nctool.conversion.input_encoding import EncodedInput
from nctool.conversion.quantise.calibration import MARGIN, Calibration, Running
from nctool.conversion.quantise.candidates import Candidates, Errors
from nctool.conversion.quantise.maxima import integer_maximum
from nctool.conversion.quantise.patches import views
from nctool.errors import RangeError
from nctool.ir.bounds import prove_population
from nctool.ir.network import IntArray, IntegrateFire, IntNetwork, Population
from nctool.ir.number_format import WEIGHT_BITS_RANGE, IntegerFormat

PROOF_LOSS = 2.0
"""A scale is divided by at most this to turn a measured bound into a proved one."""

SAFETY = 0.98
"""Scales are lowered a little further than the ratio asks for: rounding moves the sums."""

MAX_ROUNDS = 20


class Fitting:
    """Round one population after the other so that its accumulated input stays in the accumulator.

    Args:
        last_readers: of each source that a population reads, by name.
        encoded: the input.
        number_format: what the integers may be.
        pixels: uint8 calibration samples (samples, *input shape), at least one.
        n_steps: length of the window.
        running: called before every batch of samples that a population runs on.

    Attributes:
        calibration: what the populations that are integers send.
        populations: the integers.
        n_fitted: how many populations of the float network these are.
        errors: of each population that was rounded: of all but the maxima.
    """

    def __init__(
        self,
        last_readers: Mapping[str, str],
        encoded: EncodedInput,
        number_format: IntegerFormat,
        pixels: NDArray[np.uint8],
        n_steps: int,
        running: Running,
    ) -> None:
        self._last_readers, self._encoded, self._format = last_readers, encoded, number_format
        self.calibration = Calibration(encoded, pixels, n_steps, running)
        self._payloads: dict[str, IntArray] = {}
        self.populations: list[Population] = []
        self.n_fitted = 0
        self.errors: dict[str, Errors] = {}

    @property
    def network(self) -> IntNetwork:
        """Return the integer network, once all populations are in it."""
        return IntNetwork(self._encoded.encoding, tuple(self.populations), self.calibration.n_steps)

    def fit(self, real: FloatPopulation) -> None:
        """Round a population whose sources are integers; its weights are per spike or unit of them.

        Raises:
            RangeError: it cannot be made to fit, or none of its weights is left.
        """
        populations = self._graded(real) if real.graded else [self._rounded(real)]
        _require_weights(real, populations[0], self._format, self.calibration.n_steps)
        beside = {population.name for population in populations[:-1]}
        for source in [source for source, reader in self._last_readers.items() if reader == real.name] + sorted(beside):
            self.calibration.forget(source)
        self.populations += populations
        self.n_fitted += 1

    def _rounded(self, real: FloatPopulation) -> Population:
        if real.maximum:
            population = integer_maximum(real, self._encoded.encoding, self.calibration.n_steps)
        else:
            population, self.errors[real.name] = fit_population(real, self._encoded, self._format, self.calibration)
        if real.name in self._last_readers:
            self.calibration.settle(population)
        return population

    def _graded(self, real: FloatPopulation) -> list[Population]:
        """Return the populations of a graded one, the last of its name, each with its bound; keep what they send."""
        around = Surroundings(self._encoded.encoding, self._format, self.calibration, self._payloads)
        populations, errors = graded_populations(real, around)
        if errors is not None:
            self.errors[real.name] = errors
        fitted = []
        for population in populations:
            bounded, self._payloads[population.name] = with_bound(population, around)
            if population.name != real.name or real.name in self._last_readers:
                self.calibration.settle(bounded)
            fitted.append(bounded)
        return fitted


def _require_weights(real: FloatPopulation, rounded: Population, number_format: IntegerFormat, n_steps: int) -> None:
    """Refuse with a RangeError a population that no longer sees anything: such a network cannot work."""
    if any(synapse.weight.any() for synapse in rounded.synapses) or not any(s.weight.any() for s in real.synapses):
        return
    channel = int(np.abs(real.bias).argmax())
    raise RangeError(
        f"population `{real.name}`: all its weights round to 0 over {n_steps} time step{'s' * (n_steps > 1)}, beside "
        f"a bias of {real.bias[channel]:.3g} in channel {channel}",
        hint=finer_weights([rounded], number_format, n_steps, otherwise="train the network again"),
    )


def fit_population(
    real: FloatPopulation,
    encoded: EncodedInput,
    number_format: IntegerFormat,
    calibration: Calibration,
) -> tuple[Population, Errors]:
    """Round one population; return it with its bound, and its errors.

    Raises:
        RangeError: no scale keeps its accumulated input in the accumulator.
    """
    candidates = Candidates(real, number_format, calibration.n_steps, views(real, calibration.rates))
    ceiling: FloatArray = np.full(len(real.bias), np.inf)
    proving = True
    for attempt in range(MAX_ROUNDS):
        tried = candidates.at(ceiling)
        if attempt == 0:
            plain = prove_population(tried[0].population, encoded.encoding, calibration.n_steps)
            proving = bool(plain.magnitude.max() <= PROOF_LOSS * number_format.accumulator_max)
        best = min(tried, key=candidates.error)
        if proving:
            reach, margin = prove_population(best.population, encoded.encoding, calibration.n_steps), 1.0
        else:
            reach, margin = calibration.range_of(best.population), MARGIN
        magnitude = reach.magnitude.reshape(-1, real.replicas).max(axis=1)  # replicas have one scale
        excess = magnitude * margin / number_format.accumulator_max
        if excess.max() <= 1:
            bound = reach.bound("proved" if proving else "calibrated", margin)
            return replace(best.population, bound=bound), candidates.errors(best)
        ceiling = np.where(excess > 1, best.scale.per_channel / np.maximum(excess, 1) * SAFETY, ceiling)
    raise RangeError(
        f"population `{real.name}`: no scale keeps its accumulated input within +-{number_format.accumulator_max}",
        hint="use fewer --steps" if calibration.n_steps > 1 else "train with weight decay",
    )


def finer_weights(rounded: Sequence[Population], number_format: IntegerFormat, n_steps: int, otherwise: str) -> str:
    """Return which options give finer weights to some of these populations, or `otherwise` where none does.

    Weights that leave their bits unused are kept small by something else: where the accumulator is full, by the sum
    over all steps, and a shorter window helps. Weights that use their bits get finer with more of them.
    """
    rounded = [population for population in rounded if not population.is_maximum]  # whose weights are 1
    small = [population for population in rounded if 2 * _largest_weight(population) <= number_format.weight_max]
    ways = []
    if n_steps > 1 and any(_is_held_by_window(population, number_format) for population in small):
        ways.append("fewer --steps")
    if number_format.weight_bits < WEIGHT_BITS_RANGE[1] and len(small) < len(rounded):
        ways.append("more --weight-bits")
    return f"use {', or '.join(ways)}" if ways else otherwise


def _largest_weight(population: Population) -> int:
    return max(int(np.abs(synapse.weight).max()) for synapse in population.synapses)


def _is_held_by_window(population: Population, number_format: IntegerFormat) -> bool:
    """Return whether the sum over all steps keeps the weights small: it fills the accumulator.

    Where no weight is left, any would: unless bias or threshold fill their own registers.
    """
    if _largest_weight(population) > 0:
        return population.head_room_bits is not None and population.head_room_bits < 1
    largest_threshold = number_format.threshold_mantissa_max * 2**number_format.threshold_exponent_max
    threshold = population.neuron.threshold if isinstance(population.neuron, IntegrateFire) else np.zeros(1)
    return bool(
        2 * np.abs(population.bias).max() <= number_format.bias_max and 2 * threshold.max() <= largest_threshold
    )
