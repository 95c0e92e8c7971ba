"""IntNetwork: the integer spiking network that every other part of nctool agrees on.

A network is an input, a list of populations in topological order, and a window of `n_steps` time steps. Populations
are joined by synapses; a population may have several incoming synapses. The parts are defined in `nctool.ir.population`
and `nctool.ir.inputs` and can be imported from here.

In: the parts. Out: a validated frozen dataclass. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from nctool.errors import RangeError, UnsupportedError
from nctool.ir.arrays import StructuralEquality
from nctool.ir.checks import largest_sum, require, require_shape, validate_population
from nctool.ir.geometry import ConvGeometry, Pair, Shape
from nctool.ir.inputs import (
    INPUT_LIMIT,
    LARGEST_RATE_THRESHOLD,
    Input,
    InputEncoding,
    IntegerInput,
    PixelEncoding,
    RateEncoding,
)
from nctool.ir.number_format import ACCUMULATOR_LIMIT
from nctool.ir.population import (
    INPUT_NAME,
    LARGEST_DELAY,
    PAYLOAD_LIMIT,
    Bound,
    BoundKind,
    CurrentBased,
    GradedReadout,
    GradedReLU,
    IntArray,
    IntegrateFire,
    Population,
    Readout,
    Synapse,
)
from nctool.ir.repeat import find_repeat

__all__ = [
    "ACCUMULATOR_LIMIT",
    "FOREIGN_HINT",
    "INPUT_NAME",
    "LARGEST_DELAY",
    "PAYLOAD_LIMIT",
    "Bound",
    "BoundKind",
    "ConvGeometry",
    "CurrentBased",
    "GradedReLU",
    "GradedReadout",
    "InputEncoding",
    "IntArray",
    "IntNetwork",
    "IntegerInput",
    "IntegrateFire",
    "Pair",
    "Population",
    "RateEncoding",
    "Readout",
    "Shape",
    "Synapse",
    "validate",
]

DRIVE_LIMIT = 2**53
"""Bound of one step's drive: far below the 2**63 at which int64 wraps, and exact in float64."""

FOREIGN_HINT = "networks of other tools run on every engine, but are not exported again"

GRADED_LIMIT = 2**7
"""Largest magnitude of an 8-bit graded spike."""


