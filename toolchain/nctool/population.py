"""The parts of an IntNetwork: input encoding, synapses, neurons, populations.

Every number that takes part in the computation is an integer; docs/SEMANTICS.md says what the numbers do and labels
each rule (W1, S1, ...) that the docstrings here cite. `nctool.network` puts the parts together and validates them.

In: NumPy arrays. Out: frozen dataclasses. Must not import torch, h5py or Lava.
"""

from __future__ import annotations

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
