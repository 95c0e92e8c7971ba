"""Targets: what a chip can hold, each limit with its source.

In: a target name. Out: a frozen Target. Must not import torch or Lava.
"""

from __future__ import annotations

from dataclasses import dataclass

from nctool.errors import UsageError

STATE_LIMIT = 2**17 - 1
"""|u| in weight units: 24-bit signed, inputs shifted left by 6. Source: lava-nc `lava/proc/lif/models.py`."""

THRESHOLD_LIMIT = 2**17 - 1
"""vth: unsigned 17-bit mantissa. Source: lava-nc `PyLifModelBitAcc`."""

BIAS_MANTISSA = (-(2**12), 2**12 - 1)
"""bias_mant: signed 13-bit. Source: lava-nc `PyLifModelBitAcc`."""

SYNAPSE_MANTISSA = (-(2**7), 2**7 - 1)
"""Signed 8-bit weights of Loihi 2. Source: lava-nc `lava/utils/weightutils.py`, MIXED sign mode."""

SYNAPSE_EXPONENT_MAX = 7
"""Weight exponent -8..7, of which nctool uses 0..7. Source: NxTF, nengo-loihi synapse format (Loihi 1)."""

CONVOLUTION_SUM_LIMIT = 2**23 - 1
"""A convolution's sum is clamped to 24 bits. Source: lava-nc `PyConvModelFixed.clamp_precision`."""

CONVOLUTION_GROUPS_MAX = 127
"""Lava holds `groups`, kernel, stride, padding and dilation of a Conv as int8.
Source: lava-nc `lava/proc/conv/models.py`."""


@dataclass(frozen=True)
class Target:
    """Limits of one chip; None means that the target sets no limit.

    Args:
        name: what `--target` calls it.
        description: one line for `nctool targets`.
        neurons_per_core: neurons that one core can hold.
        synapse_bytes_per_core: bytes of synaptic memory in one core.
        cores_per_chip: cores that a program can use.
        source: where the numbers come from.
    """

    name: str
    description: str
    neurons_per_core: int | None
    synapse_bytes_per_core: int | None
    cores_per_chip: int | None
    source: str


TARGETS: tuple[Target, ...] = (
    Target(
        name="loihi2",
        description="Loihi 2 (alias: loihi)",
        neurons_per_core=8192,
        synapse_bytes_per_core=192 * 1024,
        cores_per_chip=120,
        source="Intel Loihi 2 technology brief (second-hand); cores: lava-nc 0.10.0 compiler",
    ),
    Target(
        name="lava",
        description="Lava CPU simulator: the number formats of Loihi 2, no limit on size",
        neurons_per_core=None,
        synapse_bytes_per_core=None,
        cores_per_chip=None,
        source="lava-nc 0.10.0 process models",
    ),
)

ALIASES = {"loihi": "loihi2"}


def find_target(name: str) -> Target:
    """Return the target called `name`; a UsageError lists the names that exist."""
    for target in TARGETS:
        if target.name == ALIASES.get(name, name):
            return target
    names = ", ".join([*ALIASES, *(target.name for target in TARGETS)])
    raise UsageError(f"unknown target `{name}`, allowed {names}", hint="see `nctool targets`")
