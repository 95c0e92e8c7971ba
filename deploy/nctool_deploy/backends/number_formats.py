"""Ranges and values of the registers and synapses that a backend is made of: those of Lava's processes.

In: nothing. Out: named ranges, each with its source. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass

from nctool.ir.population import GRADED_SUM_LIMIT, LARGEST_EXPONENT, PAYLOAD_LIMIT


@dataclass(frozen=True)
class NumberFormat:
    """A range of integers.

    Args:
        name: what is held.
        low, high: smallest and largest value.
        source: where the range comes from.
    """

    name: str
    low: int
    high: int
    source: str


STATE = NumberFormat(
    "accumulated input",
    -(2**17 - 1),
    2**17 - 1,
    "lava-nc 0.10.0, lava/proc/lif/models.py: u has 24 bits, inputs are shifted left by 6",
)
THRESHOLD = NumberFormat(
    "threshold register", 0, 2**17 - 1, "lava-nc 0.10.0, lava/proc/lif/models.py, PyLifModelBitAcc: 17 bits"
)
BIAS_MANTISSA = NumberFormat(
    "bias mantissa", -(2**12), 2**12 - 1, "lava-nc 0.10.0, lava/proc/lif/models.py, PyLifModelBitAcc: 13 bits signed"
)
SYNAPSE_MANTISSA = NumberFormat(
    "weight", -(2**7), 2**7 - 1, "lava-nc 0.10.0, lava/utils/weightutils.py: 8 bits of mixed sign"
)
SYNAPSE_EXPONENT = NumberFormat("weight exponent", 0, 7, "NxTF and nengo-loihi: -8..7, of which nctool uses 0..7")
SHIFT = NumberFormat(
    "graded weight exponent",
    -LARGEST_EXPONENT,
    7,
    "lava-nc 0.10.0, lava/proc/dense/models.py: weight_exp of any sign; what the chip takes is not published",
)
PAYLOAD = NumberFormat(
    "graded drive",
    -PAYLOAD_LIMIT,
    PAYLOAD_LIMIT,
    "lava-nc 0.10.0, lava/proc/graded/models.py, PyGradedReluVecModelFixed: 24 bits signed",
)
GRADED_SUM = NumberFormat(
    "graded sum before its shift",
    -GRADED_SUM_LIMIT,
    GRADED_SUM_LIMIT,
    "lava-nc 0.10.0, lava/proc/dense/models.py and lava/proc/sparse/models.py: 32 bits, of weights stored doubled",
)
CONVOLUTION_SUM = NumberFormat(
    "sum of a convolution",
    -(2**23 - 1),
    2**23 - 1,
    "lava-nc 0.10.0, lava/proc/conv/models.py, PyConvModelFixed.clamp_precision: 24 bits",
)
CONVOLUTION_GEOMETRY = NumberFormat(
    "geometry of a convolution", 0, 127, "lava-nc 0.10.0, lava/proc/conv/models.py: held as int8"
)

NUMBER_FORMATS = (
    SYNAPSE_MANTISSA,
    SYNAPSE_EXPONENT,
    THRESHOLD,
    BIAS_MANTISSA,
    STATE,
    SHIFT,
    PAYLOAD,
    GRADED_SUM,
    CONVOLUTION_SUM,
    CONVOLUTION_GEOMETRY,
)

FULL_DECAY = 4096
"""The decay that leaves nothing after a step, of 4096 parts. Source: lava-nc 0.10.0, lava/proc/lif/models.py."""

MAY_FIRE_AGAIN = 1
"""Refractory delay of a neuron that may fire at every step."""
