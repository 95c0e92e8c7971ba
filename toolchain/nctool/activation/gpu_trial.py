"""Which kernels an activation may use on a GPU: those of Triton, where they were found to compute what they should.

In: a tensor. Out: the module `nctool.activation.gpu_kernels`, or None.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nctool.errors import first_line

TYPES = (torch.float32, torch.bfloat16)
"""Those that are tried."""

MOST_ELEMENTS = 2**30
"""Elements that 32 bits count, whatever the place of the first one."""

_TRIED = 4099
"""Elements of a trial: several programs, the last of which is not full."""

_THETA, _LEVELS, _SCALE = 1.25, 4, 1008.0
_SEED, _FIRST = 7, 3


def kernels_for(tensor: Tensor) -> Any:
    """Return the kernels that may be used on a tensor, or None; each type is tried once on each GPU."""
    if tensor.device.type != "cuda" or tensor.dtype not in TYPES or tensor.numel() > MOST_ELEMENTS:
        return None
    if torch.compiler.is_compiling() or failure(tensor.device, tensor.dtype) is not None:
        return None
    return _kernels()


@cache
def failure(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why there are no kernels for a type on a GPU, None where there are."""
    try:
        return first_difference(_kernels(), device, dtype)
    except ImportError as error:
        return f"Triton is not there ({first_line(error)})"
    except Exception as error:  # noqa: BLE001 - of Triton: no compiler, no place for its cache, a GPU that it does not know
        return f"Triton cannot compile them ({first_line(error)})"


def _kernels() -> ModuleType:
    return import_module("nctool.activation.gpu_kernels")


def first_difference(kernels: ModuleType, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return what kernels do not compute as `nctool.activation.staircase` says, None where they compute all of it."""
    theta, z = torch.tensor(_THETA, device=device), _beside_borders(device, dtype)
    output, code = torch.empty_like(z), torch.empty_like(z, dtype=torch.int8)
    kernels.staircase(z, theta, _LEVELS, _SCALE, None, output, code)
    ratio = z.float() / theta
    clipped = ratio.clamp(0.0, 1.0)
    values = (clipped * _LEVELS + 0.5).floor() * (theta / _LEVELS)
    if not torch.equal(output, values.to(dtype)):
        return "Triton gives wrong activations"
    inside, error = ratio == clipped, (values / theta - clipped) * _SCALE
    codes = torch.where(inside, (error + 0.5).floor(), 127.0 * (ratio - clipped).sign())
    if float((codes - code.float()).abs().max()) > 1:
        return "Triton gives wrong codes"
    return _gradients_differ(kernels, code, dtype) or _noise_differs(kernels, z, theta, output)


def _beside_borders(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return pre-activations on all sides, a little away from where the quotient's rounding decides on the level."""
    z = torch.linspace(-1.0, 2.5, _TRIED, dtype=torch.float64).to(dtype)
    place = z.double() / _THETA * _LEVELS + 0.5
    near = (place - place.round()).abs() < 0.01
    return torch.where(near, torch.full_like(z, 0.5), z).to(device)


def _gradients_differ(kernels: ModuleType, code: Tensor, dtype: torch.dtype) -> str | None:
    upstream = torch.linspace(-1.0, 1.5, len(code)).to(code.device, dtype)
    by_input, codes = torch.empty_like(upstream), code.double()
    by_threshold = kernels.gradients(code, upstream, by_input, _SCALE)
    inside = torch.where(codes.abs() < 127, upstream, torch.zeros_like(upstream))
    expected = (inside.double() * codes).sum() / _SCALE + upstream.double()[codes > 126].sum()
    if torch.equal(by_input, inside) and torch.allclose(by_threshold.double(), expected, rtol=1e-4):
        return None
    return "Triton gives wrong gradients"


def _noise_differs(kernels: ModuleType, z: Tensor, theta: Tensor, plain: Tensor) -> str | None:
    """Return whether noise has another mean or deviation, or depends on more than seed and place."""
    sigma, noisy, rest = torch.tensor(0.5, device=z.device), torch.empty_like(z), torch.empty_like(z[5:])
    kernels.staircase(z, theta, _LEVELS, _SCALE, (sigma, _SEED, _FIRST), noisy, None)
    kernels.staircase(z[5:].clone(), theta, _LEVELS, _SCALE, (sigma, _SEED, _FIRST + 5), rest, None)
    noise = noisy.double() - plain.double()
    is_normal = abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 0.5) < 0.05
    return None if is_normal and torch.equal(rest, noisy[5:]) else "Triton gives wrong noise"
