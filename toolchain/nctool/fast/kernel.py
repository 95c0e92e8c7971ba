"""Kernels of the fast engine: a synapse as the cheapest torch operations that compute the same integers.

Conversion folds average pooling into the next weights, as a chip wants it. A kernel that is constant in blocks of
p x p pixels, and moves by multiples of p, is the same as the sum over each block followed by a kernel p x p times
smaller; which is what is computed here.

In: a synapse. Out: a callable on tensors. Must not import the reference engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nctool.ir.network import ConvGeometry, IntArray, Pair, Shape, Synapse

IMAGE_AXES = 4
"""(batch, channels, height, width)."""

Weight = TypeVar("Weight", IntArray, NDArray[np.float64])
"""The engine splits integers; conversion splits real weights by the same functions, and rounds what is left."""


@dataclass(frozen=True)
class Kernel:
    """One synapse, ready to run.

    Args:
        source: what it reads.
        block: (height, width) of the blocks that are summed first; (1, 1) for none.
        weight: (out, in) with columns in (height, width, channel) order, or channels-last with 4 axes; the factor
            2**exponent is in it.
        conv: geometry on the summed blocks, None for a dense synapse.
        bias: (out,), added to the weighted sum in the same pass; None for none.
        reaches: False where every weight of a convolution falls on padding.
    """

    source: str
    block: Pair
    weight: Tensor
    conv: ConvGeometry | None
    bias: Tensor | None = None
    reaches: bool = True

    def __call__(self, signal: Tensor) -> Tensor:
        """Weigh (batch, *source shape) to (batch, *driven shape) (rules W1 to W3)."""
        if signal.dim() == IMAGE_AXES:
            signal = signal.contiguous(memory_format=torch.channels_last)
            if self.block != (1, 1):
                signal = functional.avg_pool2d(signal, self.block, divisor_override=1)
        conv = self.conv
        if conv is not None and not self.reaches:
            return self._nothing(signal, conv)
        if conv is not None:
            geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
            return functional.conv2d(signal, self.weight, self.bias, *geometry)
        if signal.dim() == IMAGE_AXES:
            signal = signal.permute(0, 2, 3, 1)
        return functional.linear(signal.flatten(1), self.weight, self.bias)

    def _nothing(self, signal: Tensor, conv: ConvGeometry) -> Tensor:
        """Return what a convolution of padding alone gives, on which torch 2.3's oneDNN can end in a fault."""
        kernel = (self.weight.shape[2], self.weight.shape[3])
        empty = signal.new_zeros(len(signal), len(self.weight), *conv.output_size(signal.shape[1:], kernel))
        return empty if self.bias is None else empty + self.bias[:, None, None]


def make_kernel(synapse: Synapse, source: Shape, device: torch.device, dtype: torch.dtype) -> Kernel:
    """Return the kernel of `synapse` on a source of shape `source`."""
    return kernel_of(
        synapse.source, synapse.weight.astype(np.int64) << synapse.exponent, synapse.conv, source, device, dtype
    )


def kernel_of(
    name: str, weight: Weight, conv: ConvGeometry | None, source: Shape, device: torch.device, dtype: torch.dtype
) -> Kernel:
    """Return the kernel of weights that read `name`, of shape `source`; axes as in `Synapse`."""
    block, reaches = (1, 1), True
    if conv is None and len(source) > 1:
        weight, block = split_dense(weight.reshape(-1, *source))
        weight = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    elif conv is not None:
        reaches = conv.reaches(source, (weight.shape[2], weight.shape[3]))
        weight, conv, block = split_convolution(weight, conv, source)
    tensor = torch.from_numpy(np.ascontiguousarray(weight)).to(device, dtype)
    if conv is not None:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return Kernel(name, block, tensor, conv, reaches=reaches)


def split_convolution(weight: Weight, conv: ConvGeometry, source: Shape) -> tuple[Weight, ConvGeometry, Pair]:
    """Return a smaller kernel, its geometry, and the blocks to sum before it; unchanged with (1, 1) if there are none.

    Padding must be whole blocks that no pixel shares: it may only be used where the blocks tile the source.
    """
    if conv.dilation != (1, 1):
        return weight, conv, (1, 1)
    block = [1, 1]
    for axis in (0, 1):
        sizes = (weight.shape[2 + axis], conv.stride[axis], conv.padding[axis])
        for size in range(min(sizes[:2]), 1, -1):
            tiles = conv.padding[axis] == 0 or source[1 + axis] % size == 0
            if tiles and not any(s % size for s in sizes) and is_constant(weight, 2 + axis, size):
                block[axis] = size
                break
    high, wide = block
    geometry = ConvGeometry(
        stride=(conv.stride[0] // high, conv.stride[1] // wide),
        padding=(conv.padding[0] // high, conv.padding[1] // wide),
        groups=conv.groups,
    )
    return weight[:, :, ::high, ::wide], geometry, (high, wide)


def split_dense(weight: Weight) -> tuple[Weight, Pair]:
    """Return weights (out, channels, height, width) on summed blocks, and the size of the blocks."""
    block = [1, 1]
    for axis in (0, 1):
        size = weight.shape[2 + axis]
        divisors = (d for d in range(size, 1, -1) if size % d == 0)
        block[axis] = next((d for d in divisors if is_constant(weight, 2 + axis, d)), 1)
    return weight[:, :, :: block[0], :: block[1]], (block[0], block[1])


def is_constant(weight: IntArray | NDArray[np.float64], axis: int, size: int) -> bool:
    """Return True when `weight` is constant over consecutive blocks of `size` along `axis`."""
    lines = np.moveaxis(weight, axis, 0)
    others = (lines[offset::size] for offset in range(1, size))
    return all(np.array_equal(other, lines[::size][: len(other)]) for other in others)
