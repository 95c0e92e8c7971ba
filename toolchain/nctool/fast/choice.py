"""Which kernels the fast engine may use: what this computer offers, or what a caller allows.

In: nothing. Out: a Choice. Must not import the reference engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from nctool.fast import integer_weights
from nctool.fast.compiling import failure_to_compile


@dataclass(frozen=True)
class Choice:
    """What may be used beside torch's floating point, where it gives the same integers.

    Args:
        integer: oneDNN's kernels for weights of 8 bits.
        fused: loops compiled by Numba.
        notes: why something is not.
    """

    integer: bool = False
    fused: bool = False
    notes: tuple[str, ...] = ()


FLOAT = Choice()
"""Torch's floating point alone: what a GPU uses."""


@cache
def usable() -> Choice:
    """Return all that works in this process on a CPU; the first call tries it, and compiles what is in no cache yet."""
    integer, fused = integer_weights.failure(), failure_to_compile("nctool.fast.fused")
    notes = [f"no integer kernels: {integer}"] if integer else []
    notes += [f"no fused loops: {fused}"] if fused else []
    return Choice(integer is None, fused is None, tuple(notes))
