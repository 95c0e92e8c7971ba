"""What a chip does for a sample, counted from the spikes that there really were (docs/COST.md).

Steps are local ones (rule N2): a pipeline shifts them and changes no count. Steps in which it fills or drains belong to
no sample and are not counted.

A connection is one weight on its way from one neuron to another: a kernel tap that falls on padding is none, and a
weight of 0 is one, as it is kept in synaptic memory.

In: a network, its backend, samples and traces. Out: exact sums. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.errors import UnsupportedError
from nctool.ir.inputs import Samples
from nctool.ir.network import INPUT_NAME, CurrentBased, IntArray, IntNetwork, Population, Shape, Synapse
from nctool.reference.signal import own_signal
from nctool.reference.trace import Spikes, Trace
from nctool_deploy.backends.backend import Backend
from nctool_deploy.mapping.wiring import AutapseWiring, ConvolutionWiring, wire
from nctool_deploy.pipeline import Schedule, depths

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Operations:
    """What one population did, or the input, or all of them.

    Args:
        spikes: its own; of a graded input, values other than 0 in each step.
        payload_bits: that the numbers which its spikes carry need, one more for each where there is a sign; 0 for
            spikes of one bit.
        bias_spikes: of the always-on sources that drive it (rule R3).
        network_operations: synaptic operations, one for each connection that a spike uses, of the synapses into it.
        graded_operations: the same where its neurons are graded: each multiplies.
        autapse_operations: the same of its autapses (rule R2).
        bias_operations: the same of its always-on sources.
        active_updates: updates of a neuron, one a step, in steps in which it gets a synaptic operation or fires.
        idle_updates: updates in all other steps.
    """

    spikes: int = 0
    payload_bits: int = 0
    bias_spikes: int = 0
    network_operations: int = 0
    graded_operations: int = 0
    autapse_operations: int = 0
    bias_operations: int = 0
    active_updates: int = 0
    idle_updates: int = 0

    def __add__(self, other: Operations) -> Operations:
        return Operations(*(mine + its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def synaptic_operations(self) -> int:
        """Return the synaptic operations of every kind."""
        return self.network_operations + self.graded_operations + self.autapse_operations + self.bias_operations

    @property
    def all_spikes(self) -> int:
        """Return the spikes, those of the always-on sources among them."""
        return self.spikes + self.bias_spikes


class OperationCounter:
    """Add up the operations of consecutive batches of samples.

    Args:
        network: what runs, for the whole of its window.
        backend: how its neurons are built.

    Raises:
        UnsupportedError: the network holds current-based neurons, whose backend is not known.
    """

    def __init__(self, network: IntNetwork, backend: Backend) -> None:
        for population in network.populations:
            if isinstance(population.neuron, CurrentBased):
                raise UnsupportedError(
                    f"population `{population.name}`: the cost of current-based neurons is not counted, allowed "
                    "integrate-and-fire or graded neurons",
                    hint="leave out --cost; it is for files that nctool exported",
                )
        self.network = network
        depth = depths(network)[network.readout.name]
        self.schedule = Schedule(network.n_steps, backend.flush_steps, depth)
        self.added = {population.name: _added(backend, population) for population in network.populations}
        self.n_samples = 0
        self.operations = dict.fromkeys((INPUT_NAME, *self.added), Operations())

    def add(self, samples: Samples, trace: Trace) -> None:
        """Count one batch: the samples, and the trace of the whole window that an engine gave for them."""
        signal = own_signal(self.network, samples, self.network.n_steps)
        sent: Mapping[str, Bool] = {INPUT_NAME: signal != 0} | {name: s != 0 for name, s in trace.spikes.items()}
        self.n_samples += len(signal)
        self.operations[INPUT_NAME] += self._count_input(signal)
        for population in self.network.populations:
            self.operations[population.name] += self._count(population, sent)
            if self.network.is_graded and population.name in trace.spikes:
                payloads = Operations(payload_bits=bits_of(trace.spikes[population.name]))
                self.operations[population.name] += payloads

    @property
    def total(self) -> Operations:
        """Return the operations of the input and of all populations."""
        return sum(self.operations.values(), Operations())

    def _count_input(self, signal: IntArray) -> Operations:
        network, repeats = self.network, _repeats(signal, self.network.n_steps)
        spikes, bits = int(np.count_nonzero(signal)), 0
        if not network.has_binary_input:
            bits = bits_of(signal) + spikes * (network.input_range[0] < 0)
        return Operations(spikes=spikes * repeats, payload_bits=bits * repeats)

    def _count(self, population: Population, sent: Mapping[str, Bool]) -> Operations:
        n_samples, n_steps = len(sent[INPUT_NAME]), self.network.n_steps
        added, updates = self.added[population.name], n_samples * population.n_neurons
        fired = sent.get(population.name)
        spikes = 0 if fired is None else int(np.count_nonzero(fired))
        if added.bias_sources:  # their operations reach every neuron in every step of the window
            active = updates * n_steps
        else:
            active = int(np.count_nonzero(self._active(population, sent, added)))
        if fired is not None and added.has_autapse:  # the last spikes return in the flush step
            active += int(np.count_nonzero(fired[:, -1]))
        operations = sum(
            _operations(sent[synapse.source], fan_out(synapse, self.network.shapes[synapse.source]), n_steps)
            for synapse in population.synapses
        )
        is_graded = self.network.is_graded
        return Operations(
            spikes=spikes,
            bias_spikes=n_samples * n_steps * added.bias_sources,
            network_operations=0 if is_graded else operations,
            graded_operations=operations if is_graded else 0,
            autapse_operations=spikes if added.has_autapse else 0,
            bias_operations=updates * n_steps * added.bias_sources,
            active_updates=active,
            idle_updates=updates * self.schedule.period - active,
        )

    def _active(self, population: Population, sent: Mapping[str, Bool], added: _Added) -> Bool:
        """Return which neurons get a synaptic operation or fire, (samples, steps, *shape)."""
        n_samples, fired = len(sent[INPUT_NAME]), sent.get(population.name)
        active = np.zeros((n_samples, self.network.n_steps, *population.shape), np.bool_)
        for synapse in population.synapses:
            active |= reached(synapse, sent[synapse.source])
        if fired is not None:
            active |= fired
        if fired is not None and added.has_autapse:
            active[:, 1:] |= fired[:, :-1]
        return active


@dataclass(frozen=True)
class _Added:
    """What a backend adds to a population."""

    has_autapse: bool
    bias_sources: int


def _added(backend: Backend, population: Population) -> _Added:
    wirings = backend.wirings(population)
    autapses = sum(isinstance(wiring, AutapseWiring) for wiring in wirings)
    return _Added(autapses > 0, len(wirings) - autapses)


def _operations(spikes: Bool, connections: NDArray[np.int64], n_steps: int) -> int:
    """Return the connections that spikes use; a source of one step sends the same in all of them."""
    per_neuron = spikes.sum(axis=(0, 1), dtype=np.int64)
    return int((per_neuron * connections).sum()) * _repeats(spikes, n_steps)


def bits_of(numbers: IntArray | Spikes) -> int:
    """Return how many bits the magnitudes of some integers need together."""
    return int(np.frexp(numbers.astype(np.float64))[1].sum(dtype=np.int64))


def _repeats(spikes: Bool | IntArray, n_steps: int) -> int:
    return n_steps // spikes.shape[1]


def fan_out(synapse: Synapse, source: Shape) -> NDArray[np.int64]:
    """Return how many connections each neuron of a source of shape `source` has, int64 (*source)."""
    wiring = wire(synapse, source, shared_kernels=False)
    if not isinstance(wiring, ConvolutionWiring):
        return np.full(source, len(synapse.weight), np.int64)
    places = np.outer(wiring.row_taps.sum(axis=0), wiring.column_taps.sum(axis=0)).astype(np.int64)
    return np.broadcast_to(places * (wiring.channels // wiring.groups), source)


def reached(synapse: Synapse, spikes: Bool) -> Bool:
    """Return which neurons get a spike.

    Args:
        spikes: (samples, steps, *source shape).

    Returns:
        (samples, steps, *driven shape), broadcast where neurons share their sources.
    """
    batch, source = spikes.shape[:2], spikes.shape[2:]
    wiring = wire(synapse, source, shared_kernels=False)
    if not isinstance(wiring, ConvolutionWiring):
        return np.broadcast_to(spikes.reshape(*batch, -1).any(axis=2, keepdims=True), (*batch, len(synapse.weight)))
    grouped = spikes.reshape(*batch, wiring.groups, wiring.group_size, *source[1:]).any(axis=3).astype(np.float32)
    rows, columns = (taps.astype(np.float32) for taps in (wiring.row_taps, wiring.column_taps))
    hit: Bool = rows @ grouped @ columns.T > 0
    return np.repeat(hit, wiring.channels // wiring.groups, axis=2)
