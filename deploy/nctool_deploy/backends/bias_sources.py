"""Always-on sources: a bias that arrives through synapses, like everything else (docs/SEMANTICS.md, rule R3).

In: the biases of a population. Out: the weights of the sources that add up to them, or why there are none. Must not
import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nctool.errors import RangeError
from nctool.ir.arrays import StructuralEquality
from nctool.ir.network import IntArray
from nctool_deploy.backends.number_formats import SYNAPSE_MANTISSA
from nctool_deploy.mapping.wiring import DenseWiring

BIAS_EXPONENT = 7
"""Exponent of the coarse always-on source: with an exact fine source beside it, a 16-bit bias."""

BIAS_LIMIT = SYNAPSE_MANTISSA.high * 2**BIAS_EXPONENT + 2 ** (BIAS_EXPONENT - 1)
"""Largest |bias|, the same on both sides, that the two sources are asked to hold: 127 * 128 + 64."""


@dataclass(frozen=True, eq=False)
class BiasSource(StructuralEquality):
    """One always-on neuron that drives a population: bias part = weight * 2**exponent per channel."""

    weight: IntArray
    exponent: int


def bias_exponents(bias: IntArray) -> tuple[int, ...]:
    """Return the exponents of the always-on sources that hold `bias`: none, one or two (R3)."""
    largest = int(np.abs(bias).max())
    return () if largest == 0 else (0,) if largest <= SYNAPSE_MANTISSA.high else (BIAS_EXPONENT, 0)


def split_bias(bias: IntArray) -> tuple[BiasSource, ...]:
    """Split biases, int64 (channels,) within ±BIAS_LIMIT, into 8-bit weights of at most two sources (R3)."""
    exponents = bias_exponents(bias)
    if len(exponents) < 2:
        return tuple(BiasSource(bias, exponent) for exponent in exponents)
    coarse = np.clip((bias + 2 ** (BIAS_EXPONENT - 1)) >> BIAS_EXPONENT, SYNAPSE_MANTISSA.low, SYNAPSE_MANTISSA.high)
    return BiasSource(coarse, BIAS_EXPONENT), BiasSource(bias - (coarse << BIAS_EXPONENT), 0)


def bias_wirings(bias: IntArray) -> tuple[DenseWiring, ...]:
    """Return the connections of the sources that hold `bias`."""
    return tuple(DenseWiring(1) for _ in bias_exponents(bias))


def bias_violations(bias: IntArray, where: str, hint: str) -> Iterator[RangeError]:
    """Yield why the sources cannot hold `bias`.

    Args:
        where: names the population in messages.
        hint: what lowers the biases.
    """
    worst = int(bias[np.argmax(np.abs(bias))])
    if abs(worst) > BIAS_LIMIT:
        yield RangeError(
            f"{where}: bias {worst} does not fit two always-on sources, allowed -{BIAS_LIMIT}..{BIAS_LIMIT}", hint=hint
        )
