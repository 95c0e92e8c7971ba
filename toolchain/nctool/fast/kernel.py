"""Kernels of the fast engine: a synapse as the cheapest operations that compute the same integers.

A chip wants the weights that conversion repeats: by folded average pooling in blocks of neurons, by replicas in
channels. Here the signals that share a weight are added up first, the distinct weights weigh the sums, and equal
channels of the result are written out last. Weights are in floating point, or in 8 bits where `integer_weights` says
that this is exact.

In: a synapse. Out: a callable on tensors. Must not import the reference engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nctool.fast.choice import FLOAT, Choice
from nctool.fast.integer_weights import IntegerWeights, may_weigh
from nctool.fast.products import convolve
from nctool.ir.geometry import ConvGeometry, Pair, Shape
from nctool.ir.population import Synapse
from nctool.ir.repeat import Repeat

IMAGE_AXES = 4
"""(batch, channels, height, width)."""


@dataclass(frozen=True)
class FloatWeights:
    """Distinct weights in floating point.

    Args:
        values: (out, in) with columns in (height, width, channel) order, or channels-last with 4 axes; the factor
            2**exponent is in them.
        conv: geometry on the summed blocks, None for dense weights.
        reaches: False where every weight of a convolution falls on padding.
        products: whether convolutions are matrix products.
    """

    values: Tensor
    conv: ConvGeometry | None
    reaches: bool = True
    products: bool = False

    @property
    def shape(self) -> Shape:
        """Return the shape of the weights."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of what they weigh, and of the sums."""
        return self.values.dtype

    @property
    def name(self) -> str:
        """Return what the kernels are called."""
        return str(self.dtype).removeprefix("torch.")

    def __call__(self, signal: Tensor, bias: Tensor | None) -> Tensor:
        """Weigh (batch, *source), its neurons apart, to (batch, *driven) and add a bias, (out,)."""
        conv = self.conv
        if conv is None:
            return functional.linear(signal, self.values, bias)
        if not self.reaches:
            return self._nothing(signal, conv, bias)
        if self.products:
            return convolve(signal, self.values, bias, conv)
        geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
        return functional.conv2d(signal, self.values, bias, *geometry)

    def _nothing(self, signal: Tensor, conv: ConvGeometry, bias: Tensor | None) -> Tensor:
        """Return what a convolution of padding alone gives, on which torch 2.3's oneDNN can end in a fault."""
        kernel, as_it_is = (self.values.shape[2], self.values.shape[3]), replace(conv, input_dilation=(1, 1))
        empty = signal.new_zeros(len(signal), len(self.values), *as_it_is.output_size(signal.shape[1:], kernel))
        return empty if bias is None else empty + bias[:, None, None]


@dataclass(frozen=True)
class Kernel:
    """One synapse, ready to run.

    Args:
        source: what it reads.
        repeat: how the weights repeat.
        weights: distinct ones.
        bias: of all channels, (out * copies,), added to the weighted sum in the same pass; None for none.
        fused: whether compiled loops add up bytes.
    """

    source: str
    repeat: Repeat
    weights: FloatWeights | IntegerWeights
    bias: Tensor | None = None
    fused: bool = False

    def __call__(self, signal: Tensor) -> Tensor:
        """Weigh (batch, *source shape) to (batch, *driven shape) (rules W1 to W3)."""
        weighed = self.distinct(signal)
        if self.repeat.copies_out == 1:
            return weighed
        copied = weighed.movedim(1, -1).repeat_interleave(self.repeat.copies_out, dim=-1)
        return (copied if self.bias is None else copied.add_(self.bias)).movedim(-1, 1)

    def distinct(self, signal: Tensor) -> Tensor:
        """Weigh a signal, but of equal channels give one, (batch, *distinct), and no bias where there are such."""
        signal = self._summed(signal.to(self.weights.dtype))
        if self.weights.conv is None:
            signal = (signal.permute(0, 2, 3, 1) if signal.dim() == IMAGE_AXES else signal).flatten(1)
        else:
            signal = _plainly_laid_out(apart(signal, self.weights.conv))
        return self.weights(signal, self.bias if self.repeat.copies_out == 1 else None)

    def _summed(self, signal: Tensor) -> Tensor:
        """Add up the signals that share a weight."""
        if signal.dim() == IMAGE_AXES:
            signal = signal.contiguous(memory_format=torch.channels_last)
        if self.repeat.copies_in == 1 and self.repeat.block == (1, 1):
            return signal
        if signal.dtype != torch.uint8:
            return _float_sums(signal, self.repeat)
        return _byte_sums(signal, self.repeat) if self.fused else _float_sums(signal.float(), self.repeat).byte()


