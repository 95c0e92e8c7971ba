"""Weights without their copies: what folded pooling and units repeat is rounded once.

A folded average pooling repeats a weight over a block of pixels, and units repeat channels. Copies are given the same
integers: kernels stay constant in blocks, which the fast engine relies on, and the units of an activation stay alike.

In: a FloatSynapse. Out: its weights once each, the signal that they see, and the way back. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.conversion.float_network import FloatArray, FloatSynapse
from nctool.fast.kernel import split_convolution, split_dense
from nctool.ir.network import ConvGeometry, IntArray, Pair


@dataclass(frozen=True, eq=False)
class Distinct:
    """The weights of a synapse, once each.

    Args:
        weight: float64, 4 axes where the source is an image, else (out, in).
        conv: geometry on the summed blocks; None for a dense synapse.
        block: (height, width) of the blocks of pixels that share a weight.
        copies_in, copies_out: channels of the source, and of the population, that lie side by side and are alike.
        shape: of the weight with all copies.
    """

    weight: FloatArray
    conv: ConvGeometry | None
    block: Pair
    copies_in: int
    copies_out: int
    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Return how many parts the source is split into, each read by channels of its own."""
        return 1 if self.conv is None else self.conv.groups

    def gather(self, signal: FloatArray) -> FloatArray:
        """Return the sum of the signals that share a weight: (samples, *source shape) to (samples, *smaller shape)."""
        samples, channels, *size = signal.shape
        signal = signal.reshape(samples, channels // self.copies_in, self.copies_in, *size).sum(axis=2)
        if self.block == (1, 1):
            return signal
        (high, wide), (rows, columns) = self.block, size
        tiles = signal[:, :, : rows // high * high, : columns // wide * wide]
        blocks = tiles.reshape(*tiles.shape[:2], rows // high, high, columns // wide, wide)
        summed: FloatArray = blocks.sum(axis=(3, 5))
        return summed

    def pick(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Return one copy of each weight, axes (out, in / groups, ...), of an array shaped like the synapse's."""
        copies = (self.copies_out, self.copies_in, *self.block)[: self.weight.ndim]
        full = weight.reshape([size * number for size, number in zip(self.weight.shape, copies, strict=True)])
        return full[tuple(slice(None, None, number) for number in copies)]

    def spread(self, rounded: IntArray) -> IntArray:
        """Return integers (out, in) of the distinct weights with all copies, shaped like the synapse's weight."""
        copied = rounded.reshape(self.weight.shape)
        for axis, copies in enumerate((self.copies_out, self.copies_in, *self.block)[: copied.ndim]):
            copied = np.repeat(copied, copies, axis=axis)
        return copied.reshape(self.shape)


def distinct(synapse: FloatSynapse, copies_in: int, copies_out: int) -> Distinct:
    """Find the weights of `synapse` that are copies of another one.

    Args:
        copies_in: units of the source.
        copies_out: units of the population that is driven.
    """
    weight, conv, block, source = synapse.weight[::copies_out], synapse.conv, (1, 1), synapse.source_shape
    if conv is None and len(source) == 1:
        weight = weight[:, ::copies_in]
    elif conv is None:
        weight, block = split_dense(weight.reshape(-1, *source)[:, ::copies_in])
    else:
        weight, conv, block = split_convolution(weight[:, ::copies_in], conv, source)
    return Distinct(weight, conv, block, copies_in, copies_out, synapse.weight.shape)
