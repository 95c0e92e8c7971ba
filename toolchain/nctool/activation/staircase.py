"""The arithmetic of the noisy quantised activation: its values, its noise and its gradients.

In: pre-activations, θ, the levels L, the noise. Out: activations, differentiable in the pre-activations and θ. The
module that is trained is in `noisy_quant`.

Beside its output, one byte an element is kept for the backward pass. This *code* says whether the pre-activation lay
below 0, inside, or above θ; if inside, it says how far it was rounded. The work is done in blocks that stay in the
cache, because the main memory is slower. On a CPU, `loops` does all of a block at once; where it cannot, torch does the
same step by step. Both give the same bits. On a GPU, `gpu_kernels` does all at once, where these kernels were found to
do what torch does, but for other noise and the rounding of quotients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nctool.activation.gaussian import keys, normal_numbers
from nctool.activation.gpu_trial import kernels_for
from nctool.activation.memory import bits, compiled_loops, dense, flat, memory_format, shift_of
from nctool.activation.surrogate import Reset
from nctool.threads import side_by_side

_CPU_BLOCK = 1 << 18
"""Elements worked on at once: one megabyte of float32 for each array."""
_DEVICE_BLOCK = 1 << 24
"""The same on an accelerator: few launches, and little memory beside the output."""
_LARGEST = 126
"""Codes −126..126 are inside, 0 ≤ z ≤ θ, in proportion to the rounding error; −127 is below, 127 above."""
_OUTSIDE = 127
_SEEDS = 2**31
"""Seeds that the kernels of a GPU know."""


@dataclass(frozen=True)
class Rows:
    """The rows of a batch that one of several processes computes.

    Attributes:
        first: the row of the batch that the first of them is.
        count: how many they are.
        of: rows of the batch.
    """

    first: int
    count: int
    of: int


@dataclass(frozen=True)
class Noise:
    """Gaussian noise that an activation adds; a row of a batch has the same whoever computes it.

    Attributes:
        sigma: σ > 0, shape (), on the device of the activation.
        rows: those that the activation has; None for all.
    """

    sigma: Tensor
    rows: Rows | None = None


def activate(z: Tensor, threshold: Tensor, levels: int, reset: Reset, noise: Noise | None) -> Tensor:
    """Return q(z) + σ·ε, with the gradients ∂q/∂z = [0 ≤ z/θ ≤ 1] and ∂q/∂θ = q/θ − z/θ·[0 ≤ z/θ ≤ 1].

    The second is the rounding error inside the range, 0 below and 1 above. Inside it is known to 1/252 of its largest
    value, with reset "subtract" that is to 1/504 of a level. Everything else is exact.

    The seed of the noise is drawn from torch's global generator; on a CPU `gaussian` says what comes of it, on an
    accelerator torch draws.

    Args:
        z: float pre-activations of any shape.
        threshold: θ, shape (), on the same device.
        levels: L.
        reset: which staircase q is.
        noise: None draws nothing.

    Returns:
        activations of z's shape and type; computed in float32 or wider.
    """
    if torch.is_grad_enabled():
        return cast(Tensor, _NoisyStaircase.apply(z, threshold, levels, reset, noise))  # type: ignore[no-untyped-call]
    return _forward(z, threshold, levels, reset, noise, code=None)


class _NoisyStaircase(torch.autograd.Function):
    """`activate` as one node of the graph that keeps nothing but the codes."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, levels: int, reset: Reset, noise: Noise | None) -> Tensor:
        z = dense(z)
        code = torch.empty_like(z, dtype=torch.int8)
        ctx.save_for_backward(code)
        ctx.scale, ctx.kind = _scale(levels, reset), threshold.dtype
        return _forward(z, threshold, levels, reset, noise, code)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator] # torch does not annotate it
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (code,) = ctx.saved_tensors
        grad = grad.contiguous(memory_format=memory_format(code))
        by_input = torch.empty_like(grad)
        gradients = _gradients_by_torch
        if compiled_loops(grad):
            gradients = _gradients_by_loops
        elif kernels_for(grad):
            gradients = _gradients_by_kernels
        return by_input, gradients(code, grad, by_input, ctx.scale).to(ctx.kind), None, None, None


