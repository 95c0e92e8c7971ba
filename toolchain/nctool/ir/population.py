"""The parts of an IntNetwork: synapses, neurons, populations.

Every number that takes part in the computation is an integer; docs/SEMANTICS.md says what the numbers do and labels
each rule (W1, S1, ...) that the docstrings here cite. `nctool.ir.network` puts the parts together and validates them.

In: NumPy arrays. Out: frozen dataclasses. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nctool.ir.arrays import StructuralEquality
from nctool.ir.geometry import ConvGeometry, Shape
from nctool.ir.number_format import ACCUMULATOR_LIMIT
from nctool.ir.repeat import NO_REPEAT, Repeat

IntArray = NDArray[np.signedinteger[Any]]
BoundKind = Literal["proved", "calibrated"]

MANTISSA_LIMIT = 2**17 - 1
"""Largest threshold mantissa of a chip. Source: lava-nc 0.10.0, `lava/proc/lif/models.py` (`vth`, precision 17)."""

LARGEST_EXPONENT = 16
"""The sums of a synapse are multiplied by 2**16 at most."""

PAYLOAD_LIMIT = 2**23 - 1
"""Largest number that a graded spike carries, and largest magnitude of a graded neuron's drive: 24 signed bits.
Source: lava-nc 0.10.0, `lava/proc/graded/models.py` (`v`, `s_out`: precision 24)."""

GRADED_SUM_LIMIT = 2**30 - 1
"""Largest magnitude of a weighted sum before it is shifted into a graded neuron: 32 signed bits hold it with the
weights doubled. Source: lava-nc 0.10.0, `lava/proc/dense/models.py` and `lava/proc/sparse/models.py` (int32),
`lava/utils/weightutils.py` (weights of mixed sign are even)."""

LARGEST_DELAY = 62
"""In time steps. Source: lava-dl 0.6.0, `lava/lib/dl/netx/hdf5.py`, which clamps delays to it."""

CONVOLUTION_BITS = 24
"""Signed width of a convolution's sum. Source: lava-nc 0.10.0, `lava/proc/conv/models.py` (`clamp_precision`)."""

DENSE_BITS = 32
"""The same of a dense synapse. Source: `lava/proc/dense/models.py` (`a_buff`, `weights`: int32)."""

SUM_BITS = 32
"""Signed width of the sum of a current and its input, before it wraps to 24 bits (rule C1).
Source: `lava/proc/lif/models.py` (`decayed_curr`: int32)."""

INPUT_NAME = "input"


@dataclass(frozen=True, eq=False)
class Synapse(StructuralEquality):
    """Weights from one population (or the input) to another (rules W1 to W3).

    Args:
        source: name of the population that sends, or `input`; the population's own name for a recurrent one (W6).
        weight: int32; (out, in) for a dense synapse, whose source is flattened in (channel, height, width)
            order; (out, in / groups, kernel height, kernel width) for a convolution.
        exponent: the weighted sum is multiplied by 2**exponent; a negative one rounds towards minus infinity and
            is allowed into current-based and graded populations only.
        conv: geometry of a convolution, None for a dense synapse.
        delay: of a dense synapse into a current-based population, int64 (out, in), 0..62 time steps (rule W4);
            None for no delay.
        repeat: how the weights repeat, where that is known; two synapses of the same weights are equal without it.
    """

    source: str
    weight: IntArray
    exponent: int = 0
    conv: ConvGeometry | None = None
    delay: IntArray | None = None
    repeat: Repeat = field(default=NO_REPEAT, compare=False)

    @property
    def register_bits(self) -> int:
        """Return the signed width of its sums, where it drives a current-based population (rule W5)."""
        return DENSE_BITS if self.conv is None else CONVOLUTION_BITS

    def output_shape(self, source: Shape) -> Shape:
        """Return the shape that this synapse drives from a source of shape `source`."""
        if self.conv is None:
            return (self.weight.shape[0],)
        kernel = (self.weight.shape[2], self.weight.shape[3])
        return (self.weight.shape[0], *self.conv.output_size(source, kernel))


class Neuron:
    """What a kind of neuron allows; a kind that allows something else says so.

    Attributes:
        is_bounded: its accumulated input must stay in the accumulator (rule O1).
        accumulator_limit: largest magnitude of that input (rules O1 and O3).
        is_graded: a spike carries a number (rule G2), or, of a readout, the spikes that it reads do.
        exponents: weight exponents of its synapses (rule W3).
        takes_delays, takes_own_spikes: whether synapses may delay (rule W4), and come from the population (rule W6).
        takes_sample: whether a population without synapses takes the sample as its bias (rule I3).
        latency: time steps that the neuron runs before step 1 (rule C4).
    """

    is_bounded: ClassVar[bool] = True
    accumulator_limit: ClassVar[int] = ACCUMULATOR_LIMIT
    is_graded: ClassVar[bool] = False
    exponents: ClassVar[range] = range(LARGEST_EXPONENT + 1)
    takes_delays: ClassVar[bool] = False
    takes_own_spikes: ClassVar[bool] = False
    takes_sample: ClassVar[bool] = False
    latency: int = 0

    @property
    def answers_by_count(self) -> bool:
        """Return False: the answer of the last population is its potential."""
        return False

    @property
    def fires_at_one(self) -> bool:
        """Return True when a potential of 1 fires, none is there at first and none is left behind a spike."""
        return False

    def start(self, channels: int) -> IntArray:
        """Return the membrane potential at the start of a window, int64 (channels,)."""
        return np.zeros(channels, np.int64)


