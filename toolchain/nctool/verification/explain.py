"""The neighbourhood of a divergence: what drove one neuron, and what it should have done.

Where two sides first differ, everything that drives the neuron is equal on both sides. So its drive, its membrane
potential and its output by the rules follow from inputs that nobody disputes, and say which side is wrong.

In: a network, pixels and both traces. Out: a Neighbourhood. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nctool.ir.inputs import Samples
from nctool.ir.network import (
    INPUT_NAME,
    CurrentBased,
    GradedReadout,
    GradedReLU,
    IntegrateFire,
    IntNetwork,
    Population,
    Readout,
    Shape,
    Synapse,
)
from nctool.ir.receptive_field import ReceptiveField, receptive_field
from nctool.reference.neurons import Run
from nctool.reference.signal import input_signal
from nctool.reference.simulate import logits, run_population
from nctool.reference.trace import Spikes, Trace

MAX_INPUTS = 16
"""Inputs that are listed one by one; the rest is counted and summed."""

RULES = "rules"
KINDS: Mapping[type, str] = {
    IntegrateFire: "integrate-and-fire",
    CurrentBased: "current-based",
    Readout: "readout",
    GradedReLU: "graded",
    GradedReadout: "readout",
}
"""Neurons whose rules are applied here; of any other kind the drive and the inputs are shown."""

Quantity = Literal["spike", "logit"]
Signals = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Place:
    """One value of one sample.

    Args:
        layer: name of the population.
        quantity: `spike` or `logit`.
        step: one-based time step.
        neuron: (channel,) or (channel, height, width); of a logit, its index in the flattened population.
    """

    layer: str
    quantity: Quantity
    step: int
    neuron: tuple[int, ...]

    def index(self, shape: Shape) -> tuple[int, ...]:
        """Return the neuron in a population of this shape."""
        if self.quantity == "spike":
            return self.neuron
        return tuple(int(axis) for axis in np.unravel_index(self.neuron[0], shape))


@dataclass(frozen=True)
class Input:
    """One source neuron that was active at the step of the divergence.

    Args:
        source: name of the population, or `input`.
        neuron: its index in the source.
        value: 1 for a spike, what a graded one carries, or the input's value, at the step that its delay reaches back
            to.
        weight: of the connection, without the exponent.
        contribution: value * weight * 2**exponent, what it adds to the drive; a fraction where the exponent is
            negative, because the drive is rounded as a whole (rule W3).
        agreed: whether both sides say so. True for the input: both sides get the same samples.
    """

    source: str
    neuron: tuple[int, ...]
    value: int
    weight: int
    contribution: int | float
    agreed: bool


@dataclass(frozen=True)
class Side:
    """What one side says of the neuron at each step up to the divergence.

    Args:
        name: the engine, `file`, or `rules` for what docs/SEMANTICS.md makes of the inputs.
        values: spikes, 0 or 1 or what graded ones carry, or logits.
        potentials: membrane potentials after integration and before reset (rule S1); None when not kept.
    """

    name: str
    values: tuple[int, ...]
    potentials: tuple[int, ...] | None


@dataclass(frozen=True)
class Neighbourhood:
    """Everything that explains the value of one neuron at one step.

    Args:
        kind: `integrate-and-fire`, `readout`, `maximum`, or the class of a neuron that this module does not know.
        parameters: of the neuron, such as threshold, initial potential and reset.
        bias: added at every step; holds the sample where the sample is the bias (rule I3).
        drive: weighted inputs plus bias at steps 1, 2, ... up to the divergence.
        rules: what the rules make of the inputs; None for a neuron that this module does not know.
        expected, actual: what the two sides say.
        inputs: active source neurons at the step of the divergence, largest contribution first.
        more_inputs: how many active ones are not listed.
        more_contribution: what those add to the drive.
        inputs_agree: whether both sides agree on the whole receptive field at every step up to the divergence. True at
            a first divergence: all layers before it are equal.
    """

    kind: str
    parameters: Mapping[str, int | float | str]
    bias: int
    drive: tuple[int, ...]
    rules: Side | None
    expected: Side
    actual: Side
    inputs: tuple[Input, ...]
    more_inputs: int
    more_contribution: int | float
    inputs_agree: bool


def explain(
    network: IntNetwork,
    sample: Samples,
    place: Place,
    traces: tuple[Trace, Trace],
    names: tuple[str, str],
) -> Neighbourhood:
    """Explain the value of one neuron at one step.

    Args:
        sample: as the network takes it, with a first axis of length 1.
        place: which neuron and step.
        traces: of that one sample, expected and actual.
        names: who produced them.
    """
    population = next(p for p in network.populations if p.name == place.layer)
    neuron = place.index(population.shape)
    expected, actual = (_signals(network, sample, trace) for trace in traces)
    fields_in = [_field(s, population, network, neuron) for s in population.synapses]
    times = range(network.latency, network.latency + place.step)
    inputs = [source for field in fields_in for source in _inputs(field, expected, actual, times[-1])]
    inputs.sort(key=lambda source: -abs(source.contribution))
    bias, registers = _bias(population, neuron, expected), isinstance(population.neuron, CurrentBased)
    return Neighbourhood(
        kind=_kind(population),
        parameters=_parameters(population, neuron[0]),
        bias=bias,
        drive=tuple(
            bias + sum(field.weighted(_arriving(field, expected, at), registers=registers) for field in fields_in)
            for at in times
        ),
        rules=_by_rules(network, population, expected, place),
        expected=_side(names[0], traces[0], place, neuron),
        actual=_side(names[1], traces[1], place, neuron),
        inputs=tuple(inputs[:MAX_INPUTS]),
        more_inputs=len(inputs[MAX_INPUTS:]),
        more_contribution=sum(source.contribution for source in inputs[MAX_INPUTS:]),
        inputs_agree=all(
            np.array_equal(_arriving(field, expected, at), _arriving(field, actual, at))
            for field in fields_in
            for at in times
        ),
    )


def _kind(population: Population) -> str:
    kind = type(population.neuron)
    return "maximum" if population.is_maximum else KINDS.get(kind, kind.__name__)


def _signals(network: IntNetwork, sample: Samples, trace: Trace) -> Signals:
    """Return what each source sends by a trace of one sample, int64 (latency + steps, *source shape).

    What was sent before step 1 (rule C4) stands in no trace: it is what the rules say.
    """
    n_steps, latency = trace.logits.shape[1], network.latency
    signal = input_signal(network, sample, n_steps)
    signals = {INPUT_NAME: np.broadcast_to(signal, (1, latency + n_steps, *signal.shape[2:]))}
    for population in network.populations:
        if population.name not in trace.spikes:
            continue
        sent = trace.spikes[population.name].astype(np.int64)
        if latency:
            before = run_population(population, signals, latency + n_steps, latency).spikes[:, :latency]
            sent = np.concatenate([before.astype(np.int64), sent], axis=1)
        signals[population.name] = sent
    return signals


def _field(synapse: Synapse, population: Population, network: IntNetwork, neuron: tuple[int, ...]) -> ReceptiveField:
    """Return the receptive field of a neuron; the population's own spikes arrive a step later (rule W6)."""
    field = receptive_field(synapse, network.shapes[synapse.source], neuron)
    return replace(field, delay=field.delay + 1) if synapse.source == population.name else field


