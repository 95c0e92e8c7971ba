"""IntNetwork: the integer spiking network that every other part of nctool agrees on.

A network is an input, a list of populations in topological order, and a window of `n_steps` time steps. Populations
are joined by synapses; a population may have several incoming synapses. The parts are defined in `nctool.population`
and `nctool.inputs` and can be imported from here.

In: the parts. Out: a validated frozen dataclass. Must not import torch, h5py or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nctool.equality import StructuralEquality
from nctool.errors import RangeError, UnsupportedError
from nctool.inputs import (
    INPUT_LIMIT,
    LARGEST_RATE_THRESHOLD,
    Input,
    InputEncoding,
    IntegerInput,
    PixelEncoding,
    RateEncoding,
)
from nctool.integer_format import ACCUMULATOR_LIMIT
from nctool.population import (
    INPUT_NAME,
    LARGEST_DELAY,
    Bound,
    BoundKind,
    ConvGeometry,
    CurrentBased,
    IntArray,
    IntegrateFire,
    Pair,
    Population,
    Readout,
    Shape,
    Synapse,
)

__all__ = [
    "ACCUMULATOR_LIMIT",
    "FOREIGN_HINT",
    "INPUT_NAME",
    "LARGEST_DELAY",
    "Bound",
    "BoundKind",
    "ConvGeometry",
    "CurrentBased",
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
    def lead(self) -> int:
        """Return the time steps before step 1 in which some population runs already (rule C4)."""
        return max(p.neuron.lead if isinstance(p.neuron, CurrentBased) else 0 for p in self.populations)

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Return the shape of the input and of every population by name."""
        return {INPUT_NAME: self.input.shape} | {p.name: p.shape for p in self.populations}

    def synapse_count(self, population: Population) -> int:
        """Return the number of connections into `population`, counting each use of a shared weight.

        A kernel tap that falls on padding is counted: the count is out-neurons times fan-in.
        """
        return sum(population.n_neurons * int(np.prod(s.weight.shape[1:])) for s in population.synapses)


def validate(network: IntNetwork) -> None:
    """Check rules N1 to N3 on `network`; a RangeError names the first population that breaks one."""
    _require(network.n_steps >= 1, "network", "n_steps", network.n_steps, ">= 1")
    _require(bool(network.populations), "network", "number of populations", 0, ">= 1")
    _validate_input(network.input)
    seen = {INPUT_NAME: network.input.shape}
    limit = max(GRADED_LIMIT, *map(abs, network.input_range))
    for population in network.populations:
        where = f"population `{population.name}`"
        _require(population.name not in seen, where, "name", population.name, "a name not used before")
        _validate_population(population, where, seen)
        drive = sum(_largest_sum(synapse, limit) for synapse in population.synapses)
        _require(drive < DRIVE_LIMIT, where, "possible drive of one step", f"{drive:.3g}", "below 2**53")
        seen[population.name] = population.shape
    _validate_readout(network)


