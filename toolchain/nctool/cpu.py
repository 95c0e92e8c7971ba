"""What the processor of this machine can do beside the usual.

In: nothing. Out: names of features, as the kernel of Linux has them. Must not import torch.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_KEYS = ("flags", "Features")
"""The lines of x86-64 and of ARM."""
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@cache
def features() -> frozenset[str]:
    """Return the features of the first processor; none where the system does not tell."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":")[1].split()) for line in lines if line.startswith(_KEYS)), frozenset())


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16; where it does not, torch emulates that, slowly."""
    return not features().isdisjoint(_BFLOAT16)
