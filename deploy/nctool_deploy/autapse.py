"""The autapse: reset by subtraction out of the stock LIF, one compartment a neuron.

The stock LIF clears its voltage v at a spike but never its current u. So u is the membrane: it does not
decay, and v = u + constant has no memory. A synapse from each neuron to itself with weight -threshold arrives
one step after the spike, which is before the next comparison: exactly an IF neuron with reset by subtraction.
The real bias must be integrated, so it comes through synapses from always-on source neurons. See
docs/SEMANTICS.md, rules R1 to R5.

In: populations of an IntNetwork. Out: register values. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nctool.equality import StructuralEquality
from nctool.errors import RangeError
from nctool.integer_format import IntegerFormat
from nctool.network import IntArray, IntegrateFire, Population
from nctool_deploy.targets import BIAS_MANTISSA, SYNAPSE_EXPONENT_MAX, SYNAPSE_MANTISSA, THRESHOLD_LIMIT

BIAS_EXPONENT = 7
"""Exponent of the coarse always-on source: with an exact fine source beside it, a 16-bit bias."""

BIAS_LIMIT = SYNAPSE_MANTISSA[1] * 2**BIAS_EXPONENT + 2 ** (BIAS_EXPONENT - 1)
"""Largest |bias|, the same on both sides, that the two sources are asked to hold: 127 * 128 + 64."""

AUTAPSE_FORMAT = IntegerFormat(
    weight_bits=8,
    threshold_mantissa_max=SYNAPSE_MANTISSA[1],
    threshold_exponent_max=SYNAPSE_EXPONENT_MAX,
    bias_max=BIAS_LIMIT,
    weight_exponent_max=SYNAPSE_EXPONENT_MAX,
)
"""The numbers that this realisation can hold; conversion rounds to them."""


@dataclass(frozen=True, eq=False)
class BiasSource(StructuralEquality):
    """One always-on neuron that drives a population: bias part = weight * 2**exponent per channel."""

    weight: IntArray
    exponent: int


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


def registers(population: Population) -> AutapseRegisters:
    """Work out the registers of `population`, a readout or a neuron that resets by subtraction.

    Raises:
        RangeError: a threshold or a bias has no exact form; names the population, the value and the limit.
    """
    sources = split_bias(population)
    neuron = population.neuron
    if not isinstance(neuron, IntegrateFire):  # R4: u never reaches the highest threshold
        return AutapseRegisters(THRESHOLD_LIMIT, np.zeros_like(population.bias), None, 0, sources)
    exponent = self_exponent(population.name, neuron.threshold)
    gap = neuron.threshold - neuron.initial
    centre = max(1, (int(gap.max()) + int(gap.min())) // 2)
    bias_mantissa = centre - gap
    if centre - 1 > THRESHOLD_LIMIT:
        raise RangeError(
            f"population `{population.name}`: an initial potential {int(gap.max())} below its threshold needs a "
            f"threshold register of {centre - 1}, allowed 0..{THRESHOLD_LIMIT}"
        )
    low, high = int(bias_mantissa.min()), int(bias_mantissa.max())
    if low < BIAS_MANTISSA[0] or high > BIAS_MANTISSA[1]:
        raise RangeError(
            f"population `{population.name}`: thresholds spread over {int(gap.min())}..{int(gap.max())} above the "
            f"initial potential need bias mantissas {low}..{high}, allowed {BIAS_MANTISSA[0]}..{BIAS_MANTISSA[1]}",
            hint="export with fewer --weight-bits, which lowers the thresholds",
        )
    return AutapseRegisters(centre - 1, bias_mantissa, -(neuron.threshold >> exponent), exponent, sources)


def self_exponent(name: str, threshold: IntArray) -> int:
    """Return the smallest exponent e <= 7 for which every threshold is m * 2**e with m <= 127 (R2)."""
    for exponent in range(SYNAPSE_EXPONENT_MAX + 1):
        mantissa = threshold >> exponent
        if mantissa.max() <= SYNAPSE_MANTISSA[1]:
            break
    bad = (mantissa << exponent != threshold) | (mantissa > SYNAPSE_MANTISSA[1])
    if bad.any():
        raise RangeError(
            f"population `{name}`: threshold {int(threshold[bad][0])} is no synaptic weight m * 2**e with one "
            f"e <= {SYNAPSE_EXPONENT_MAX} for the layer, allowed m 1..{SYNAPSE_MANTISSA[1]} (here e = {exponent})",
            hint="convert with nctool, which rounds thresholds to that form",
        )
    return exponent


def split_bias(population: Population) -> tuple[BiasSource, ...]:
    """Split the bias into at most two 8-bit weights per channel of exponents 7 and 0 (R3)."""
    bias, where = population.bias, f"population `{population.name}`"
    worst = int(bias[np.argmax(np.abs(bias))])
    if abs(worst) > BIAS_LIMIT:
        raise RangeError(
            f"{where}: bias {worst} does not fit two always-on sources, allowed -{BIAS_LIMIT}..{BIAS_LIMIT}",
            hint="export with fewer --weight-bits, which lowers the biases",
        )
    if abs(worst) <= SYNAPSE_MANTISSA[1]:
        return (BiasSource(bias, 0),) if worst else ()
    coarse = np.clip((bias + 2 ** (BIAS_EXPONENT - 1)) >> BIAS_EXPONENT, *SYNAPSE_MANTISSA)
    return BiasSource(coarse, BIAS_EXPONENT), BiasSource(bias - (coarse << BIAS_EXPONENT), 0)