@dataclass(frozen=True, eq=False)
class IntegrateFire(Neuron, StructuralEquality):
    """An integrate-and-fire neuron (rules S1 to S3).

    Args:
        threshold: int64 (channels,), > 0; a neuron fires when its membrane potential reaches it.
        initial: int64 (channels,); membrane potential at the start of a window.
        reset: `subtract` takes the threshold off at a spike, `zero` clears the potential.
    """

    threshold: IntArray
    initial: IntArray
    reset: Literal["subtract", "zero"] = "subtract"

    @property
    def fires_at_one(self) -> bool:
        """Return True when a potential of 1 fires, none is there at first and none is left behind a spike."""
        return self.reset == "zero" and bool((self.threshold == 1).all()) and not self.initial.any()

    def start(self, channels: int) -> IntArray:  # noqa: ARG002 - as the base
        """Return the membrane potential at the start of a window, int64 (channels,)."""
        return self.initial.astype(np.int64)


@dataclass(frozen=True, eq=False)
class CurrentBased(Neuron, StructuralEquality):
    """Loihi's current-based leaky integrate-and-fire neuron, CUBA for short (rules C1 to C6).

    Args:
        threshold: mantissa, >= 0; a neuron fires when its voltage is above 64 * threshold.
        current_decay, voltage_decay: int64 (channels,), 0..4096; what is lost in a step, in parts of 4096.
        reset_interval: both states are cleared before time step 1 and every so many steps; None for never.
        latency: time steps that the neuron runs before step 1, because in a pipeline the input of the network reaches
            it so many steps late (rule C4).
    """

    is_bounded: ClassVar[bool] = False
    exponents: ClassVar[range] = range(-LARGEST_EXPONENT, LARGEST_EXPONENT + 1)
    takes_delays: ClassVar[bool] = True
    takes_own_spikes: ClassVar[bool] = True
    takes_sample: ClassVar[bool] = True

    threshold: int
    current_decay: IntArray
    voltage_decay: IntArray
    reset_interval: int | None = None
    latency: int = 0

    @property
    def answers_by_voltage(self) -> bool:
        """Return True when the threshold is out of reach by design, so that the answer is the voltage (rule C6)."""
        return self.threshold >= MANTISSA_LIMIT

    @property
    def answers_by_count(self) -> bool:
        """Return True when the answer is the spikes of each neuron, counted (rule C6)."""
        return not self.answers_by_voltage


@dataclass(frozen=True)
class Readout(Neuron):
    """A neuron that never fires: its membrane potential is the logit (rule S4).

    Args:
        scale: real logit per unit of membrane potential after the whole window; > 0.
    """

    scale: float


@dataclass(frozen=True)
class GradedReLU(Neuron):
    """A neuron without memory whose spike carries its drive, where that is positive (rules G1 to G3)."""

    accumulator_limit: ClassVar[int] = PAYLOAD_LIMIT
    is_graded: ClassVar[bool] = True
    exponents: ClassVar[range] = range(-LARGEST_EXPONENT, LARGEST_EXPONENT + 1)


@dataclass(frozen=True)
class GradedReadout(Readout):
    """The readout of a network of graded neurons: its drive is the logit (rule G4)."""

    accumulator_limit: ClassVar[int] = PAYLOAD_LIMIT
    is_graded: ClassVar[bool] = True
    exponents: ClassVar[range] = range(-LARGEST_EXPONENT, LARGEST_EXPONENT + 1)


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


@dataclass(frozen=True, eq=False)
class Population(StructuralEquality):
    """Neurons that share a kind, with the synapses that drive them.

    Args:
        name: unique, not `input`.
        shape: (channels,) or (channels, height, width).
        neuron: what each neuron does with its drive.
        bias: int64 (channels,), added to the membrane potential at every step.
        synapses: each source stands before this population; none for a current-based population that takes the
            sample itself as its bias (rule I3).
        bound: range of the accumulated input, if known.
    """

    name: str
    shape: Shape
    neuron: IntegrateFire | CurrentBased | GradedReLU | Readout
    bias: IntArray
    synapses: tuple[Synapse, ...]
    bound: Bound | None = None

    @property
    def n_neurons(self) -> int:
        """Return the number of neurons."""
        return int(np.prod(self.shape))

    @property
    def head_room_bits(self) -> float | None:
        """Return how many times the bound could double before it left the accumulator; None without a bound."""
        if self.bound is None:
            return None
        return float(np.log2(self.neuron.accumulator_limit / max(self.bound.high, -self.bound.low, 1)))

    @property
    def recurrent(self) -> tuple[Synapse, ...]:
        """Return the synapses from this population to itself (rule W6)."""
        return tuple(synapse for synapse in self.synapses if synapse.source == self.name)

    @property
    def feedforward(self) -> tuple[Synapse, ...]:
        """Return the synapses from the input and from populations that stand before this one."""
        return tuple(synapse for synapse in self.synapses if synapse.source != self.name)

    @property
    def start(self) -> IntArray:
        """Return the membrane potential of each channel at the start of a window, int64 (channels,)."""
        return self.neuron.start(self.shape[0])

    @property
    def is_maximum(self) -> bool:
        """Return whether each neuron fires where one of those that it reads does, and only there (rule M1)."""
        if len(self.synapses) != 1 or self.bias.any() or not self.neuron.fires_at_one:
            return False
        (synapse,) = self.synapses
        return synapse.source != INPUT_NAME and synapse.exponent == 0 and bool(np.isin(synapse.weight, (0, 1)).all())

    def per_neuron(self, values: IntArray) -> IntArray:
        """Spread one value per channel, (channels,), over the population's shape as int64."""
        column = np.asarray(values, np.int64).reshape(-1, *[1] * (len(self.shape) - 1))
        return np.broadcast_to(column, self.shape)
