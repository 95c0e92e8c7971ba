"""The window of an integrate-and-fire neuron as one differentiable function: all its time steps at once.

In: the drive of every step. Out: the spikes of every step, times the threshold; gradients go through time, and through
each spike by a surrogate.

Source: Neftci, Mostafa, Zenke, Surrogate gradient learning in spiking neural networks, arXiv 1901.09948.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nctool.activation.memory import bits, compiled_loops, dense, flat, memory_format, shift_of
from nctool.threads import side_by_side

Reset = Literal["subtract", "zero"]
Result = TypeVar("Result")

MIDDLE = 0.5
"""Where a neuron that is reset by subtraction starts a window, as a part of its threshold."""

_PART = 1 << 18
"""Elements that a thread takes at once."""


def integrate_and_fire(
    drive: Tensor, threshold: Tensor, n_steps: int, reset: Reset, start: float | None = None
) -> Tensor:
    """Run neurons for one window.

    With z the drive, θ the threshold and p the start, for each step t:

        u[t] = v[t−1] + z[t];  s[t] = [u[t] ≥ θ];  out[t] = θ·s[t];  v[0] = θ·p
        reset "subtract": v[t] = u[t] − θ·s[t]     reset "zero": v[t] = u[t]·(1 − s[t])

    In the backward pass a spike has the derivative of a ramp of width θ around the threshold, as a function of u/θ:
    ds/d(u/θ) = [1/2 ≤ u/θ ≤ 3/2]. With one step and reset by subtraction, that gives the gradients of the quantised
    activation of one level.

    Args:
        drive: float (n_steps · N, …), the N samples of the first step, then those of the second, and so on.
        threshold: θ, a float scalar of shape (), > 0, in units of the drive; where no gradients are wanted, also one
            for each neuron, to broadcast over a step.
        n_steps: length of the window, ≥ 1; it divides the first axis.
        reset: what a spike does to the membrane potential.
        start: p, the potential before the first step as a part of θ; 1/2 with reset "subtract" and 0 with "zero" where
            it is None.

    Returns:
        float of the shape of `drive`: θ where a neuron spikes, else 0.
    """
    if start is None:
        start = MIDDLE if reset == "subtract" else 0.0
    if threshold.ndim == 0 and compiled_loops(drive):
        return cast(Tensor, _Compiled.apply(drive, threshold, n_steps, reset, start))  # type: ignore[no-untyped-call]
    function = _Subtract if reset == "subtract" else _Zero
    return cast(Tensor, function.apply(drive, threshold, n_steps, start))  # type: ignore[no-untyped-call]


class _Compiled(torch.autograd.Function):
    """Either reset by compiled loops, several neurons at a time on each thread."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, threshold: Tensor, n_steps: int, reset: Reset, start: float) -> Tensor:
        drive = dense(drive)
        spikes, theta = torch.empty_like(drive), np.float32(float(threshold))
        inputs, outputs = _rows(drive, n_steps), _rows(spikes, n_steps)
        potentials = torch.empty(inputs.shape)
        loops, shift, kept = compiled_loops(drive), shift_of(drive), potentials.numpy()

        def part(neurons: range) -> None:
            loops.window(inputs, shift, theta, start, reset == "zero", neurons.start, neurons.stop, outputs, kept)

        _on_threads(part, inputs)
        ctx.save_for_backward(potentials, threshold)
        ctx.reset, ctx.start, ctx.memory_format = reset, start, memory_format(drive)
        return spikes

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator] # torch does not annotate it
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        potentials, threshold = ctx.saved_tensors
        grad = grad.contiguous(memory_format=ctx.memory_format)
        by_drive, theta = torch.empty_like(grad), np.float32(float(threshold))
        upstream, outputs = _rows(grad, len(potentials)), _rows(by_drive, len(potentials))
        loops, shift, kept = compiled_loops(grad), shift_of(grad), potentials.numpy()

        def part(neurons: range) -> float:
            of = neurons.start, neurons.stop
            by_threshold: float = loops.window_gradients(
                kept, upstream, shift, theta, ctx.start, ctx.reset == "zero", *of, outputs
            )
            return by_threshold

        by_threshold = sum(_on_threads(part, upstream))
        return by_drive, threshold.new_tensor(by_threshold), None, None, None


def _rows(tensor: Tensor, n_steps: int) -> npt.NDArray[Any]:
    """Return the bits of each step, (steps, neurons), in the order of memory."""
    return bits(flat(tensor)).reshape(n_steps, -1)