@dataclass(frozen=True, eq=False)
class IntNetwork(StructuralEquality):
    """An integer spiking network: the object that is designed, exported, run and verified.

    Args:
        input: what a sample is.
        populations: in topological order; the last one gives the answer: a readout, the only one, or a
            current-based population.
        n_steps: length of the window for which the bounds hold, in time steps.

    Raises:
        RangeError: shapes, ranges or names do not fit together (rules N1 to N3).
    """

    input: Input
    populations: tuple[Population, ...]
    n_steps: int

    def __post_init__(self) -> None:
        validate(self)

    @property
    def readout(self) -> Population:
        """Return the last population, which gives the logits (rules S4 and C6)."""
        return self.populations[-1]

    @property
    def pixel_input(self) -> PixelEncoding:
        """Return the input of a network that takes pixels.

        Raises:
            UnsupportedError: the network takes integers as they are.
        """
        if isinstance(self.input, IntegerInput):
            raise UnsupportedError("network: takes integers as they are, not pixels through a table", hint=FOREIGN_HINT)
        return self.input

    @property
    def input_range(self) -> Pair:
        """Return the smallest and the largest value of the input's signal."""
        low, high = self.input.channel_range()
        return int(low.min()), int(high.max())

    @property
    def has_binary_input(self) -> bool:
        """Return whether the input's signal holds nothing but 0 and 1: spikes of one bit."""
        low, high = self.input_range
        return low >= 0 and high <= 1

    @property
    def is_graded(self) -> bool:
        """Return whether its spikes carry numbers: then every population is graded (rule G1)."""
        return self.readout.neuron.is_graded

    def window(self, n_steps: int | None) -> int:
        """Return the length of a window that was asked for, the network's own by default.

        Raises:
            RangeError: there is no such window.
        """
        if n_steps is None:
            return self.n_steps
        if n_steps < 1 or (self.is_graded and n_steps != 1):
            allowed = "1, the window of graded neurons" if self.is_graded else ">= 1"
            raise RangeError(f"simulation: n_steps is {n_steps}, allowed {allowed}")
        return n_steps

    @property
    def latency(self) -> int:
        """Return the time steps before step 1 in which some population runs already (rule C4)."""
        return max(population.neuron.latency for population in self.populations)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Return the shape of the input and of every population by name."""
        return {INPUT_NAME: self.input.shape} | {p.name: p.shape for p in self.populations}

    def synapse_count(self, population: Population) -> int:
        """Return the number of connections into `population`, counting each use of a shared weight.

        A kernel tap that falls on padding is counted: the count is out-neurons times fan-in.
        """
        return sum(population.n_neurons * int(np.prod(s.weight.shape[1:])) for s in population.synapses)


def find_repeats(network: IntNetwork) -> IntNetwork:
    """Return a network that was read from a file with how the weights of each synapse repeat, but where they delay."""

    def found(synapse: Synapse) -> Synapse:
        source = network.shapes[synapse.source]
        return replace(synapse, repeat=find_repeat(synapse.weight, synapse.conv, source))

    populations = (
        replace(p, synapses=tuple(s if s.delay is not None else found(s) for s in p.synapses))
        for p in network.populations
    )
    return replace(network, populations=tuple(populations))


def validate(network: IntNetwork) -> None:
    """Check rules N1 to N3 on `network`; a RangeError names the first population that breaks one."""
    require(network.n_steps >= 1, "network", "n_steps", network.n_steps, ">= 1")
    require(bool(network.populations), "network", "number of populations", 0, ">= 1")
    _validate_input(network.input)
    seen = {INPUT_NAME: network.input.shape}
    limit = max(PAYLOAD_LIMIT if network.is_graded else GRADED_LIMIT, *map(abs, network.input_range))
    for population in network.populations:
        where = f"population `{population.name}`"
        require(population.name not in seen, where, "name", population.name, "a name not used before")
        validate_population(population, where, seen)
        drive = sum(largest_sum(synapse, limit) for synapse in population.synapses)
        require(drive < DRIVE_LIMIT, where, "possible drive of one step", f"{drive:.3g}", "below 2**53")
        seen[population.name] = population.shape
    _validate_readout(network)
    if any(population.neuron.is_graded for population in network.populations):
        _validate_graded(network)


def _validate_graded(network: IntNetwork) -> None:
    """Check rule G1."""
    others = [population.name for population in network.populations if not population.neuron.is_graded]
    require(not others, "network", "populations beside graded ones", others, "none")
    require(network.n_steps == 1, "network", "n_steps of graded neurons", network.n_steps, "1")


def _validate_input(encoding: Input) -> None:
    require_shape(encoding.sample_shape, INPUT_NAME)
    if isinstance(encoding, IntegerInput):
        limits = (encoding.low, encoding.high)
        fits = -INPUT_LIMIT <= encoding.low <= encoding.high <= INPUT_LIMIT
        require(fits, INPUT_NAME, "range", limits, f"-{INPUT_LIMIT} <= low <= high <= {INPUT_LIMIT}")
        return
    if isinstance(encoding, RateEncoding):
        _validate_rate(encoding)
        return
    require(
        encoding.table.dtype == np.int8 and encoding.table.shape == (encoding.shape[0], 256),
        INPUT_NAME,
        "table",
        f"{encoding.table.dtype} {encoding.table.shape}",
        f"int8 {(encoding.shape[0], 256)}",
    )


def _validate_rate(encoding: RateEncoding) -> None:
    """Check that the increments of every step leave a spike at most (rule I4)."""
    table, threshold, channels = encoding.table, encoding.threshold, encoding.sample_shape[0]
    fits = table.ndim == 2 and table.shape[1] == 256 and len(table) >= channels and len(table) % channels == 0
    got, allowed = f"{table.dtype} {table.shape}", f"int16 (a multiple of {channels}, 256)"
    require(fits and table.dtype == np.int16, INPUT_NAME, "table", got, allowed)
    limit = LARGEST_RATE_THRESHOLD
    require(1 <= threshold <= limit, INPUT_NAME, "threshold", threshold, f"1..{limit}")
    low, high = int(table.min()), int(table.max())
    require(low >= 0 and high <= threshold, INPUT_NAME, "increment", (low, high), f"0..{threshold}")


def _validate_readout(network: IntNetwork) -> None:
    readouts = [p.name for p in network.populations if isinstance(p.neuron, Readout)]
    bounded = [p.name for p in network.populations if p.neuron.is_bounded]
    require(
        network.latency == 0 or not bounded, "network", "populations beside a latency", bounded, "current-based ones"
    )
    expected = [network.readout.name] if network.readout.neuron.is_bounded else []
    require(readouts == expected, "network", "readouts", readouts, "one, the last population")
