"""IntegerFormat: the numbers that a backend on a chip can hold; conversion rounds to it.

In: limits of a target. Out: a frozen dataclass. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nctool.errors import UsageError

WEIGHT_BITS_RANGE = (2, 8)
ACTIVATION_BITS_RANGE = (2, 16)

ACCUMULATOR_LIMIT = 2**17 - 1
"""Largest magnitude of an accumulated input, in weight units: a 24-bit signed register that holds the
input shifted left by 6 bits. Source: lava-nc 0.10.0, `lava/proc/lif/models.py` (`uv_bitwidth`, `act_shift`)."""

LONGEST_WINDOW = ACCUMULATOR_LIMIT // (2 ** (WEIGHT_BITS_RANGE[1] - 1) - 1)
"""Most time steps that a network is converted for: 1032. In more, what one weight of 127 adds at every step can leave
the accumulator, so that no layer keeps weights of 8 bits (docs/SEMANTICS.md, rule O1)."""


@dataclass(frozen=True)
class IntegerFormat:
    """What the integers of a converted network may be.

    Args:
        weight_bits: signed width of a weight, 2..8; weights stay within +-(2**(bits - 1) - 1).
        threshold_mantissa_max: a threshold is m * 2**e with 1 <= m <= this.
        threshold_exponent_max: largest e; one e serves a whole population.
        bias_max: largest magnitude of a bias, in weight units.
        weight_exponent_max: largest exponent of a synapse, where several drive one population.
        accumulator_max: largest magnitude of an accumulated input.
        reset: what a spike does to the membrane potential; with `zero` a window starts at potential 0.
        one_threshold: a population has one threshold, not one per channel.
        comparison_max: where the distance of each neuron from its threshold is itself a register: largest magnitude
            of centre - (threshold - initial potential), with one centre <= this for a population; None where it is
            not.
        comparison_holds_bias: the bias is a part of that distance.
        weight_exponent_min: smallest exponent of a synapse; below 0 where sums may be shifted to the right.
        activation_bits: of graded spikes, the bits that most of them fit, 2..16; None where a spike is one bit.

    Raises:
        UsageError: weight_bits or activation_bits are out of range.
    """

    weight_bits: int
    threshold_mantissa_max: int
    threshold_exponent_max: int
    bias_max: int
    weight_exponent_max: int = 0
    accumulator_max: int = ACCUMULATOR_LIMIT
    reset: Literal["subtract", "zero"] = "subtract"
    one_threshold: bool = False
    comparison_max: int | None = None
    comparison_holds_bias: bool = False
    weight_exponent_min: int = 0
    activation_bits: int | None = None

    def __post_init__(self) -> None:
        _require_within("weight bits", self.weight_bits, WEIGHT_BITS_RANGE)
        if self.activation_bits is not None:
            _require_within("activation bits", self.activation_bits, ACTIVATION_BITS_RANGE)

    @property
    def is_graded(self) -> bool:
        """Return whether spikes carry numbers."""
        return self.activation_bits is not None

    @property
    def weight_max(self) -> int:
        """Return the largest magnitude of a weight."""
        return int(2 ** (self.weight_bits - 1) - 1)


def parts_of_threshold(activation_bits: int, levels: int, most: int = 2**16) -> int:
    """Return in how many parts graded spikes carry an activation that ends at a threshold.

    Args:
        activation_bits: that all of them fit.
        levels: that the activation was trained with; each is a whole number of parts, where the bits hold them.
        most: parts that there is room for.
    """
    most = min(int(2**activation_bits) - 1, most)
    return most - most % levels if 0 < levels <= most else most


def _require_within(what: str, bits: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= bits <= high:
        raise UsageError(f"{what}: {bits} is out of range, allowed {low}..{high}")
