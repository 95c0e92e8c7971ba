"""What the processor of this machine can do beside the usual.

In: nothing. Out: names of instruction sets, as LLVM has them. Must not import torch.
"""

from __future__ import annotations

from functools import cache

VECTORS = ("avx2", "avx512f", "avx512bw", "avx512vnni", "avxvnni", "avx512bf16", "amx-int8", "amx-bf16")
ARM_VECTORS = ("neon", "dotprod", "i8mm", "bf16", "sve", "sve2")
"""Instructions that decide how fast kernels are."""
_BFLOAT16 = {"avx512bf16", "amx-bf16", "bf16"}


@cache
def features() -> tuple[str, ...] | None:
    """Return those of `VECTORS` and `ARM_VECTORS` that the processor has; None where Numba is missing, which tells."""
    try:
        from llvmlite import binding  # of Numba
    except (ImportError, OSError):  # it is not there, or its library of LLVM is broken
        return None
    has = binding.get_host_cpu_features()
    return tuple(name for name in (*VECTORS, *ARM_VECTORS) if has.get(name))


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16; where it does not, torch emulates that, slowly."""
    return not _BFLOAT16.isdisjoint(features() or ())
