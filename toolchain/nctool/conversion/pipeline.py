"""convert: a torch module becomes an IntNetwork, by a flat list of steps that each say what they changed.

    trace -> fold batch norm -> fold pooling -> copy units -> code the input -> hold what never changes
    -> absorb spike values -> round and bound

In: a trained torch module, its input normalisation, calibration samples. Out: a Conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nctool.conversion.changes import (
    branches,
    change_of_folding,
    change_of_units,
    changes_of_holding,
    changes_of_input,
    changes_of_rounding,
    notes_of_lost_weights,
    notes_of_silence,
)
from nctool.conversion.constants import hold
from nctool.conversion.float_network import FloatNetwork, map_synapses
from nctool.conversion.folding import absorb_spike_values, fold_batch_norm, fold_pooling
from nctool.conversion.input_coding import CodedInput, encode_input, rate_input, split_input
from nctool.conversion.quantise.accumulator import fit
from nctool.conversion.quantise.input_precision import choose_input
from nctool.conversion.trace.compare_runs import first_images, require_same_network
from nctool.conversion.trace.tracing import trace
from nctool.conversion.units import Units, stagger, units_by_name
from nctool.errors import UnsupportedError, UsageError
from nctool.ir.change import Change
from nctool.ir.inputs import find_coding
from nctool.ir.network import IntNetwork, Shape
from nctool.ir.number_format import LONGEST_WINDOW, IntegerFormat
from nctool.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class Conversion:
    """An integer network, the list of changes that led to it, and what it was in real numbers.

    Args:
        units: neurons that share an activation, by spiking population.
        notes: what the network cannot do, or has lost.
        real: the same populations, before anything was held or rounded.
        coded: the input.
        form: the integers that it was rounded to.
    """

    network: IntNetwork
    changes: tuple[Change, ...]
    units: dict[str, int]
    notes: tuple[str, ...]
    real: FloatNetwork
    coded: CodedInput
    form: IntegerFormat


def convert(
    model: nn.Module,
    *,
    input_shape: Shape,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    form: IntegerFormat,
    n_steps: int,
    calibration: NDArray[np.uint8],
    units: Units = 1,
    input: str = "graded",  # noqa: A002  # the name that `nctool export` gives it
    progress: ProgressCallback = no_progress,
) -> Conversion:
    """Convert a trained network of NoisyQuantReLU activations to integers.

    Args:
        model: see `nctool.conversion.trace.tracing` for what it may hold.
        input_shape: shape of one sample.
        mean, std: normalisation of the input per channel, in units of pixel / 255.
        form: the integers that the realisation can hold.
        n_steps: length of the window, 1..LONGEST_WINDOW.
        calibration: uint8 (samples, *input_shape), training samples; measured where no bound can be proved.
        units: neurons that share an activation, for all layers or by name (see `nctool.conversion.units`).
        input: how pixels enter, `graded` (rule I1) or `rate` (rule I4).
        progress: called with the populations done and to do.

    Raises:
        UsageError: n_steps out of range, no calibration sample, units for a layer that does not spike, or an unknown
            coding of the input.
        UnsupportedError: a module has no integrate-and-fire form, the model computes something else than its modules
            say, or units of neurons that a spike sets to zero.
        RangeError: numbers do not fit.
    """
    _require_arguments(n_steps, calibration)
    coding = find_coding(input)
    traced = trace(model, input_shape)
    require_same_network(model, traced, first_images(calibration, input_shape, mean, std), "calibration images")
    normed = map_synapses(traced, fold_batch_norm)
    pooled = map_synapses(normed, fold_pooling)
    copies = units_by_name(pooled, units)
    _require_staggering(copies, form)
    staggered = stagger(pooled, copies)
    coded = (rate_input if coding == "rate" else encode_input)(input_shape, mean, std)
    real = split_input(staggered, coded)
    holding, held = hold(real, coded.range, form, n_steps)
    if coding == "graded":
        progress(0, len(holding.populations), "grading the input")
        coded = choose_input(holding, mean, std, form, calibration, n_steps)
    absorbed = absorb_spike_values(holding, coded)
    fitted = fit(absorbed, coded, form, calibration, n_steps, progress)
    changes = (
        change_of_folding("fold batch norm", [name for name, synapse in branches(traced) if synapse.norm is not None]),
        change_of_folding("fold average pooling", [name for name, synapse in branches(normed) if synapse.pools]),
        change_of_units(copies),
        *changes_of_input(coded, n_steps),
        *changes_of_holding(held),
        Change("absorb spike values", "a spike is worth its threshold: folded into the weights behind it", True),
        *changes_of_rounding(fitted, form),
    )
    notes = (*notes_of_silence(holding, held), *notes_of_lost_weights(holding, fitted.network, form))
    return Conversion(fitted.network, changes, copies, notes, real, coded, form)


def _require_arguments(n_steps: int, calibration: NDArray[np.uint8]) -> None:
    if not 1 <= n_steps <= LONGEST_WINDOW:
        raise UsageError(
            f"steps: {n_steps} is out of range, allowed 1..{LONGEST_WINDOW}",
            hint="give another number of time steps with --steps: over a longer window, the accumulator does not hold "
            "what a single weight of 8 bits adds up to",
        )
    if len(calibration) == 0:
        raise UsageError("calibration: number of samples is 0, allowed >= 1")


def _require_staggering(copies: Mapping[str, int], form: IntegerFormat) -> None:
    several = [name for name, number in copies.items() if number > 1]
    if several and form.reset == "zero":
        raise UnsupportedError(
            f"units: {copies[several[0]]} for `{several[0]}`, neurons that a spike sets to zero allow 1: they all "
            "start at 0, units differ in where they start",
            hint="export with --realisation autapse, or population",
        )
