"""IntNetwork: the integer spiking network that every other part of nctool agrees on.

A network is an input, a list of populations in topological order, and a window of `n_steps` time steps.
Populations are joined by synapses; a population may have several incoming synapses. Every number that
takes part in the computation is an integer; docs/SEMANTICS.md says what the numbers do and labels each
rule (N1, W1, S1, ...) that the docstrings here cite.

In: NumPy arrays. Out: validated frozen dataclasses. Must not import torch, h5py or Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nctool.equality import StructuralEquality
from nctool.errors import RangeError

Shape = tuple[int, ...]
Pair = tuple[int, int]
IntArray = NDArray[np.signedinteger[Any]]
BoundKind = Literal["proved", "calibrated"]

ACCUMULATOR_LIMIT = 2**17 - 1
"""Largest magnitude of an accumulated input, in weight units: a 24-bit signed register that holds the
input shifted left by 6 bits. Source: lava-nc 0.10.0, `lava/proc/lif/models.py` (`uv_bitwidth`, `act_shift`)."""

DRIVE_LIMIT = 2**53
"""Bound of one step's drive: far below the 2**63 at which int64 wraps, and exact in float64."""

INPUT_NAME = "input"


@dataclass(frozen=True)
class ConvGeometry:
    """How a convolutional synapse slides over its source (rule W2).

    Args:
        stride, padding, dilation: (height, width) in neurons.
        groups: number of blocks that the channels are split into.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_size(self, source: Shape, kernel: Pair) -> Pair:
        """Return the (height, width) of the output for a (channel, height, width) source."""
        height, width = (
            (size + 2 * pad - dil * (k - 1) - 1) // step + 1
            for size, pad, dil, k, step in zip(
                source[1:], self.padding, self.dilation, kernel, self.stride, strict=True
            )
        )
        return height, width


@dataclass(frozen=True, eq=False)
class Synapse(StructuralEquality):
    """Weights from one population (or the input) to another (rules W1 to W3).

    Args:
        source: name of the population that sends, or `input`.
        weight: int32; (out, in) for a dense synapse, whose source is flattened in (channel, height, width)
            order; (out, in / groups, kernel height, kernel width) for a convolution.
        exponent: the weighted sum is multiplied by 2**exponent, exponent >= 0.
        conv: geometry of a convolution, None for a dense synapse.
    """

    source: str
    weight: IntArray
    exponent: int = 0
    conv: ConvGeometry | None = None

    def output_shape(self, source: Shape) -> Shape:
        """Return the shape that this synapse drives from a source of shape `source`."""
        if self.conv is None:
            return (self.weight.shape[0],)
        kernel = (self.weight.shape[2], self.weight.shape[3])
        return (self.weight.shape[0], *self.conv.output_size(source, kernel))


@dataclass(frozen=True, eq=False)
class IntegrateFire(StructuralEquality):
    """An integrate-and-fire neuron (rules S1 to S3).

    Args:
        threshold: int64 (channels,), > 0; a neuron fires when its membrane potential reaches it.
        initial: int64 (channels,); membrane potential at the start of a window.
        reset: `subtract` takes the threshold off at a spike, `zero` clears the potential.
    """

    threshold: IntArray
    initial: IntArray
    reset: Literal["subtract", "zero"] = "subtract"


@dataclass(frozen=True)
class Readout:
    """A neuron that never fires: its membrane potential is the logit (rule S4).

    Args:
        scale: real logit per unit of membrane potential after the whole window; > 0.
    """

    scale: float


@dataclass(frozen=True, eq=False)
class Bound(StructuralEquality):
    """What the accumulated input of a population stays within over a window (rule O1).

    Args:
        kind: `proved` by interval arithmetic on the weights, or `calibrated`: measured on data and widened.
        low, high: smallest and largest accumulated input, in weight units, low <= 0 <= high.
        margin: factor by which measured values were widened; 1 when proved.
    """

    kind: BoundKind
    low: int
    high: int
    margin: float = 1.0

    @property
    def head_room_bits(self) -> float:
        """Return how many times the bound could double before it left the accumulator."""
        return float(np.log2(ACCUMULATOR_LIMIT / max(self.high, -self.low, 1)))


@dataclass(frozen=True, eq=False)
class Population(StructuralEquality):
    """Neurons that share a kind, with the synapses that drive them.

    Args:
        name: unique, not `input`.
        shape: (channels,) or (channels, height, width).
        neuron: what each neuron does with its drive.
        bias: int64 (channels,), added to the membrane potential at every step.
        synapses: at least one; each source stands before this population.
        bound: range of the accumulated input, if known.
    """

    name: str
    shape: Shape
    neuron: IntegrateFire | Readout
    bias: IntArray
    synapses: tuple[Synapse, ...]
    bound: Bound | None = None

    @property
    def n_neurons(self) -> int:
        """Return the number of neurons."""
        return int(np.prod(self.shape))

    def per_neuron(self, values: IntArray) -> IntArray:
        """Spread one value per channel, (channels,), over the population's shape as int64."""
        column = np.asarray(values, np.int64).reshape(-1, *[1] * (len(self.shape) - 1))
        return np.broadcast_to(column, self.shape)


@dataclass(frozen=True, eq=False)
class InputEncoding(StructuralEquality):
    """How pixels become the signed 8-bit integers that drive the first synapses (rule I1).

    Args:
        shape: (channels,) or (channels, height, width) of one sample.
        table: int8 (channels, 256); pixel value p of channel c enters as table[c, p] at every step.
    """

    shape: Shape
    table: NDArray[np.int8]

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Map pixels, uint8 (samples, *shape), to graded input, int8 of the same shape.

        Raises:
            RangeError: the pixels are not uint8 or have another shape.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.shape:
            raise RangeError(
                f"input: got {pixels.dtype} {tuple(pixels.shape[1:])} per sample, allowed uint8 {self.shape}",
                hint="give the data set that the network was trained on, as pixels 0..255",
            )
        channel = np.arange(self.shape[0]).reshape(-1, *[1] * (len(self.shape) - 1))
        return np.asarray(self.table[channel, pixels], np.int8)


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