def _validate_input(encoding: Input) -> None:
    _require_shape(encoding.sample_shape, INPUT_NAME)
    if isinstance(encoding, IntegerInput):
        limits = (encoding.low, encoding.high)
        fits = -INPUT_LIMIT <= encoding.low <= encoding.high <= INPUT_LIMIT
        _require(fits, INPUT_NAME, "range", limits, f"-{INPUT_LIMIT} <= low <= high <= {INPUT_LIMIT}")
        return
    if isinstance(encoding, RateEncoding):
        _validate_rate(encoding)
        return
    _require(
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
    _require(fits and table.dtype == np.int16, INPUT_NAME, "table", got, allowed)
    limit = LARGEST_RATE_THRESHOLD
    _require(1 <= threshold <= limit, INPUT_NAME, "threshold", threshold, f"1..{limit}")
    low, high = int(table.min()), int(table.max())
    _require(low >= 0 and high <= threshold, INPUT_NAME, "increment", (low, high), f"0..{threshold}")


def _validate_readout(network: IntNetwork) -> None:
    readouts = [p.name for p in network.populations if isinstance(p.neuron, Readout)]
    others = [p.name for p in network.populations if not isinstance(p.neuron, CurrentBased)]
    _require(network.lead == 0 or not others, "network", "populations beside a lead", others, "current-based ones")
    expected = [] if isinstance(network.readout.neuron, CurrentBased) else [network.readout.name]
    _require(readouts == expected, "network", "readouts", readouts, "one, the last population")


def _validate_population(population: Population, where: str, seen: Mapping[str, Shape]) -> None:
    _require_shape(population.shape, where)
    _require_integers(population.bias, (population.shape[0],), where, "bias")
    neuron = population.neuron
    if isinstance(neuron, IntegrateFire):
        _validate_integrate_fire(neuron, population.shape[0], where)
    elif isinstance(neuron, CurrentBased):
        _validate_current_based(neuron, where)
    else:
        _require(0 < neuron.scale < np.inf, where, "scale", neuron.scale, "a positive number")
    if not population.synapses and isinstance(neuron, CurrentBased):
        _require(population.shape == seen[INPUT_NAME], where, "shape", population.shape, "the input's, as its bias")
        return
    _require(bool(population.synapses), where, "number of synapses", 0, ">= 1")
    for synapse in population.synapses:
        _validate_synapse(synapse, population, where, seen)


def _validate_integrate_fire(neuron: IntegrateFire, channels: int, where: str) -> None:
    _require_integers(neuron.threshold, (channels,), where, "threshold")
    _require_integers(neuron.initial, (channels,), where, "initial potential")
    lowest = int(neuron.threshold.min())
    _require(lowest > 0, where, "threshold", lowest, ">= 1")
    _require(neuron.reset in ("subtract", "zero"), where, "reset", neuron.reset, "subtract, zero")


def _validate_current_based(neuron: CurrentBased, where: str) -> None:
    _require(0 <= neuron.threshold < 2**24, where, "threshold", neuron.threshold, "0..2**24 - 1")
    for what in ("current_decay", "voltage_decay"):
        decay = getattr(neuron, what)
        _require(0 <= decay <= 2**12, where, what.replace("_", " "), decay, "0..4096")
    interval = neuron.reset_interval
    _require(interval is None or interval >= 1, where, "reset interval", interval, ">= 1")
    _require(neuron.lead >= 0, where, "lead", neuron.lead, ">= 0")


def _validate_synapse(synapse: Synapse, population: Population, where: str, seen: Mapping[str, Shape]) -> None:
    _require(synapse.source in seen, where, "source", synapse.source, "a population that stands before it")
    lowest = -16 if isinstance(population.neuron, CurrentBased) else 0
    _require(lowest <= synapse.exponent <= 16, where, "weight exponent", synapse.exponent, f"{lowest}..16")
    source, weight, conv = seen[synapse.source], synapse.weight, synapse.conv
    fan_in: Shape = (int(np.prod(source)),)
    if conv is None:
        _require(weight.ndim == 2, where, "dense weight", weight.shape, "2 axes")
    else:
        fits = weight.ndim == 4 and len(source) == 3 and min(weight.shape) >= 1
        _require(fits, where, "conv weight", weight.shape, "4 axes of sizes >= 1 on a 3-axis source")
        low = min(*conv.stride, *conv.dilation, conv.groups, 1 + min(conv.padding))
        _require(low >= 1, where, "convolution", conv, "stride, dilation, groups >= 1, padding >= 0")
        divides = source[0] % conv.groups == 0 and weight.shape[0] % conv.groups == 0
        _require(divides, where, "groups", conv.groups, f"a divisor of {source[0]} and {weight.shape[0]}")
        fan_in = (source[0] // conv.groups, *weight.shape[2:])
    _require_integers(weight, (weight.shape[0], *fan_in), where, "weight")
    _validate_delay(synapse, population, where)
    driven = synapse.output_shape(source)
    _require(driven == population.shape, where, f"shape driven by `{synapse.source}`", driven, str(population.shape))


def _validate_delay(synapse: Synapse, population: Population, where: str) -> None:
    delay = synapse.delay
    if delay is None:
        return
    fits = synapse.conv is None and isinstance(population.neuron, CurrentBased)
    _require(fits, where, "delay", "there", "none but on a dense synapse into a current-based population")
    _require_integers(delay, synapse.weight.shape, where, "delay")
    low, high = int(delay.min()), int(delay.max())
    _require(low >= 0 and high <= LARGEST_DELAY, where, "delay", (low, high), f"0..{LARGEST_DELAY}")


def _require_shape(shape: Shape, where: str) -> None:
    fits = len(shape) in (1, 3) and min(shape) >= 1
    _require(fits, where, "shape", shape, "(channels,) or (channels, height, width), sizes >= 1")


def _largest_sum(synapse: Synapse, limit: int) -> float:
    """Return the largest magnitude that a weighted sum can have, for signals of at most `limit`."""
    weight = synapse.weight.reshape(len(synapse.weight), -1)
    raising, lowering = (bound(weight, 0).sum(axis=1, dtype=np.float64) for bound in (np.maximum, np.minimum))
    return float((raising - lowering).max()) * limit * 2.0**synapse.exponent


def _require_integers(values: IntArray, shape: Shape, where: str, what: str) -> None:
    _require(np.issubdtype(values.dtype, np.signedinteger), where, f"{what} type", values.dtype, "signed integers")
    _require(values.shape == shape, where, f"{what} shape", values.shape, str(shape))
    if values.size:
        extreme = max(abs(int(values.min())), abs(int(values.max())))
        _require(extreme < 2**31, where, what, extreme, "magnitudes below 2**31")


def _require(fits: bool, where: str, what: str, got: object, allowed: str) -> None:
    if not fits:
        raise RangeError(f"{where}: {what} is {got}, allowed {allowed}")