def _float_sums(signal: Tensor, repeat: Repeat) -> Tensor:
    copies = repeat.copies_in
    if copies > 1:
        together = signal.movedim(1, -1).unflatten(-1, (-1, copies))
        signal = (together @ together.new_ones(copies)).movedim(-1, 1)  # takes half the time of `sum`
    if repeat.block != (1, 1):
        signal = functional.avg_pool2d(signal, repeat.block, divisor_override=1)
    return signal


def _byte_sums(signal: Tensor, repeat: Repeat) -> Tensor:
    """Add up bytes, in (batch, channels, height, width) with the channels last, or in (batch, channels)."""
    from nctool.fast.fused import add_blocks

    places = signal.permute(0, 2, 3, 1) if signal.dim() == IMAGE_AXES else signal[:, None, None]
    (high, wide), copies, (images, rows, columns, channels) = repeat.block, repeat.copies_in, places.shape
    sums = torch.empty((images, rows // high, columns // wide, channels // copies), dtype=torch.uint8)
    add_blocks(places.contiguous().numpy(), high, wide, copies, sums.numpy())
    return sums.permute(0, 3, 1, 2) if signal.dim() == IMAGE_AXES else sums.flatten(1)


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
    _, channels, height, width = signal.shape
    if channels > 1 or signal.stride() == (height * width, height * width, width, 1):
        return signal
    return signal.clone(memory_format=torch.contiguous_format)


def kernel_of_synapse(
    synapse: Synapse,
    source: Shape,
    device: torch.device,
    dtype: torch.dtype,
    *,
    choice: Choice = FLOAT,
    signal: Pair = (0, 1),
) -> Kernel:
    """Return the kernel of `synapse` on a source of shape `source`.

    Args:
        dtype: float type that holds every sum exactly.
        choice: the kernels that may be used.
        signal: the smallest and the largest value that the source sends.
    """
    repeat = synapse.repeat
    weight = repeat.distinct(synapse.weight, source).astype(np.int64)
    conv = None if synapse.conv is None else repeat.on_blocks(synapse.conv)
    copies = repeat.copies_in * repeat.block[0] * repeat.block[1]
    sums = (signal[0] * copies, signal[1] * copies)
    fits = choice.integer and dtype == torch.float32
    if fits and may_weigh(weight, sums, conv, repeat.summed_shape(source)):
        columns = _in_columns(weight, conv, source, repeat)
        weights = IntegerWeights.prepare(columns, synapse.exponent, conv, signed=signal[0] < 0)
        return Kernel(synapse.source, repeat, weights, fused=choice.fused)
    integers = weight << synapse.exponent
    return kernel_of_weights(synapse.source, integers, conv, source, repeat, device, dtype, products=choice.products)


def kernel_of_weights(
    name: str,
    weight: NDArray[Any],
    conv: ConvGeometry | None,
    source: Shape,
    repeat: Repeat,
    device: torch.device,
    dtype: torch.dtype,
    *,
    products: bool = False,
) -> Kernel:
    """Return the kernel of distinct weights that read `name`, of shape `source`; axes as in `Synapse`."""
    columns = _in_columns(weight, conv, source, repeat)
    values, reaches = torch.from_numpy(np.ascontiguousarray(columns)).to(device, dtype), True
    if conv is not None:
        values = values.contiguous(memory_format=torch.channels_last)
        reaches = conv.reaches(repeat.summed_shape(source), (weight.shape[2], weight.shape[3]))
    return Kernel(name, repeat, FloatWeights(values, conv, reaches, products))


def _in_columns(weight: NDArray[Any], conv: ConvGeometry | None, source: Shape, repeat: Repeat) -> NDArray[Any]:
    """Return dense weights with columns in the order in which torch lays out an image with the channels last."""
    if conv is not None or len(source) == 1:
        return weight
    by_place = weight.reshape(-1, *repeat.summed_shape(source))
    return by_place.transpose(0, 2, 3, 1).reshape(len(weight), -1)