def _on_threads(part: Callable[[range], Result], rows: npt.NDArray[Any]) -> list[Result]:
    """Return what each part of the neurons gives; the parts do not depend on the number of threads."""
    n_steps, n_neurons = rows.shape
    size = max(1, _PART // n_steps)
    parts = [range(low, min(low + size, n_neurons)) for low in range(0, n_neurons, size)]
    return side_by_side(part, parts, torch.get_num_threads())


class _Subtract(torch.autograd.Function):
    """Reset by subtraction; the potentials before the spike are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, threshold: Tensor, n_steps: int, start: float) -> Tensor:
        steps, spikes = _by_step(drive, n_steps), torch.empty_like(drive)
        potentials, output = _wide_like(steps), spikes.unflatten(0, (n_steps, -1))
        left = (threshold * start).expand_as(steps[0])
        for z, u, out in zip(steps, potentials, output, strict=True):
            torch.add(left, z, out=u)
            taken = torch.mul(u >= threshold, threshold)
            out.copy_(taken)
            left = u - taken
        ctx.save_for_backward(potentials, threshold)
        ctx.start = start
        return spikes  # no view: what comes next may change it in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients for z and θ.

        With λ the gradient for v: ∂/∂s = θ·(g − λ), ∂/∂u = λ + (g − λ)·[inside], and θ gets (g − λ)·(s − u/θ·[inside])
        of each step and λ·p of the start.
        """
        potentials, threshold = ctx.saved_tensors
        by_step = _by_step(grad, len(potentials))
        grad_drive, grad_threshold = torch.empty_like(potentials), torch.zeros_like(threshold)
        after = torch.zeros_like(potentials[0])
        for u, g, out in reversed(list(zip(potentials, by_step, grad_drive, strict=True))):
            ratio, through = u / threshold, g - after
            inside = _inside(ratio)
            grad_threshold += _dot(through, (u >= threshold).to(u.dtype).sub_(ratio.mul_(inside)))
            after = torch.add(after, through.mul_(inside), out=out)
        grad_threshold += after.sum() * ctx.start
        return grad_drive.to(grad.dtype).view_as(grad), grad_threshold, None, None


class _Zero(torch.autograd.Function):
    """Reset to zero; the potentials before the spike are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, threshold: Tensor, n_steps: int, start: float) -> Tensor:
        steps, spikes = _by_step(drive, n_steps), torch.empty_like(drive)
        potentials, output = _wide_like(steps), spikes.unflatten(0, (n_steps, -1))
        left = (threshold * start).expand_as(steps[0])
        for z, u, out in zip(steps, potentials, output, strict=True):
            torch.add(left, z, out=u)
            fired = u >= threshold
            torch.mul(fired, threshold, out=out)
            left = u.masked_fill(fired, 0.0)
        ctx.save_for_backward(potentials, threshold)
        ctx.start = start
        return spikes  # no view: what comes next may change it in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients for z and θ.

        With λ the gradient for v: ∂/∂s = θ·g − λ·u, ∂/∂u = λ·(1 − s) + ∂/∂s·[inside]/θ, and θ gets λ·p of the start.
        """
        potentials, threshold = ctx.saved_tensors
        by_step = _by_step(grad, len(potentials))
        grad_drive, grad_threshold = torch.empty_like(potentials), torch.zeros_like(threshold)
        after = torch.zeros_like(potentials[0])
        for u, g, out in reversed(list(zip(potentials, by_step, grad_drive, strict=True))):
            ratio, spikes = u / threshold, u >= threshold
            through = (g - after * ratio).mul_(_inside(ratio))
            grad_threshold += _dot(g.to(u.dtype), spikes.to(u.dtype)) - _dot(through, ratio)
            after = torch.add(after.masked_fill(spikes, 0.0), through, out=out)
        grad_threshold += after.sum() * ctx.start
        return grad_drive.to(grad.dtype).view_as(grad), grad_threshold, None, None


def _wide_like(steps: Tensor) -> Tensor:
    """Return a place for potentials: float32, also where drive and spikes are bfloat16."""
    return torch.empty_like(steps, dtype=torch.promote_types(steps.dtype, torch.float32))


def _by_step(values: Tensor, n_steps: int) -> Tensor:
    return values.reshape(n_steps, -1, *values.shape[1:])


def _inside(ratio: Tensor) -> Tensor:
    """Return 1.0 where u/θ lies on the ramp, else 0.0: a product with floats is quicker than with bools."""
    return (ratio - 1.0).abs_().le_(0.5)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
