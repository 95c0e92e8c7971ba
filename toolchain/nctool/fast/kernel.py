"""Kernels of the fast engine: a synapse as the cheapest torch operations that compute the same integers.

A chip wants the weights that conversion repeats: by folded average pooling in blocks of neurons, by replicas in
channels. Here the signals that share a weight are added up first, the distinct weights weigh the sums, and equal
channels of the result are written out last.

In: a synapse. Out: a callable on tensors. Must not import the reference engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nctool.ir.geometry import ConvGeometry, Shape
from nctool.ir.population import Synapse
from nctool.ir.repeat import Repeat

IMAGE_AXES = 4
"""(batch, channels, height, width)."""


@dataclass(frozen=True)
class Kernel:
    """One synapse, ready to run.

    Args:
        source: what it reads.
        repeat: how the weights repeat.
        weight: distinct ones, (out, in) with columns in (height, width, channel) order, or channels-last with 4 axes;
            the factor 2**exponent is in it.
        conv: geometry on the summed blocks, None for a dense synapse.
        bias: of all channels, (out * copies,), added to the weighted sum in the same pass; None for none.
        reaches: False where every weight of a convolution falls on padding.
    """

    source: str
    repeat: Repeat
    weight: Tensor
    conv: ConvGeometry | None
    bias: Tensor | None = None
    reaches: bool = True

    def __call__(self, signal: Tensor) -> Tensor:
        """Weigh (batch, *source shape) to (batch, *driven shape) (rules W1 to W3)."""
        signal = self._summed(signal)
        if self.repeat.copies_out == 1:
            return self._weigh(signal, self.bias)
        copied = self._weigh(signal, None).movedim(1, -1).repeat_interleave(self.repeat.copies_out, dim=-1)
        return (copied if self.bias is None else copied.add_(self.bias)).movedim(-1, 1)

    def _summed(self, signal: Tensor) -> Tensor:
        """Add up the signals that share a weight."""
        is_image, copies = signal.dim() == IMAGE_AXES, self.repeat.copies_in
        if is_image:
            signal = signal.contiguous(memory_format=torch.channels_last)
        if copies > 1:
            together = signal.movedim(1, -1).unflatten(-1, (-1, copies))
            signal = (together @ together.new_ones(copies)).movedim(-1, 1)  # takes half the time of `sum`
        if is_image and self.repeat.block != (1, 1):
            signal = functional.avg_pool2d(signal, self.repeat.block, divisor_override=1)
        return signal

    def _weigh(self, signal: Tensor, bias: Tensor | None) -> Tensor:
        conv = self.conv
        if conv is not None and not self.reaches:
            return self._nothing(signal, conv, bias)
        if conv is not None:
            geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
            return functional.conv2d(_plainly_laid_out(apart(signal, conv)), self.weight, bias, *geometry)
        if signal.dim() == IMAGE_AXES:
            signal = signal.permute(0, 2, 3, 1)
        return functional.linear(signal.flatten(1), self.weight, bias)

    def _nothing(self, signal: Tensor, conv: ConvGeometry, bias: Tensor | None) -> Tensor:
        """Return what a convolution of padding alone gives, on which torch 2.3's oneDNN can end in a fault."""
        kernel = (self.weight.shape[2], self.weight.shape[3])
        empty = signal.new_zeros(len(signal), len(self.weight), *conv.output_size(signal.shape[1:], kernel))
        return empty if bias is None else empty + bias[:, None, None]


def apart(signal: Tensor, conv: ConvGeometry) -> Tensor:
    """Return a signal, (batch, channels, height, width), with the zeros between its neurons that `conv` reads."""
    (rows, columns), (height, width) = conv.input_dilation, signal.shape[2:]
    if (rows, columns) == (1, 1):
        return signal
    spread = signal.new_zeros(*signal.shape[:2], rows * (height - 1) + 1, columns * (width - 1) + 1)
    spread[:, :, ::rows, ::columns] = signal
    return spread.contiguous(memory_format=torch.channels_last)


def _plainly_laid_out(signal: Tensor) -> Tensor:
    """Return a signal of one channel with the strides of a new one.

    An axis of length 1 may have any stride, and torch takes such a signal for contiguous in every layout. With some
    strides, oneDNN of torch 2.3 gives wrong sums, or ends the process.
    """
    if signal.shape[1] > 1 or signal.stride() == signal.new_empty(signal.shape, device="meta").stride():
        return signal
    return signal.clone(memory_format=torch.contiguous_format)


def kernel_of_synapse(synapse: Synapse, source: Shape, device: torch.device, dtype: torch.dtype) -> Kernel:
    """Return the kernel of `synapse` on a source of shape `source`."""
    repeat = synapse.repeat
    weight = repeat.distinct(synapse.weight, source).astype(np.int64) << synapse.exponent
    conv = None if synapse.conv is None else repeat.on_blocks(synapse.conv)
    return kernel_of_weights(synapse.source, weight, conv, source, repeat, device, dtype)


def kernel_of_weights(
    name: str,
    weight: NDArray[Any],
    conv: ConvGeometry | None,
    source: Shape,
    repeat: Repeat,
    device: torch.device,
    dtype: torch.dtype,
) -> Kernel:
    """Return the kernel of distinct weights that read `name`, of shape `source`; axes as in `Synapse`."""
    summed, reaches = repeat.summed_shape(source), True
    if conv is None and len(source) > 1:
        weight = weight.reshape(-1, *summed).transpose(0, 2, 3, 1).reshape(len(weight), -1)
    elif conv is not None:
        reaches = conv.reaches(summed, (weight.shape[2], weight.shape[3]))
    tensor = torch.from_numpy(np.ascontiguousarray(weight)).to(device, dtype)
    if conv is not None:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return Kernel(name, repeat, tensor, conv, reaches=reaches)
