"""IntNetwork: the integer spiking network that every other part of nctool agrees on.

A network is an input, a list of populations in topological order, and a window of `n_steps` time steps. Populations
are joined by synapses; a population may have several incoming synapses. The parts are defined in `nctool.population`
and can be imported from here.

In: the parts. Out: a validated frozen dataclass. Must not import torch, h5py or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nctool.equality import StructuralEquality
from nctool.errors import RangeError
from nctool.population import (
    ACCUMULATOR_LIMIT,
    INPUT_NAME,
    Bound,
    BoundKind,
    ConvGeometry,
    InputEncoding,
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
    "INPUT_NAME",
    "Bound",
    "BoundKind",
    "ConvGeometry",
    "InputEncoding",
    "IntArray",
    "IntNetwork",
    "IntegrateFire",
    "Pair",
    "Population",
    "Readout",
    "Shape",
    "Synapse",
    "validate",
]

DRIVE_LIMIT = 2**53
"""Bound of one step's drive: far below the 2**63 at which int64 wraps, and exact in float64."""


@dataclass(frozen=True, eq=False)
class IntNetwork(StructuralEquality):
    """An integer spiking network: the object that is designed, exported, run and verified.

    Args:
        input: encoding of the samples.
        populations: in topological order; the last one is the readout, and the only one.
        n_steps: length of the window for which the bounds hold, in time steps.

    Raises:
        RangeError: shapes, ranges or names do not fit together (rules N1 to N3).
    """

    input: InputEncoding
    populations: tuple[Population, ...]
    n_steps: int

    def __post_init__(self) -> None:
        validate(self)

    @property
    def readout(self) -> Population:
        """Return the last population, whose potentials are the logits."""
        return self.populations[-1]

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
    encoding, seen = network.input, {INPUT_NAME: network.input.shape}
    _require_shape(encoding.shape, INPUT_NAME)
    _require(
        encoding.table.dtype == np.int8 and encoding.table.shape == (encoding.shape[0], 256),
        INPUT_NAME,
        "table",
        f"{encoding.table.dtype} {encoding.table.shape}",
        f"int8 {(encoding.shape[0], 256)}",
    )
    for population in network.populations:
        where = f"population `{population.name}`"
        _require(population.name not in seen, where, "name", population.name, "a name not used before")
        _validate_population(population, where, seen)
        seen[population.name] = population.shape
    readouts = [p.name for p in network.populations if isinstance(p.neuron, Readout)]
    _require(readouts == [network.readout.name], "network", "readouts", readouts, "one, the last population")


def _validate_population(population: Population, where: str, seen: Mapping[str, Shape]) -> None:
    _require_shape(population.shape, where)
    channels = population.shape[0]
    _require_integers(population.bias, (channels,), where, "bias")
    if isinstance(population.neuron, IntegrateFire):
        _require_integers(population.neuron.threshold, (channels,), where, "threshold")
        _require_integers(population.neuron.initial, (channels,), where, "initial potential")
        lowest = int(population.neuron.threshold.min())
        _require(lowest > 0, where, "threshold", lowest, ">= 1")
        _require(
            population.neuron.reset in ("subtract", "zero"), where, "reset", population.neuron.reset, "subtract, zero"
        )
    else:
        scale = population.neuron.scale
        _require(0 < scale < np.inf, where, "scale", scale, "a positive number")
    _require(bool(population.synapses), where, "number of synapses", 0, ">= 1")
    for synapse in population.synapses:
        _validate_synapse(synapse, population.shape, where, seen)
    drive = sum(_largest_sum(synapse) for synapse in population.synapses)
    _require(drive < DRIVE_LIMIT, where, "possible drive of one step", f"{drive:.3g}", "below 2**53")


def _validate_synapse(synapse: Synapse, shape: Shape, where: str, seen: Mapping[str, Shape]) -> None:
    _require(synapse.source in seen, where, "source", synapse.source, "a population that stands before it")
    _require(0 <= synapse.exponent <= 16, where, "weight exponent", synapse.exponent, "0..16")
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
    driven = synapse.output_shape(source)
    _require(driven == shape, where, f"shape driven by `{synapse.source}`", driven, str(shape))


def _require_shape(shape: Shape, where: str) -> None:
    fits = len(shape) in (1, 3) and min(shape) >= 1
    _require(fits, where, "shape", shape, "(channels,) or (channels, height, width), sizes >= 1")


def _largest_sum(synapse: Synapse) -> float:
    """Return the largest magnitude that a weighted sum can have, for inputs of at most 8 bits."""
    per_output = np.abs(synapse.weight, dtype=np.float64).reshape(len(synapse.weight), -1).sum(axis=1)
    return float(per_output.max()) * float(2 ** (7 + synapse.exponent))


def _require_integers(values: IntArray, shape: Shape, where: str, what: str) -> None:
    _require(np.issubdtype(values.dtype, np.signedinteger), where, f"{what} type", values.dtype, "signed integers")
    _require(values.shape == shape, where, f"{what} shape", values.shape, str(shape))
    if values.size:
        extreme = max(abs(int(values.min())), abs(int(values.max())))
        _require(extreme < 2**31, where, what, extreme, "magnitudes below 2**31")


def _require(fits: bool, where: str, what: str, got: object, allowed: str) -> None:
    if not fits:
        raise RangeError(f"{where}: {what} is {got}, allowed {allowed}")
