"""The arithmetic of the noisy quantised activation: its values, its noise and its gradients.

In: pre-activations, θ, the levels L, σ. Out: activations, differentiable in the pre-activations and θ. The
module that is trained is in `noisy_quant`.

Beside its output, one byte an element is kept for the backward pass. This *code* says whether the pre-activation lay
below 0, inside, or above θ; if inside, it says how far it was rounded. The work is done in blocks that stay in the
cache, because the main memory is slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nctool.activation.gaussian import gaussian_noise
from nctool.activation.surrogate import Reset

_CPU_BLOCK = 1 << 18
"""Elements worked on at once: one megabyte of float32 for each array."""
_DEVICE_BLOCK = 1 << 24
"""The same on an accelerator: few launches, and little memory beside the output."""
_LARGEST = 126
"""Codes −126..126 are inside, 0 ≤ z ≤ θ, in proportion to the rounding error; −127 is below, 127 above."""
_OUTSIDE = 127


def activate(z: Tensor, threshold: Tensor, levels: int, reset: Reset, sigma: Tensor | None) -> Tensor:
    """Return q(z) + σ·ε, with the gradients ∂q/∂z = [0 ≤ z/θ ≤ 1] and ∂q/∂θ = q/θ − z/θ·[0 ≤ z/θ ≤ 1].

    The second is the rounding error inside the range, 0 below and 1 above. Inside it is known to 1/252 of its largest
    value, with reset "subtract" that is to 1/504 of a level. Everything else is exact.

    Args:
        z: float pre-activations of any shape.
        threshold: θ, shape (), on the same device.
        levels: L.
        reset: which staircase q is.
        sigma: σ > 0, shape (); None draws nothing.

    Returns:
        activations of z's shape, in the wider of the two types of z and θ; computed in float32 or wider.
    """
    if torch.is_grad_enabled():
        return cast(Tensor, _NoisyStaircase.apply(z, threshold, levels, reset, sigma))  # type: ignore[no-untyped-call]
    return _forward(z, threshold, levels, reset, sigma, code=None)


class _NoisyStaircase(torch.autograd.Function):
    """`activate` as one node of the graph that keeps nothing but the codes."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, levels: int, reset: Reset, sigma: Tensor | None) -> Tensor:
        z = _dense(z)
        code = torch.empty_like(z, dtype=torch.int8)
        ctx.save_for_backward(code)
        ctx.scale = _scale(levels, reset)
        return _forward(z, threshold, levels, reset, sigma, code)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator] # torch does not annotate it
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (code,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_memory_format(code))
        by_input = torch.empty_like(grad)
        by_error, by_height = [], []
        for codes, upstream, out in _blocks(code, grad, by_input):
            place = codes.to(grad.dtype)
            torch.mul(upstream, place.abs().lt_(_OUTSIDE), out=out)  # lt_ gives floats: bools are several times slower
            by_error.append(torch.dot(out, place))
            by_height.append(torch.dot(upstream, place.gt_(_LARGEST)))
        by_threshold = torch.stack(by_error).sum() / ctx.scale + torch.stack(by_height).sum()
        return by_input, by_threshold, None, None, None


def _forward(
    z: Tensor, threshold: Tensor, levels: int, reset: Reset, sigma: Tensor | None, code: Tensor | None
) -> Tensor:
    """Return the activations, and write the codes if there is a place for them."""
    z, threshold = _dense(z), threshold.detach()
    output = torch.empty_like(z, dtype=torch.promote_types(z.dtype, threshold.dtype))
    wide = torch.promote_types(output.dtype, torch.float32)
    threshold = threshold.to(wide)
    quantise = _rounded if reset == "subtract" else _spike_share
    fill_with_noise = None if sigma is None else gaussian_noise(sigma)
    for inputs, out, *codes in _blocks(z, output, *(() if code is None else (code,))):
        ratio = inputs.to(wide) / threshold
        clipped = ratio.clamp(0.0, 1.0)
        values = quantise(inputs.to(wide), clipped, threshold, levels)
        if codes:
            codes[0].copy_(_code(ratio, clipped, values, threshold, _scale(levels, reset)))
        if fill_with_noise is None:
            out.copy_(values)
        else:
            fill_with_noise(out)
            out.add_(values)
    return output


def _code(ratio: Tensor, clipped: Tensor, values: Tensor, threshold: Tensor, scale: float) -> Tensor:
    """Return scale · (q − clip(z, 0, θ))/θ inside, −127 below and 127 above, as whole floats; takes `ratio` for it."""
    side = ratio.sub_(clipped).sign_()
    error = torch.mul(values, scale / threshold).sub_(clipped, alpha=scale)
    return error.add_(side, alpha=_OUTSIDE).round_()


def _scale(levels: int, reset: Reset) -> float:
    """Return the codes for each unit of (q − z)/θ, which is largest just below θ where a spike sets to zero."""
    largest = 0.5 / levels if reset == "subtract" else 1.0 - levels // 2 / levels
    return _LARGEST / largest


def _rounded(_z: Tensor, clipped: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """Return θ/L · floor(L · clip(z/θ, 0, 1) + 1/2) from clip(z/θ, 0, 1)."""
    return (clipped * levels).add_(0.5).floor_().mul_(threshold / levels)


def _spike_share(z: Tensor, _clipped: Tensor, threshold: Tensor, n_steps: int) -> Tensor:
    """Return θ times the spikes a step, 0..1, of a neuron that needs ceil(θ/z) steps for each; at most one a step."""
    steps_a_spike = (threshold / z.clamp(min=torch.finfo(z.dtype).tiny)).clamp_(1.0, n_steps + 1.0).ceil_()
    whole: Tensor = n_steps / steps_a_spike  # a true division: exact where it has no remainder
    return whole.floor_().mul_(1.0 / n_steps).mul_(threshold)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield flat parts of equally laid out tensors, side by side."""
    size = _CPU_BLOCK if tensors[0].device.type == "cpu" else _DEVICE_BLOCK
    return zip(*(_flat(tensor).split(size) for tensor in tensors), strict=True)


def _dense(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=_memory_format(tensor))


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """Return channels_last for images that lie so, and only so; contiguous otherwise."""
    last = tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _flat(tensor: Tensor) -> Tensor:
    """Return a dense tensor as a vector, in the order of its memory."""
    return (tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1)).view(-1)