def _arriving(field: ReceptiveField, signals: Signals, at: int) -> NDArray[np.int64]:
    return field.arriving(signals[field.synapse.source][0], at)


def _inputs(field: ReceptiveField, expected: Signals, actual: Signals, at: int) -> Iterator[Input]:
    """Yield the source neurons that are active on either side, in the order of the source."""
    arriving = _arriving(field, expected, at)
    agrees = arriving == _arriving(field, actual, at)
    for k in np.flatnonzero((arriving != 0) | ~agrees).tolist():
        value, weight = int(arriving[k]), int(field.weight[k])
        source, contribution = field.synapse.source, field.contribution(k, value)
        yield Input(source, field.neuron(k), value, weight, contribution, bool(agrees[k]))


def _bias(population: Population, neuron: tuple[int, ...], signals: Signals) -> int:
    sample = 0 if population.synapses else int(signals[INPUT_NAME][0, -1][neuron])  # I3
    return int(population.bias[neuron[0]]) + sample


def _parameters(population: Population, channel: int) -> dict[str, int | float | str]:
    """Return the fields of a neuron that are numbers or texts; of an array per channel, the value of `channel`."""
    parameters: dict[str, int | float | str] = {}
    for field in fields(population.neuron):
        value = getattr(population.neuron, field.name)
        if isinstance(value, np.ndarray) and value.shape == population.shape[:1]:
            parameters[field.name] = int(value[channel])
        elif isinstance(value, int | float | str):
            parameters[field.name] = value
    return parameters


def _by_rules(network: IntNetwork, population: Population, signals: Signals, place: Place) -> Side | None:
    if type(population.neuron) not in KINDS:
        return None
    latency, n_steps = network.latency, signals[INPUT_NAME].shape[1]
    run = run_population(population, signals, n_steps, latency)
    window = Run(run.spikes[:, latency:], run.potentials[:, latency:], run.overflows)
    neuron = place.index(population.shape)
    potentials = _until(window.potentials, place.step, neuron)
    if place.quantity == "spike":
        return Side(RULES, _until(window.spikes, place.step, neuron), potentials)
    return Side(RULES, _until(logits(population, window), place.step, place.neuron), potentials)


def _side(name: str, trace: Trace, place: Place, neuron: tuple[int, ...]) -> Side:
    kept = trace.potentials.get(place.layer)
    potentials = None if kept is None else _until(kept, place.step, neuron)
    if place.quantity == "spike":
        return Side(name, _until(trace.spikes[place.layer], place.step, neuron), potentials)
    values = _until(trace.logits, place.step, place.neuron)
    return Side(name, values, potentials if place.layer in trace.spikes else values)  # S4: a readout's potentials


def _until(values: NDArray[np.int64] | Spikes, step: int, neuron: tuple[int, ...]) -> tuple[int, ...]:
    """Return the neuron's values at steps 1 up to a step, of an array (1, steps, *shape)."""
    return tuple(int(of_step[neuron]) for of_step in values[0, :step])