def _gradients_by_loops(code: Tensor, grad: Tensor, by_input: Tensor, scale: float) -> Tensor:
    """Fill the gradient for z, and return that for θ."""
    loops, shift, unit = compiled_loops(grad), shift_of(grad), np.float32(1.0 / scale)

    def part(of: tuple[Tensor, ...]) -> float:
        codes, upstream, out = of
        by_threshold: float = loops.staircase_gradients(codes.numpy(), bits(upstream), shift, unit, bits(out))
        return by_threshold

    parts = side_by_side(part, list(_blocks(code, grad, by_input)), torch.get_num_threads())
    return torch.tensor(sum(parts), dtype=torch.float64)


def _gradients_by_kernels(code: Tensor, grad: Tensor, by_input: Tensor, scale: float) -> Tensor:
    """Do as `_gradients_by_loops`, in one pass on a GPU."""
    by_threshold: Tensor = kernels_for(grad).gradients(flat(code), flat(grad), flat(by_input), scale)
    return by_threshold


def _gradients_by_torch(code: Tensor, grad: Tensor, by_input: Tensor, scale: float) -> Tensor:
    """Do as `_gradients_by_loops`."""
    by_error, by_height = [grad.new_zeros(())], [grad.new_zeros(())]
    for codes, upstream, out in _blocks(code, grad, by_input):
        place = codes.to(grad.dtype)
        torch.mul(upstream, place.abs().lt_(_OUTSIDE), out=out)  # lt_ gives floats: bools are several times slower
        by_error.append(torch.dot(out, place))
        by_height.append(torch.dot(upstream, place.gt_(_LARGEST)))
    return torch.stack(by_error).sum() / scale + torch.stack(by_height).sum()


def _forward(
    z: Tensor, threshold: Tensor, levels: int, reset: Reset, noise: Noise | None, code: Tensor | None
) -> Tensor:
    """Return the activations, and write the codes if there is a place for them."""
    z, threshold = dense(z), threshold.detach()
    output = torch.empty_like(z)
    fill: Callable[..., None] = _fill_by_torch
    if compiled_loops(z):
        fill = _fill_by_loops
    elif kernels_for(z) and reset == "subtract" and threshold.dtype == torch.float32:
        fill = _fill_by_kernels
    fill(z, threshold, levels, reset, noise, output, code)
    return output


def _fill_by_loops(
    z: Tensor,
    threshold: Tensor,
    levels: int,
    reset: Reset,
    noise: Noise | None,
    output: Tensor,
    code: Tensor | None,
) -> None:
    loops, shift, scale = compiled_loops(z), shift_of(z), np.float32(_scale(levels, reset))
    theta = np.float32(float(threshold))
    numbers = np.array([theta, theta / np.float32(levels), scale / theta, scale], np.float32)
    sigma = np.float32(0.0 if noise is None else float(noise.sigma))
    key, other_key = keys(0 if noise is None else _drawn_seed())
    first = 0 if noise is None else _first_place(z, noise)
    no_codes = np.empty(0, np.int8)

    def part(of: tuple[int, tuple[Tensor, ...]]) -> None:
        low, (inputs, out, *codes) = of
        written = codes[0].numpy() if codes else no_codes
        place, to_zero = first + low, reset == "zero"
        loops.staircase(bits(inputs), shift, numbers, levels, to_zero, sigma, key, other_key, place, bits(out), written)

    side_by_side(part, _placed(z, output, code), torch.get_num_threads())


def _fill_by_kernels(
    z: Tensor,
    threshold: Tensor,
    levels: int,
    reset: Reset,
    noise: Noise | None,
    output: Tensor,
    code: Tensor | None,
) -> None:
    """Do as `_fill_by_loops`, in one pass on a GPU."""
    drawn = None
    if noise is not None:
        drawn = noise.sigma.float(), _drawn_seed() % _SEEDS, _first_place(z, noise)
    codes = None if code is None else flat(code)
    kernels_for(z).staircase(flat(z), threshold, levels, _scale(levels, reset), drawn, flat(output), codes)


