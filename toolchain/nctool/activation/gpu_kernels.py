"""Passes over activations that Triton compiles for a GPU: the staircase with its noise, and its gradients, one each.

Torch would take about twenty passes over the memory for the first, and seven for the second. Triton comes with torch's
builds for GPUs. `nctool.activation.staircase` says what is computed, and whether these kernels do so on a device.

The noise of an element depends on a seed and its place alone: it is one of the four numbers that Triton's Philox makes
of the place's quarter.

In: dense tensors on a GPU. Out: tensors that the caller gives. Importing this raises an ImportError where Triton is
missing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COUNTERS = 256
"""Counters of a program, each of four elements."""

GRADIENTS = 2048
"""Elements of a program of the backward pass."""


@triton.jit
def _element(z, output, code, theta, level, levels, scale, epsilon, place, n, has_code: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write one activation of each lane, and its code."""
    here = (place >= 0) & (place < n)
    ratio = tl.div_rn(tl.load(z + place, mask=here, other=0.0).to(tl.float32), theta)
    clipped = tl.minimum(tl.maximum(ratio, 0.0), 1.0)
    clipped = tl.where(ratio == ratio, clipped, ratio)  # noqa: PLR0124 - what is no number stays none
    values = tl.floor(clipped * levels + 0.5) * level
    if has_code:
        error = tl.floor((tl.div_rn(values, theta) - clipped) * scale + 0.5)
        side = tl.where(ratio < 0.0, -127.0, tl.where(ratio > 1.0, 127.0, error))
        tl.store(code + place, side.to(tl.int8), mask=here)
    tl.store(output + place, (values + epsilon).to(output.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["seed", "first"])
def _staircase(  # type: ignore[no-untyped-def]
    z,
    output,
    code,
    thresholds,
    sigmas,
    levels,
    scale,
    seed,
    first,
    n,
    has_noise: tl.constexpr,
    has_code: tl.constexpr,
    counters: tl.constexpr,
):
    counter = first // 4 + tl.program_id(0) * counters + tl.arange(0, counters)
    theta = tl.load(thresholds)
    level = tl.div_rn(theta, levels)
    zero = tl.zeros((counters,), tl.float32)
    one, two, three, four = zero, zero, zero, zero
    if has_noise:
        sigma = tl.load(sigmas)
        one, two, three, four = tl.randn4x(seed, counter)
        one, two, three, four = one * sigma, two * sigma, three * sigma, four * sigma
    place = 4 * counter - first
    _element(z, output, code, theta, level, levels, scale, one, place, n, has_code)
    _element(z, output, code, theta, level, levels, scale, two, place + 1, n, has_code)
    _element(z, output, code, theta, level, levels, scale, three, place + 2, n, has_code)
    _element(z, output, code, theta, level, levels, scale, four, place + 3, n, has_code)


@triton.jit
def _gradients(code, upstream, by_input, sums, n, size: tl.constexpr):  # type: ignore[no-untyped-def]
    number = tl.program_id(0)
    place = number * size + tl.arange(0, size)
    here = place < n
    codes = tl.load(code + place, mask=here, other=0).to(tl.float32)
    grad = tl.load(upstream + place, mask=here, other=0.0).to(tl.float32)
    inside = tl.where(tl.abs(codes) < 127.0, grad, 0.0)
    tl.store(by_input + place, inside.to(by_input.dtype.element_ty), mask=here)
    tl.store(sums + 2 * number, tl.sum(inside * codes, 0))
    tl.store(sums + 2 * number + 1, tl.sum(tl.where(codes > 126.0, grad, 0.0), 0))


def staircase(
    z: Tensor,
    threshold: Tensor,
    levels: int,
    scale: float,
    noise: tuple[Tensor, int, int] | None,
    output: Tensor,
    code: Tensor | None,
) -> None:
    """Fill activations and codes.

    Args:
        z: vector of float32 or bfloat16.
        threshold: θ, float32 of shape ().
        levels: L.
        scale: codes for each unit of (q − z)/θ.
        noise: σ, float32 of shape (), the seed below 2**31, and the place of the first element; None for none.
        output: vector of z's type.
        code: int8 vector, or None where no gradient is wanted.
    """
    sigma, seed, first = noise or (threshold, 0, 0)
    n_programs = triton.cdiv(z.numel() + first % 4, 4 * COUNTERS)
    _staircase[(n_programs,)](
        z,
        output,
        output if code is None else code,
        threshold,
        sigma,
        float(levels),
        scale,
        seed,
        first,
        z.numel(),
        has_noise=noise is not None,
        has_code=code is not None,
        counters=COUNTERS,
    )


def gradients(code: Tensor, upstream: Tensor, by_input: Tensor, scale: float) -> Tensor:
    """Fill the gradient for z, a vector of upstream's type, and return that for θ, float32 of shape ()."""
    n_programs = triton.cdiv(code.numel(), GRADIENTS)
    sums = torch.empty(n_programs, 2, device=code.device)
    _gradients[(n_programs,)](code, upstream, by_input, sums, code.numel(), size=GRADIENTS)
    by_error, by_height = sums.sum(0).unbind()
    return by_error / scale + by_height
