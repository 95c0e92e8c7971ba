"""Fit every population into the accumulator: the step from real numbers to integers.

A population is rounded at the largest scale; if interval arithmetic proves that its accumulated input fits,
that is kept. If not, the scale gives up at most one bit for a proof. If that is not enough, the bound is
measured on calibration data, widened by a margin, and the scale lowered until it fits: marked `calibrated`.

In: a folded FloatNetwork, an IntegerFormat, calibration pixels. Out: an IntNetwork with bounds. Must not
import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nctool.bounds import Range, measure, prove_population
from nctool.conversion.float_network import CodedInput, FloatArray, FloatNetwork, FloatPopulation
from nctool.conversion.scaling import choose_scale, round_population, weight_errors
from nctool.errors import RangeError
from nctool.integer_format import IntegerFormat
from nctool.network import INPUT_NAME, IntArray, IntNetwork, Population
from nctool.sim.neurons import Run, initial_potential
from nctool.sim.reference import run_population

PROOF_LOSS = 2.0
"""A scale is divided by at most this to turn a measured bound into a proved one."""

MARGIN = 2.0
"""Measured bounds are widened by this factor: test images reach further than 256 training images do."""

SAFETY = 0.98
"""Scales are lowered a little further than the ratio asks for: rounding moves the sums."""

MAX_ROUNDS = 20
BATCH = 32


@dataclass(frozen=True)
class Fitted:
    """An integer network with the worst relative weight error of each synapse of each population."""

    network: IntNetwork
    errors: dict[str, tuple[float, ...]]


class Calibration:
    """Signals of the populations on calibration data, computed only when a proof fails.

    Args:
        coded: the input.
        pixels: uint8 (samples, *input shape).
        n_steps: length of the window.
    """

    def __init__(self, coded: CodedInput, pixels: NDArray[np.uint8], n_steps: int) -> None:
        self.n_steps = n_steps
        self.signals: dict[str, IntArray] = {INPUT_NAME: coded.encoding.signal(pixels, n_steps)}
        self.settled: dict[str, Population] = {}

    def range_of(self, population: Population) -> Range:
        """Measure the accumulated input of `population` on the signals of what drives it."""
        runs = [measure(run.potentials - initial_potential(population)) for run in self._runs(population)]
        return Range(np.minimum.reduce([r.low for r in runs]), np.maximum.reduce([r.high for r in runs]))

    def _signal(self, name: str) -> IntArray:
        if name not in self.signals:
            runs = self._runs(self.settled[name])
            self.signals[name] = np.concatenate([run.spikes for run in runs]).astype(np.int8)
        return self.signals[name]

    def _runs(self, population: Population) -> list[Run]:
        sources = {synapse.source: self._signal(synapse.source) for synapse in population.synapses}
        n_samples = len(self.signals[INPUT_NAME])
        batches = [slice(start, start + BATCH) for start in range(0, n_samples, BATCH)]
        return [run_population(population, {k: v[part] for k, v in sources.items()}, self.n_steps) for part in batches]


def fit(
    network: FloatNetwork, coded: CodedInput, form: IntegerFormat, pixels: NDArray[np.uint8], n_steps: int
) -> Fitted:
    """Round every population of `network` so that its accumulated input stays in the accumulator.

    Args:
        pixels: uint8 calibration samples (samples, *input shape), at least one.

    Raises:
        RangeError: a population cannot be made to fit.
    """
    calibration = Calibration(coded, pixels, n_steps)
    populations, errors = [], {}
    for real in network.populations:
        population, errors[real.name] = fit_population(real, coded, form, calibration)
        calibration.settled[real.name] = population
        populations.append(population)
    return Fitted(IntNetwork(coded.encoding, tuple(populations), n_steps), errors)


def fit_population(
    real: FloatPopulation, coded: CodedInput, form: IntegerFormat, calibration: Calibration
) -> tuple[Population, tuple[float, ...]]:
    """Round one population; return it with its bound, and the worst relative weight error of each synapse.

    Raises:
        RangeError: no scale keeps its accumulated input in the accumulator.
    """
    ceiling: FloatArray = np.full(real.shape[0], np.inf)
    proving = True
    for attempt in range(MAX_ROUNDS):
        scale = choose_scale(real, form, ceiling)
        rounded = round_population(real, scale, form, calibration.n_steps)
        found, margin = prove_population(rounded, coded.encoding, calibration.n_steps), 1.0
        if attempt == 0:
            proving = bool(found.magnitude.max() <= PROOF_LOSS * form.accumulator_max)
        if not proving:
            found, margin = calibration.range_of(rounded), MARGIN
        excess = found.magnitude * margin / form.accumulator_max
        if excess.max() <= 1:
            bound = found.bound("proved" if proving else "calibrated", margin)
            return replace(rounded, bound=bound), weight_errors(real, scale)
        ceiling = np.where(excess > 1, scale.per_channel / np.maximum(excess, 1) * SAFETY, ceiling)
    raise RangeError(
        f"population `{real.name}`: no scale keeps its accumulated input within +-{form.accumulator_max}",
        hint="export with fewer --steps",
    )
