"""Which kernels the fast engine may use: what this computer offers, or what a caller allows.

In: a device. Out: a Choice. Must not import the reference engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from nctool.compiled import failure
from nctool.errors import UnsupportedError
from nctool.fast import integer_weights, products


@dataclass(frozen=True)
class Choice:
    """What may be used beside torch's floating point, where it gives the same integers.

    Args:
        integer: oneDNN's kernels for weights of 8 bits.
        fused: loops compiled by Numba.
        products: convolutions are matrix products, for those of the device may round.
        float32: may be used where it holds every sum; else float64 takes its place.
        notes: why something is not.
    """

    integer: bool = False
    fused: bool = False
    products: bool = False
    float32: bool = True
    notes: tuple[str, ...] = ()


FLOAT = Choice()
"""Torch's floating point alone."""


@cache
def usable() -> Choice:
    """Return all that works in this process on a CPU; the first call tries it, and compiles what is in no cache yet."""
    integer, fused = integer_weights.failure(), failure("nctool.fast.fused")
    notes = [f"no integer kernels: {integer}"] if integer else []
    notes += [f"no fused loops: {fused}"] if fused else []
    return Choice(integer is None, fused is None, notes=tuple(notes))


def usable_on(device: torch.device) -> Choice:
    """Return all that works in this process on a device; the first call tries it.

    Raises:
        UnsupportedError: not even float64 adds up integers exactly there.
    """
    return usable() if device.type == "cpu" else _on_gpu(torch.cuda.current_device())


@cache
def _on_gpu(number: int) -> Choice:
    """Return what one of the GPUs can do; in `full_precision`."""
    device = torch.device("cuda", number)
    reason = products.failure(device, torch.float32)
    if reason is None:
        return Choice(products=True)
    beyond_float32 = products.failure(device, torch.float64)
    if beyond_float32 is not None:
        raise UnsupportedError(f"device `cuda`: {beyond_float32}", hint="use --device cpu")
    return Choice(products=True, float32=False, notes=(f"no float32: {reason}",))
