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

from nctool.conversion.constants import Held, hold
from nctool.conversion.float_network import CodedInput, FloatNetwork, FloatSynapse
from nctool.conversion.folding import absorb_spike_values, each, encode_input, fold_batch_norm, fold_pooling
from nctool.conversion.quantise.accumulator import Fitted, fit
from nctool.conversion.quantise.input_precision import choose_input
from nctool.conversion.rate_input import rate_input, split_input
from nctool.conversion.trace.compare_runs import first_images, require_same_network
from nctool.conversion.trace.tracing import trace
from nctool.conversion.units import Units, stagger, units_by_name
from nctool.conversion.ways_out import finer_weights
from nctool.errors import UnsupportedError, UsageError
from nctool.ir.change import Change
from nctool.ir.inputs import find_coding
from nctool.ir.network import InputEncoding, IntNetwork, Shape, Synapse
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
    if not 1 <= n_steps <= LONGEST_WINDOW:
        raise UsageError(
            f"steps: {n_steps} is out of range, allowed 1..{LONGEST_WINDOW}",
            hint="give another number of time steps with --steps: over a longer window, the accumulator does not hold "
            "what a single weight of 8 bits adds up to",
        )
    if len(calibration) == 0:
        raise UsageError("calibration: number of samples is 0, allowed >= 1")
    coding = find_coding(input)
    traced = trace(model, input_shape)
    require_same_network(model, traced, first_images(calibration, input_shape, mean, std), "calibration images")
    normed = each(traced, fold_batch_norm)
    pooled = each(normed, fold_pooling)
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
        _folded("fold batch norm", [name for name, synapse in _branches(traced) if synapse.norm is not None]),
        _folded("fold average pooling", [name for name, synapse in _branches(normed) if synapse.pools]),
        _staggered(copies),
        *_coded(coded, n_steps),
        *_held(held),
        Change("absorb spike values", "a spike is worth its threshold: folded into the weights behind it", True),
        *_rounded(fitted, form),
    )
    notes = (*_silent(holding, held), *_lost(holding, fitted.network, form))
    return Conversion(fitted.network, changes, copies, notes, real, coded, form)


def _branches(network: FloatNetwork) -> list[tuple[str, FloatSynapse]]:
    """Return every synapse with what it is called: like its population, or like its module in a sum."""
    return [(p.name if len(p.synapses) == 1 else s.module, s) for p in network.populations for s in p.synapses]


def _folded(step: str, names: list[str]) -> Change:
    return Change(step, f"into {', '.join(dict.fromkeys(names))}" if names else "nothing to fold", True)


def _require_staggering(copies: Mapping[str, int], form: IntegerFormat) -> None:
    several = [name for name, number in copies.items() if number > 1]
    if several and form.reset == "zero":
        raise UnsupportedError(
            f"units: {copies[several[0]]} for `{several[0]}`, neurons that a spike sets to zero allow 1: they all "
            "start at 0, units differ in where they start",
            hint="export with --realisation autapse, or population",
        )


def _staggered(copies: Mapping[str, int]) -> Change:
    several = [f"{name} {number}" for name, number in copies.items() if number > 1]
    return Change("copy units", f"units of {', '.join(several)}" if several else "one unit for each activation", True)


def _held(held: Mapping[str, Held]) -> tuple[Change, ...]:
    """Return what was held; spikes stay as they were, logits of classes that are never the answer do not."""
    parts = [f"`{name}`: {text}" for name, each in held.items() for text in _held_parts(each)]
    raised = [f"`{name}`: {', '.join(map(str, each.raised))}" for name, each in held.items() if each.raised]
    stay = Change("hold what never changes", "; ".join(parts) or "nothing to hold", True)
    return (stay, *(Change("raise logits", f"of classes that are never the answer, {text}", False) for text in raised))


def _held_parts(held: Held) -> list[str]:
    counts = (
        (held.never, "channels that never fire {}"),
        (held.always, "channels that always fire {}"),
        (held.unread, "weights that see only padding or silence {}"),
    )
    return [text.format(number) for number, text in counts if number]


def _silent(real: FloatNetwork, held: Mapping[str, Held]) -> tuple[str, ...]:
    """Return a note for each layer that sends nothing, whatever the image."""
    names = [p.name for p in real.populations if p.threshold is not None and held[p.name].never == p.shape[0]]
    return tuple(f"no neuron of `{name}` can fire, whatever the image: train the network again" for name in names)


def _lost(real: FloatNetwork, rounded: IntNetwork, form: IntegerFormat) -> tuple[str, ...]:
    """Return a note for each branch of which no weight is left."""
    pairs = zip(real.populations, rounded.populations, strict=True)
    branches = [(q, *each) for p, q in pairs for each in zip(p.synapses, q.synapses, strict=True)]
    return tuple(
        f"all weights of `{population.name}` from `{synapse.source}` round to 0: "
        + finer_weights([population], form, rounded.n_steps, otherwise="train the network again")
        for population, real_synapse, synapse in branches
        if real_synapse.weight.any() and not synapse.weight.any()
    )


def _coded(coded: CodedInput, n_steps: int) -> tuple[Change, ...]:
    encoding, table = coded.encoding, coded.encoding.table
    if isinstance(encoding, InputEncoding):
        detail = f"pixels as integers {int(table.min())}..{int(table.max())}, one step per channel"
        return (Change("grade the input", detail, False, 0.5 / float(np.abs(table.astype(int)).max())),)
    channels, copies = encoding.sample_shape[0], len(table) // encoding.sample_shape[0]
    split = f"{channels} into {len(table)}, ON above the mean and OFF below it: the weights behind are copied"
    detail = f"a spike train for each of {len(table)} channels, its rate rounded to {n_steps} step{'s' * (n_steps > 1)}"
    return (
        Change("split the channels", split if copies > 1 else "nothing to split: all of one sign", True),
        Change("code the input as rates", detail, False, 0.5 / n_steps),
    )


def _rounded(fitted: Fitted, form: IntegerFormat) -> tuple[Change, ...]:
    """Return one change a synapse, with the bound of the population that it drives."""
    changes = []
    for population in fitted.network.populations:
        bound = population.bound
        kind = "not bounded" if bound is None else f"{bound.kind}, head-room {bound.head_room_bits:.2f} bits"
        errors = fitted.errors[population.name]
        for synapse, error in zip(population.synapses, errors.weights, strict=True):
            branch = f" from `{synapse.source}`" if len(population.synapses) > 1 else ""
            detail = f"{_weights(synapse, form)}; bound {kind}"
            changes.append(Change(f"round `{population.name}`{branch}", detail, False, error, errors.output))
    return tuple(changes)


def _weights(synapse: Synapse, form: IntegerFormat) -> str:
    times = f" times {2**synapse.exponent}" if synapse.exponent else ""
    return f"weights {int(synapse.weight.min())}..{int(synapse.weight.max())}{times} of {form.weight_bits} bits"
