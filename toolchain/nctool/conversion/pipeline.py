"""convert: a torch module becomes an IntNetwork, by a flat list of steps that each say what they changed.

    trace -> fold batch norm -> fold pooling -> encode the input -> copy replicas -> to integers, one population after
    the other (`nctool.conversion.integers`)

In: a trained torch module, its input normalisation, calibration samples. Out: a Conversion.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nctool.conversion.changes import (
    change_of_absorbing,
    change_of_folding,
    change_of_replicas,
    changes_of_bounds,
    changes_of_choosing,
    changes_of_composing,
    changes_of_enlarging,
    changes_of_holding,
    changes_of_input,
    changes_of_maxima,
    changes_of_rounding,
    normalised,
    notes_of_fewer_images,
    notes_of_lost_weights,
    notes_of_silence,
    resized,
)
from nctool.conversion.constants import hold
from nctool.conversion.float_network import FloatNetwork, Pool, map_synapses
from nctool.conversion.folding import fold_batch_norm, fold_pooling
from nctool.conversion.graded.units import trained_units
from nctool.conversion.input_encoding import EncodedInput, encode_input, rate_input, split_input
from nctool.conversion.integers import to_integers
from nctool.conversion.post_training.activations import Activations, affordable, provisional
from nctool.conversion.quantise.input_precision import SAMPLES, choose_input
from nctool.conversion.replicas import Replicas, replicas_by_name, stagger
from nctool.conversion.trace.compare_runs import first_images, require_same_network, sequences_as_images
from nctool.conversion.trace.signals import as_image
from nctool.conversion.trace.tracing import trace
from nctool.errors import UnsupportedError, UsageError
from nctool.ir.change import Change
from nctool.ir.inputs import find_encoding
from nctool.ir.network import INPUT_NAME, IntNetwork, Shape
from nctool.ir.number_format import LONGEST_WINDOW, IntegerFormat
from nctool.progress import ProgressCallback, no_progress


@dataclass(frozen=True)
class Conversion:
    """An integer network, the list of changes that led to it, and what it was in real numbers.

    Args:
        replicas: neurons that share an activation, by spiking population.
        notes: what the network cannot do, or has lost.
        real: the same populations, before anything was held or rounded.
        encoded: the input.
        number_format: the integers that it was rounded to.
        losses: what each layer lost of what the ReLUs give, where neurons were chosen for them: see `Integers`.
    """

    network: IntNetwork
    changes: tuple[Change, ...]
    replicas: dict[str, int]
    notes: tuple[str, ...]
    real: FloatNetwork
    encoded: EncodedInput
    number_format: IntegerFormat
    losses: Mapping[str, float] = field(default_factory=dict)


def convert(
    model: nn.Module,
    *,
    input_shape: Shape,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    number_format: IntegerFormat,
    n_steps: int,
    calibration: NDArray[np.uint8],
    replicas: Replicas = 1,
    input: str = "graded",  # noqa: A002  # the name that `nctool export` gives it
    fixed: Collection[str] = (),
    progress: ProgressCallback = no_progress,
) -> Conversion:
    """Convert a trained network of NoisyQuantReLU activations to integers.

    Args:
        model: see `nctool.conversion.trace.tracing` for what it may hold; where its activations are rectifiers, neurons
            are chosen for them on the calibration samples.
        input_shape: shape of one sample, (channels, height, width), (channels, length) or (features,).
        mean, std: normalisation of the input per channel, in units of pixel / 255.
        number_format: the integers that the backend can hold.
        n_steps: length of the window, 1..LONGEST_WINDOW.
        calibration: uint8 (samples, *input_shape), training samples; measured where no bound can be proved.
        replicas: neurons that share an activation, for all layers or by name (see `nctool.conversion.replicas`).
        input: how pixels enter, `graded` (rule I1) or `rate` (rule I4).
        fixed: names of modules whose weights stay as trained, where neurons are chosen for rectifiers.
        progress: called with the populations done and to do.

    Raises:
        UsageError: n_steps out of range, no calibration sample, replicas for a layer that does not spike, or an unknown
            encoding of the input.
        UnsupportedError: a module has no integrate-and-fire form, the model computes something else than its modules
            say, or replicas of neurons that a spike sets to zero.
        RangeError: numbers do not fit.
    """
    _require_arguments(n_steps, calibration)
    input_shape, calibration = as_image(input_shape), sequences_as_images(calibration)
    encoding = find_encoding(input)
    traced = trace(model, input_shape)
    require_same_network(model, traced, first_images(calibration, input_shape, mean, std), "calibration images")
    normed = map_synapses(traced, fold_batch_norm)
    pooled = map_synapses(normed, fold_pooling)
    copies = replicas_by_name(pooled, replicas)
    _require_staggering(copies, number_format)
    _require_gradable(encoding, copies, number_format)
    encoded = (rate_input if encoding == "rate" else encode_input)(input_shape, mean, std)
    trained = split_input(pooled, encoded)
    choosing = not trained.has_neurons
    given = len(calibration)
    if choosing:
        calibration = affordable(trained, calibration)
        trained = provisional(trained, encoded, calibration[:SAMPLES])
    if number_format.is_graded and not choosing:
        trained = trained_units(trained, number_format)
    deployed = stagger(trained, copies)
    if encoding == "graded" and not number_format.is_graded:
        progress(0, len(deployed.populations), "grading the input")
        holding, _ = hold(deployed.up_to_readers_of(INPUT_NAME), encoded.range, number_format, n_steps)
        encoded = choose_input(holding, mean, std, number_format, calibration, n_steps)
    activations = Activations(trained, encoded, calibration) if choosing else None
    integers = to_integers(deployed, activations, encoded, number_format, calibration, n_steps, progress, fixed)
    changes = (
        *changes_of_composing(traced),
        change_of_folding("fold batch norm", normalised(traced)),
        change_of_folding("fold average pooling", resized(normed, Pool)),
        *changes_of_enlarging(normed),
        *changes_of_maxima(traced, n_steps, number_format.is_graded),
        *(() if number_format.is_graded else (change_of_replicas(copies),)),
        *changes_of_input(encoded, n_steps),
        *changes_of_choosing(integers.real, integers.losses),
        *changes_of_bounds(integers.network),
        *changes_of_holding(integers.held),
        change_of_absorbing(number_format),
        *changes_of_rounding(integers.network, integers.errors, number_format),
    )
    notes = (
        *notes_of_fewer_images(len(calibration), given),
        *notes_of_silence(integers.holding, integers.held, integers.losses),
        *notes_of_lost_weights(integers.holding, integers.network, number_format),
    )
    return Conversion(integers.network, changes, copies, notes, integers.real, encoded, number_format, integers.losses)


def _require_arguments(n_steps: int, calibration: NDArray[np.uint8]) -> None:
    if not 1 <= n_steps <= LONGEST_WINDOW:
        raise UsageError(
            f"steps: {n_steps} is out of range, allowed 1..{LONGEST_WINDOW}",
            hint="give another number of time steps with --steps: over a longer window, the accumulator does not hold "
            "what a single weight of 8 bits adds up to",
        )
    if len(calibration) == 0:
        raise UsageError("calibration: number of samples is 0, allowed >= 1")


def _require_gradable(encoding: str, copies: Mapping[str, int], number_format: IntegerFormat) -> None:
    """Refuse what graded neurons have no use for."""
    if not number_format.is_graded:
        return
    if encoding == "rate":
        raise UnsupportedError(
            "input: spike trains, graded neurons take numbers", hint="leave out --input, or give --input graded"
        )
    several = [name for name, number in copies.items() if number > 1]
    if several:
        raise UnsupportedError(
            f"replicas: {copies[several[0]]} for `{several[0]}`, graded neurons allow 1: each sends all there is",
            hint="leave out --replicas",
        )


def _require_staggering(copies: Mapping[str, int], number_format: IntegerFormat) -> None:
    several = [name for name, number in copies.items() if number > 1]
    if several and number_format.reset == "zero":
        raise UnsupportedError(
            f"replicas: {copies[several[0]]} for `{several[0]}`, neurons that a spike sets to zero allow 1: they all "
            "start at 0, replicas differ in where they start",
            hint="use --backend autapse, or population",
        )
