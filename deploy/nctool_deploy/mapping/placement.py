"""Placement: put the neurons of a network on cores.

It is greedy. A population that fits into what is left of a core goes there whole; any other begins a core, and each of
its cores takes as many neurons as fit. Populations are placed from the last to the first, so that the output axons of a
neuron are known when it is placed.

In: an IntNetwork and a target. Out: a Mapping, and what does not fit. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nctool.errors import RangeError
from nctool.ir.network import INPUT_NAME, IntNetwork, Population
from nctool_deploy.backends.backend import DEFAULT, Backend
from nctool_deploy.mapping.cores import Core, Mapping, Slice, Usage, capacity
from nctool_deploy.mapping.packing import WORD_BYTES
from nctool_deploy.mapping.wiring import AutapseWiring, Destinations, SynapseWiring, Wiring, wire
from nctool_deploy.pipeline import delays, depths
from nctool_deploy.targets.target import Target


def is_mapped(target: Target) -> bool:
    """Return whether `target` limits a core: else all of a network fits anywhere, and is not placed."""
    return any(capacity(target).values())


def map_network(network: IntNetwork, target: Target, backend: Backend = DEFAULT) -> tuple[Mapping, list[RangeError]]:
    """Place `network` on the cores of `target`.

    Args:
        backend: how the neurons are built: it may add connections.

    Returns:
        The mapping, and an error for every population of which a core cannot hold even one neuron; the mapping is
        complete when there are none.
    """
    if not is_mapped(target):
        return Mapping(target, ()), []
    order = {population.name: number for number, population in enumerate(network.populations)}
    cores, errors = _Placement(network, target, backend).run()
    placed = (Core(tuple(sorted(slices, key=lambda part: order[part.population]))) for slices in cores)
    in_order = sorted(placed, key=lambda core: (order[core.slices[0].population], core.slices[0].start))
    return Mapping(target, tuple(in_order)), errors


@dataclass(frozen=True, eq=False)
class _Demand:
    """What the neurons of one population need.

    Args:
        wirings: all that reaches them.
        senders: those that come from a population, with its name.
        output_axons: of the neurons before each, int64 (neurons + 1,).
        known: what ranges use that were asked for before; the one that is taken was tried first.
    """

    wirings: tuple[Wiring, ...]
    senders: tuple[tuple[str, SynapseWiring], ...]
    output_axons: NDArray[np.int64]
    known: dict[tuple[int, int], Usage] = field(default_factory=dict)

    @property
    def n_neurons(self) -> int:
        return len(self.output_axons) - 1

    def usage(self, start: int, stop: int) -> Usage:
        """Return what the neurons from `start` to before `stop` use of a core."""
        if (start, stop) not in self.known:
            self.known[start, stop] = self._usage(start, stop)
        return self.known[start, stop]

    def _usage(self, start: int, stop: int) -> Usage:
        loads = [wiring.load(start, stop) for wiring in self.wirings]
        return Usage(
            neurons=stop - start,
            synaptic_memory_bytes=WORD_BYTES * sum(load.words for load in loads),
            input_axons=sum(load.axons for load in loads),
            output_axons=int(self.output_axons[stop] - self.output_axons[start]),
            thresholds=1,
        )


class _Placement:
    """A greedy placement under way: the cores so far, and how far every neuron reaches."""

    def __init__(self, network: IntNetwork, target: Target, backend: Backend) -> None:
        self.network = network
        self.backend = backend
        self.target = target
        self.capacity = capacity(target)
        self.shapes, self.depth = network.shapes, depths(network)
        self.cores: list[list[Slice]] = []
        self.destinations = {p.name: _no_destinations(p) for p in network.populations}

    def run(self) -> tuple[list[list[Slice]], list[RangeError]]:
        """Place every population."""
        errors: list[RangeError] = []
        for population in reversed(self.network.populations):
            errors = [*self._place(population), *errors]
        return self.cores, errors

    def _place(self, population: Population) -> list[RangeError]:
        demand = self._demand(population)
        if self._place_whole(population, demand):
            return []
        start, taken = 0, demand.n_neurons
        while start < demand.n_neurons:
            taken = _largest(demand.n_neurons - start, taken, partial(self._fits, demand, start))
            if taken == 0:
                return self._violations(population, demand.usage(start, start + 1))
            self.cores.append([self._slice(population, demand, start, start + taken)])
            start += taken
        return []

    def _place_whole(self, population: Population, demand: _Demand) -> bool:
        """Put the population on the core that was filled last, if it has room for all of it."""
        if not self.cores:
            return False
        usage = demand.usage(0, demand.n_neurons)
        fits = self._has_room(sum((part.usage for part in self.cores[-1]), usage))
        if fits:
            self.cores[-1].append(self._slice(population, demand, 0, demand.n_neurons))
        return fits

    def _slice(self, population: Population, demand: _Demand, start: int, stop: int) -> Slice:
        for source, wiring in demand.senders:
            wiring.reach(self.destinations[source], start, stop)
        return Slice(population.name, start, stop, demand.usage(start, stop))

    def _demand(self, population: Population) -> _Demand:
        shared = self.target.features.shared_kernels.value
        synapses = [
            (synapse.source, wire(synapse, self.shapes[synapse.source], shared, delay))
            for synapse, delay in zip(population.synapses, delays(population, self.depth), strict=True)
        ]
        wirings: list[Wiring] = [wiring for _, wiring in synapses]
        added = self.backend.wirings(population)
        wirings += added
        reached = self.destinations[population.name].reshape(-1) + sum(isinstance(w, AutapseWiring) for w in added)
        senders = tuple((source, wiring) for source, wiring in synapses if source != INPUT_NAME)
        return _Demand(tuple(wirings), senders, np.concatenate([[0], np.cumsum(reached)]))

    def _fits(self, demand: _Demand, start: int, n_neurons: int) -> bool:
        return self._has_room(demand.usage(start, start + n_neurons))

    def _has_room(self, usage: Usage) -> bool:
        return all(
            limit is None or used <= limit
            for used, limit in zip(vars(usage).values(), self.capacity.values(), strict=True)
        )

    def _violations(self, population: Population, usage: Usage) -> list[RangeError]:
        return [
            RangeError(
                f"population `{population.name}`: one neuron needs {used} {name.replace('_', ' ')}, a core of "
                f"`{self.target.name}` has {limit}",
                hint="make the layers narrower, or use --target lava to simulate only",
            )
            for (name, limit), used in zip(self.capacity.items(), vars(usage).values(), strict=True)
            if limit is not None and used > limit
        ]


def _no_destinations(population: Population) -> Destinations:
    channels, *size = population.shape
    return np.zeros((*(size or (1, 1)), channels), np.int64)


def _largest(n: int, guess: int, fits: Callable[[int], bool]) -> int:
    """Return the largest count up to `n` that fits, 0 if none does; what fits stays fitting when it shrinks."""
    low, high, step = 0, n + 1, 1
    probe = min(guess, n)
    while high - low > 1:
        if fits(probe):
            low, probe = probe, probe + step
        else:
            high, probe = probe, probe - step
        step *= 2
        if not low < probe < high:
            probe = (low + high) // 2
    return low
