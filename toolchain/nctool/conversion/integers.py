"""From real numbers to integers, one population after the other.

    choose neurons, where the network has none yet -> hold what never changes -> absorb spike values -> round and bound

Each population sees what the integers before it send on calibration images.

In: a FloatNetwork whose channels have their replicas. Out: the integers, and what became of the real numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.constants import Held, Holding
from nctool.conversion.float_network import FloatNetwork
from nctool.conversion.folding import absorb, spike_value
from nctool.conversion.input_encoding import EncodedInput
from nctool.conversion.post_training.activations import Activations
from nctool.conversion.post_training.choosing import Choosing
from nctool.conversion.quantise.accumulator import Fitting
from nctool.conversion.quantise.candidates import Errors
from nctool.ir.network import IntNetwork
from nctool.ir.number_format import IntegerFormat
from nctool.progress import ProgressCallback


@dataclass(frozen=True)
class Integers:
    """An integer network and how it came to be.

    Args:
        network: the integers.
        real: the populations with their neurons, before anything was held or rounded.
        holding: the same with what never changes held.
        held: what that is, by population.
        errors: of rounding, by population.
        losses: root mean square error of what a population sends, relative to what the ReLUs give that its neurons were
            chosen for, on calibration images; empty where the network had its neurons.
    """

    network: IntNetwork
    real: FloatNetwork
    holding: FloatNetwork
    held: Mapping[str, Held]
    errors: Mapping[str, Errors]
    losses: Mapping[str, float]


def to_integers(
    deployed: FloatNetwork,
    activations: Activations | None,
    encoded: EncodedInput,
    number_format: IntegerFormat,
    pixels: NDArray[np.uint8],
    n_steps: int,
    progress: ProgressCallback,
    fixed: Collection[str] = (),
) -> Integers:
    """Turn every population of `deployed` into integers.

    Args:
        activations: of the trained network, where the neurons are still to be chosen for its ReLUs.
        pixels: uint8 calibration samples (samples, *input shape), at least one.
        progress: called for every population, and for every batch of samples that a population runs on.
        fixed: names of modules whose weights are not corrected.

    Raises:
        RangeError: a population cannot be made to fit, or none of its weights is left.
    """
    place = {population.name: number for number, population in enumerate(deployed.populations)}

    def running(name: str, done: int, total: int) -> None:
        number = place.get(name, fitting.n_fitted)  # graded maxima and bounds have neurons beside them
        progress(number, len(place), f"converting `{name}`, {done} of {total} samples")

    fitting = Fitting(deployed.last_readers, encoded, number_format, pixels, n_steps, running)
    holding = Holding(encoded.range, number_format, n_steps)
    choosing = None
    if activations is not None:
        choosing = Choosing(activations, fitting.calibration, deployed.maxima, number_format, fixed)
    values = {encoded.name: encoded.step}
    real, held, losses = [], [], {}
    for population in deployed.populations:
        progress(place[population.name], len(place), f"converting `{population.name}`")
        real.append(population if choosing is None else choosing.choose(population, values))
        values[population.name] = spike_value(real[-1])
        held.append(holding.hold(real[-1]))
        fitting.fit(absorb(held[-1], values))
        if choosing is not None and population.threshold is not None and not population.maximum:
            losses[population.name] = choosing.loss(real[-1])
    return Integers(
        network=fitting.network,
        real=replace(deployed, populations=tuple(real)),
        holding=replace(deployed, populations=tuple(held)),
        held=holding.held,
        errors=fitting.errors,
        losses=losses,
    )
