"""The neighbourhood of a divergence: what drove one neuron, and what it should have done.

Where two sides first differ, everything that drives the neuron is equal on both sides. So its drive, its membrane
potential and its output by the rules follow from inputs that nobody disputes, and say which side is wrong.

In: a network, pixels and both traces. Out: a Neighbourhood. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nctool.network import INPUT_NAME, IntegrateFire, IntNetwork, Population, Readout, Synapse
from nctool.receptive_field import ReceptiveField, receptive_field
from nctool.sim.reference import constant_input, run_population
from nctool.sim.trace import Trace

MAX_INPUTS = 16
"""Inputs that are listed one by one; the rest is counted and summed."""

RULES = "rules"
KINDS: Mapping[type, str] = {IntegrateFire: "integrate-and-fire", Readout: "readout"}
"""Neurons whose rules are applied here; of any other kind the drive and the inputs are shown."""

Signals = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Place:
    """One neuron at one step of one sample.

    Args:
        layer: name of the population.
        step: one-based time step.
        neuron: (channel,) or (channel, height, width).
    """

    layer: str
    step: int
    neuron: tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """One source neuron that was active at the step of the divergence.

    Args:
        source: name of the population, or `input`.
        neuron: its index in the source.
        value: 1 for a spike, -128..127 for graded input.
        weight: of the connection, without the exponent.
        contribution: value * weight * 2**exponent, what it adds to the drive.
        agreed: whether both sides say so. True for graded input: both sides get the same samples.
    """

    source: str
    neuron: tuple[int, ...]
    value: int
    weight: int
    contribution: int
    agreed: bool


@dataclass(frozen=True)
class Side:
    """What one side says of the neuron at each step up to the divergence.

    Args:
        name: the engine, `file`, or `rules` for what docs/SEMANTICS.md makes of the inputs.
        values: spikes, 0 or 1, or logits.
        potentials: membrane potentials after integration and before reset (rule S1); None when not kept.
    """

    name: str
    values: tuple[int, ...]
    potentials: tuple[int, ...] | None


@dataclass(frozen=True)
class Neighbourhood:
    """Everything that explains the value of one neuron at one step.

    Args:
        kind: `integrate-and-fire`, `readout`, or the class of a neuron that this module does not know.
        parameters: of the neuron, such as threshold, initial potential and reset.
        bias: added at every step.
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
    more_contribution: int
    inputs_agree: bool


def neighbourhood(
    network: IntNetwork,
    pixels: NDArray[np.uint8],
    place: Place,
    traces: tuple[Trace, Trace],
    names: tuple[str, str],
) -> Neighbourhood:
    """Explain the value of one neuron at one step.

    Args:
        pixels: uint8 (1, *input shape), the sample.
        place: which neuron and step.
        traces: of that one sample, expected and actual.
        names: who produced them.
    """
    population = next(p for p in network.populations if p.name == place.layer)
    expected, actual = (_signals(network, pixels, trace) for trace in traces)
    inlets = [_Inlet(s, receptive_field(s, network.shapes[s.source], place.neuron)) for s in population.synapses]
    inputs = [each for inlet in inlets for each in inlet.inputs(expected, actual, place.step)]
    inputs.sort(key=lambda each: -abs(each.contribution))
    bias, steps = int(population.bias[place.neuron[0]]), range(1, place.step + 1)
    return Neighbourhood(
        kind=KINDS.get(type(population.neuron), type(population.neuron).__name__),
        parameters=_parameters(population, place.neuron[0]),
        bias=bias,
        drive=tuple(bias + sum(inlet.weighted(expected, step) for inlet in inlets) for step in steps),
        rules=_by_rules(population, expected, place, traces[0].logits.shape[1]),
        expected=_side(names[0], traces[0], place),
        actual=_side(names[1], traces[1], place),
        inputs=tuple(inputs[:MAX_INPUTS]),
        more_inputs=len(inputs[MAX_INPUTS:]),
        more_contribution=sum(each.contribution for each in inputs[MAX_INPUTS:]),
        inputs_agree=all(inlet.agrees(expected, actual, step).all() for inlet in inlets for step in steps),
    )


@dataclass(frozen=True, eq=False)
class _Inlet:
    """One synapse as the neuron sees it."""

    synapse: Synapse
    field: ReceptiveField

    def sent(self, signals: Signals, step: int) -> NDArray[np.int64]:
        """Return what the receptive field sends at a step, int64 (connections,); graded input is constant."""
        signal = signals[self.synapse.source][0]
        sent: NDArray[np.int64] = signal[min(step, len(signal)) - 1][self.field.index]
        return sent

    def weighted(self, signals: Signals, step: int) -> int:
        """Return what this synapse adds to the drive at a step (rules W1 to W3)."""
        return int(self.sent(signals, step) @ self.field.weight) << self.synapse.exponent

    def agrees(self, expected: Signals, actual: Signals, step: int) -> NDArray[np.bool_]:
        """Return, bool (connections,), where both sides send the same."""
        return np.equal(self.sent(expected, step), self.sent(actual, step))

    def inputs(self, expected: Signals, actual: Signals, step: int) -> Iterator[Input]:
        """Yield the source neurons that are active at a step on either side, in the order of the source."""
        sent, agrees = self.sent(expected, step), self.agrees(expected, actual, step)
        for k in np.flatnonzero((sent != 0) | ~agrees):
            value, weight = int(sent[k]), int(self.field.weight[k])
            contribution = (value * weight) << self.synapse.exponent
            yield Input(self.synapse.source, self.field.neuron(k), value, weight, contribution, bool(agrees[k]))


def _signals(network: IntNetwork, pixels: NDArray[np.uint8], trace: Trace) -> Signals:
    """Return what each source sends, int64 (1, steps or 1, *source shape), by a trace of one sample."""
    sent = {name: spikes.astype(np.int64) for name, spikes in trace.spikes.items()}
    return {INPUT_NAME: constant_input(network, pixels), **sent}


def _parameters(population: Population, channel: int) -> dict[str, int | float | str]:
    """Return the fields of a neuron: of an array per channel the channel's value, and every plain number or text."""
    found: dict[str, int | float | str] = {}
    for field in fields(population.neuron):
        value = getattr(population.neuron, field.name)
        if isinstance(value, np.ndarray) and value.shape == population.shape[:1]:
            found[field.name] = int(value[channel])
        elif isinstance(value, int | float | str):
            found[field.name] = value
    return found


def _by_rules(population: Population, signals: Signals, place: Place, n_steps: int) -> Side | None:
    if type(population.neuron) not in KINDS:
        return None
    run = run_population(population, signals, n_steps)
    potentials = _until(run.potentials, place)
    values = potentials if isinstance(population.neuron, Readout) else _until(run.spikes, place)
    return Side(RULES, values, potentials)


def _side(name: str, trace: Trace, place: Place) -> Side:
    if place.layer not in trace.spikes:  # the readout, whose logits are its potentials (rule S4)
        logits = _until(trace.logits, place)
        return Side(name, logits, logits)
    kept = trace.potentials.get(place.layer)
    return Side(name, _until(trace.spikes[place.layer], place), None if kept is None else _until(kept, place))


def _until(values: NDArray[np.int64] | NDArray[np.bool_], place: Place) -> tuple[int, ...]:
    """Return the neuron's values at steps 1 up to the divergence, of an array (1, steps, *shape)."""
    return tuple(int(step[place.neuron]) for step in values[0, : place.step])
