"""The autapse: reset by subtraction out of the stock LIF, one compartment a neuron.

The stock LIF clears its voltage v at a spike but never its current u. So u is the membrane: it does not
decay, and v = u + constant has no memory. A synapse from each neuron to itself with weight -threshold arrives
one step after the spike, which is before the next comparison: exactly an IF neuron with reset by subtraction.
The real bias must be integrated, so it comes through synapses from always-on source neurons. A maximum needs none of
this: it is a stock LIF without memory. See docs/SEMANTICS.md, rules R1 to R5 and R8.

In: populations of an IntNetwork. Out: register values, or every reason why there are none. Must not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from nctool.errors import FormatError, RangeError
from nctool.ir.arrays import StructuralEquality
from nctool.ir.network import IntArray, IntegrateFire, IntNetwork, Population, Readout, Synapse
from nctool.ir.number_format import IntegerFormat
from nctool_deploy.backends.bias_sources import BIAS_LIMIT, BiasSource, bias_violations, bias_wirings, split_bias
from nctool_deploy.backends.number_formats import (
    BIAS_MANTISSA,
    FULL_DECAY,
    MAY_FIRE_AGAIN,
    STATE,
    SYNAPSE_EXPONENT,
    SYNAPSE_MANTISSA,
    THRESHOLD,
    NumberFormat,
)
from nctool_deploy.backends.stock import NEURON_STOCK, WITHOUT_MEMORY, StockRegisters
from nctool_deploy.hdf5 import Node
from nctool_deploy.mapping.wiring import AutapseWiring, Wiring

FLUSH_STEPS = 1
"""Silent steps between two windows, in which the last autapse spikes decay (R5)."""

NEURON_IF, NEURON_READOUT = "IF", "IF-READOUT"
"""Types that a stock netx loader rejects: running them as CUBA would be silently wrong."""

LOWER_BIAS = "use fewer --weight-bits, which lowers the biases"

AUTAPSE_FORMAT = IntegerFormat(
    weight_bits=8,
    threshold_mantissa_max=SYNAPSE_MANTISSA.high,
    threshold_exponent_max=SYNAPSE_EXPONENT.high,
    bias_max=BIAS_LIMIT,
    weight_exponent_max=SYNAPSE_EXPONENT.high,
    comparison_max=BIAS_MANTISSA.high,
)
"""The numbers that this backend can hold; conversion rounds to them."""


@dataclass(frozen=True, eq=False)
class AutapseRegisters(StructuralEquality):
    """Register values of one population.

    Args:
        threshold_mantissa: vth, one for the population (R1).
        bias_mantissa: int64 (channels,), the constant part of v (R1).
        self_weight: int64 (channels,), the autapse: -threshold / 2**self_exponent (R2). None for a readout.
        self_exponent: weight exponent of the autapse.
        bias_sources: always-on sources that add up to the bias (R3); none when every bias is 0.
    """

    threshold_mantissa: int
    bias_mantissa: IntArray
    self_weight: IntArray | None
    self_exponent: int
    bias_sources: tuple[BiasSource, ...]


class Autapse:
    """The backend `autapse`; its members are those of `nctool_deploy.backends.backend.Backend`."""

    name: ClassVar[Literal["autapse"]] = "autapse"
    description: ClassVar = "reset by subtraction, exact; runs in nctool's own Network"
    number_format: ClassVar = AUTAPSE_FORMAT
    exponents: ClassVar[NumberFormat] = SYNAPSE_EXPONENT
    accumulator: ClassVar[NumberFormat] = STATE
    steps: ClassVar[int | None] = None
    flush_steps: ClassVar = FLUSH_STEPS
    stored_weight: ClassVar[type[np.signedinteger[Any]]] = np.int8
    stores_exponents: ClassVar = True

    def default_replicas(self, levels: int) -> int:
        """Return 1: a window of several steps stands for the levels."""
        return 1

    def explored_windows(self, wanted: Sequence[int] | None) -> Sequence[int]:
        """Return the windows that the user wants, or short ones."""
        return wanted or (1, 2, 4, 8)

    def explored_replicas(self, wanted: Sequence[int] | None, levels: int) -> Sequence[int]:
        """Return the replicas that the user wants, or a few."""
        return wanted or (1, 2, 4)

    def require_graph(self, network: IntNetwork) -> None:
        """Do nothing: populations may have any number of synapses."""

    def prepare(self, network: IntNetwork) -> IntNetwork:
        """Return the network as it is."""
        return network

    def network_violations(self, network: IntNetwork) -> list[RangeError]:
        """Return nothing: each population stands for itself."""
        return []

    def synapse_violations(self, synapse: Synapse, largest_message: int, where: str) -> Iterator[RangeError]:
        """Yield nothing: a synapse that Conv cannot hold runs as a sparse matrix."""
        yield from ()

    def violations(self, population: Population) -> list[RangeError]:
        """Return all that keeps `population` from having registers; empty when it has."""
        where, neuron = f"population `{population.name}`", population.neuron
        if population.is_maximum:
            return []
        errors = list(bias_violations(population.bias, where, LOWER_BIAS))
        if isinstance(neuron, IntegrateFire):
            errors += [*_neuron_violations(neuron, where), *_threshold_violations(neuron.threshold, where)]
            errors += _comparison_violations(neuron, where)
        return errors

    def registers(self, population: Population) -> AutapseRegisters | StockRegisters:
        """Return the registers of `population`: a readout, a neuron that resets by subtraction, or a maximum (R8)."""
        if population.is_maximum:
            return StockRegisters(0, np.zeros_like(population.bias))
        sources, neuron = split_bias(population.bias), population.neuron
        if not isinstance(neuron, IntegrateFire):  # R4: u never reaches the highest threshold
            return AutapseRegisters(THRESHOLD.high, np.zeros_like(population.bias), None, 0, sources)
        threshold_mantissa, bias_mantissa = _comparison(neuron)
        exponent = self_exponent(neuron.threshold)
        return AutapseRegisters(threshold_mantissa, bias_mantissa, -(neuron.threshold >> exponent), exponent, sources)

    def wirings(self, population: Population) -> tuple[Wiring, ...]:
        """Return bias sources (R3), and the autapse of what fires (R2), but for a maximum (R8)."""
        sources = bias_wirings(population.bias)
        has_autapse = isinstance(population.neuron, IntegrateFire) and not population.is_maximum
        return (*sources, AutapseWiring()) if has_autapse else sources

    def fixed_registers(self, kind: str) -> Mapping[str, int]:
        """Return those of the stock neuron without memory for its type, else those of the autapse (R1)."""
        if kind == NEURON_STOCK:
            return WITHOUT_MEMORY
        return {"iDecay": 0, "vDecay": FULL_DECAY, "refDelay": MAY_FIRE_AGAIN}

    def neuron_data(self, population: Population) -> Mapping[str, Any]:
        """Return the thresholds and initial potentials of what fires; the registers follow from them on loading.

        Of a maximum, return the type and the threshold register of the stock neuron.
        """
        neuron = population.neuron
        if population.is_maximum:
            return {"type": NEURON_STOCK, "vThMant": np.int64(0)}
        if not isinstance(neuron, IntegrateFire):
            return {"type": NEURON_READOUT}
        thresholds = {"vThMant": neuron.threshold.astype(np.int32), "vInit": neuron.initial.astype(np.int32)}
        return {"type": NEURON_IF, **thresholds}

    def read_neuron(self, node: Node, channels: int, scale: float | None) -> IntegrateFire | Readout:
        """Return the neuron that `neuron_data` wrote."""
        kind = node.text("type")
        if kind == NEURON_READOUT and scale is not None:
            return Readout(scale)
        if kind == NEURON_STOCK and scale is None:
            node.require_integers({"vThMant": 0})
            return IntegrateFire(np.ones(channels, np.int64), np.zeros(channels, np.int64), reset="zero")
        if kind != NEURON_IF or scale is not None:
            raise FormatError(
                f"`{node.name}/type` is `{kind}`, allowed {NEURON_IF}, {NEURON_STOCK}, or {NEURON_READOUT} with a scale"
            )
        threshold, initial = (node.array(key, np.int32, 1).astype(np.int64) for key in ("vThMant", "vInit"))
        return IntegrateFire(threshold, initial)


def self_exponent(threshold: IntArray) -> int:
    """Return the smallest exponent e <= 7 with which no threshold needs a mantissa above 127, or 7 (R2)."""
    exponents = range(SYNAPSE_EXPONENT.high + 1)
    return next((e for e in exponents if threshold.max() >> e <= SYNAPSE_MANTISSA.high), SYNAPSE_EXPONENT.high)


def _comparison(neuron: IntegrateFire) -> tuple[int, IntArray]:
    """Return vth and the constant part of v per channel (R1); every gap is at least 1, and so is the centre."""
    gap = neuron.threshold - neuron.initial
    centre = (int(gap.max()) + int(gap.min())) // 2
    return centre - 1, centre - gap


# --- what does not fit ----------------------------------------------------


def _neuron_violations(neuron: IntegrateFire, where: str) -> list[RangeError]:
    errors = []
    if neuron.reset != "subtract":
        errors.append(RangeError(f"{where}: reset is `{neuron.reset}`, the autapse allows `subtract`"))
    if (neuron.initial >= neuron.threshold).any():
        errors.append(RangeError(f"{where}: an initial potential reaches its threshold, allowed below it"))
    return errors


def _threshold_violations(threshold: IntArray, where: str) -> list[RangeError]:
    exponent = self_exponent(threshold)
    mantissa = threshold >> exponent
    bad = (mantissa << exponent != threshold) | (mantissa > SYNAPSE_MANTISSA.high)
    if not bad.any():
        return []
    return [
        RangeError(
            f"{where}: threshold {int(threshold[bad][0])} is no synaptic weight m * 2**e with one "
            f"e <= {SYNAPSE_EXPONENT.high} for the layer, allowed m 1..{SYNAPSE_MANTISSA.high} (here e = {exponent})",
            hint="convert with nctool, which rounds thresholds to that form",
        )
    ]


def _comparison_violations(neuron: IntegrateFire, where: str) -> list[RangeError]:
    gap = neuron.threshold - neuron.initial
    threshold_mantissa, bias_mantissa = _comparison(neuron)
    errors = []
    if threshold_mantissa > THRESHOLD.high:
        errors.append(
            RangeError(
                f"{where}: an initial potential {int(gap.max())} below its threshold needs a threshold register of "
                f"{threshold_mantissa}, allowed {THRESHOLD.low}..{THRESHOLD.high}"
            )
        )
    low, high = int(bias_mantissa.min()), int(bias_mantissa.max())
    if low < BIAS_MANTISSA.low or high > BIAS_MANTISSA.high:
        errors.append(
            RangeError(
                f"{where}: thresholds spread over {int(gap.min())}..{int(gap.max())} above the initial potential need "
                f"bias mantissas {low}..{high}, allowed {BIAS_MANTISSA.low}..{BIAS_MANTISSA.high}",
                hint="use fewer --weight-bits, which lowers the thresholds",
            )
        )
    return errors