def _fill_by_torch(
    z: Tensor,
    threshold: Tensor,
    levels: int,
    reset: Reset,
    noise: Noise | None,
    output: Tensor,
    code: Tensor | None,
) -> None:
    """Do as `_fill_by_loops`; a wider type than float32 is computed in itself."""
    wide = torch.promote_types(output.dtype, torch.float32)
    threshold, on_cpu = threshold.to(wide), z.device.type == "cpu" and not torch.compiler.is_compiling()
    quantise = _rounded if reset == "subtract" else _spike_share
    seed, first = 0, 0
    if noise is not None and on_cpu:
        seed, first = _drawn_seed(), _first_place(z, noise)
    elif noise is not None:
        _draw(output, noise)
    for low, (block, out, *codes) in _placed(z, output, code):
        inputs = block.to(wide)
        ratio = inputs / threshold
        clipped = ratio.clamp(0.0, 1.0)
        values = quantise(inputs, clipped, threshold, levels)
        if codes:
            codes[0].copy_(_code(ratio, clipped, values, threshold, _scale(levels, reset)))
        if noise is not None:
            drawn = torch.from_numpy(normal_numbers(seed, first + low, len(out))) if on_cpu else out
            values = values.add_(drawn * noise.sigma.to(wide))
        out.copy_(values)


def _draw(output: Tensor, noise: Noise) -> None:
    """Fill activations with ε on an accelerator, whose own generator is quick there."""
    rows = noise.rows
    if rows is None or not rows.count:
        output.normal_()
        return
    a_row = len(output) // rows.count
    whole = torch.empty(rows.of * a_row, *output.shape[1:], dtype=output.dtype, device=output.device)
    whole = whole.contiguous(memory_format=memory_format(output)).normal_()
    output.copy_(whole[rows.first * a_row :][: len(output)])


def _drawn_seed() -> int:
    return int(torch.randint(2**63 - 1, ()))


def _first_place(z: Tensor, noise: Noise) -> int:
    """Return the place of the first element in the noise of the whole batch."""
    rows = noise.rows
    return rows.first * (z.numel() // rows.count) if rows is not None and rows.count else 0


def _code(ratio: Tensor, clipped: Tensor, values: Tensor, threshold: Tensor, scale: float) -> Tensor:
    """Return scale · (q − clip(z, 0, θ))/θ inside, −127 below and 127 above, as whole floats; takes `ratio` for it."""
    side = ratio.sub_(clipped).sign_()
    error = torch.mul(values, _quotient(scale, threshold)).sub_(clipped * scale).add_(0.5).floor_()
    return error.masked_fill_(side != 0, 0.0).add_(side, alpha=_OUTSIDE)


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
    return _quotient(n_steps, steps_a_spike).floor_().mul_(1.0 / n_steps).mul_(threshold)


def _quotient(number: float, divisor: Tensor) -> Tensor:
    """Return a true quotient, exact where nothing remains: torch multiplies a Python number by the reciprocal."""
    return divisor.new_full((), number) / divisor


def _placed(z: Tensor, output: Tensor, code: Tensor | None) -> list[tuple[int, tuple[Tensor, ...]]]:
    """Return blocks of the tensors with the place of their first element."""
    blocks = _blocks(z, output, *(() if code is None else (code,)))
    return [(number * _block_size(z), block) for number, block in enumerate(blocks)]


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield flat parts of equally laid out tensors, side by side."""
    size, vectors = _block_size(tensors[0]), tuple(map(flat, tensors))
    if tensors[0].numel() <= size:
        return iter([vectors])
    return zip(*(vector.split(size) for vector in vectors), strict=True)


def _block_size(tensor: Tensor) -> int:
    return _CPU_BLOCK if tensor.device.type == "cpu" else _DEVICE_BLOCK
