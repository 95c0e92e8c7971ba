"""Values of a foreign netx file within the ranges that Lava holds: geometry, bias, the transform of an input block.

In: nodes of a file. Out: values of nctool, or an error that names layer, value and limit. Must not import torch or
Lava.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError, RangeError
from nctool.ir.network import ConvGeometry, IntArray, Pair, Shape
from nctool_deploy.foreign.node import ForeignNode, listed

INT8_MAX = 127
"""Geometry of a convolution is kept in 8 bits; beyond, Lava computes zeros. Source: lava-nc 0.10.0,
`lava/proc/conv/models.py`."""

BIAS_LIMIT = 2**15
"""Lava keeps bias mantissas in 16 bits, beyond them they wrap. Source: lava-nc 0.10.0, `lava/proc/lif/models.py`."""


@dataclass(frozen=True)
class Transform:
    """How an input block turns a real number x, usually -1 .. 1, into a bias: weight * x + bias, towards zero."""

    weight: int
    bias: int

    def apply(self, values: NDArray[np.generic]) -> IntArray:
        """Return the bias mantissas of real samples, which must be finite.

        Raises:
            RangeError: a bias does not fit.
        """
        real = self.weight * values.astype(np.float64) + self.bias
        largest = np.abs(real).max()
        if largest >= BIAS_LIMIT:
            raise RangeError(f"input: a bias of {largest:g}, allowed below {BIAS_LIMIT}")
        return real.astype(np.int64)


def read_geometry(node: ForeignNode, weight: IntArray, where: str) -> ConvGeometry:
    """Return how a kernel moves; a FormatError says what Lava cannot hold."""
    stride, padding, dilation = (_pair(node.few(key, (1, 2))) for key in ("stride", "padding", "dilation"))
    groups = node.number("groups")
    kernel = weight.shape[2:]
    sizes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": (groups,), "kernel": kernel}
    for key, size in sizes.items():
        lowest = 0 if key == "padding" else 1
        if min(size) < lowest or max(size) > INT8_MAX:
            raise FormatError(f"{where}: {key} {size}, allowed {lowest}..{INT8_MAX}, what Lava holds in 8 bits")
    if len(weight) % groups:
        raise FormatError(f"{where}: {len(weight)} channels in {groups} groups")
    return ConvGeometry(stride, padding, dilation, groups)


def _pair(values: tuple[int, ...]) -> Pair:
    return values[0], values[-1]


def read_bias(node: ForeignNode, shape: Shape, where: str) -> IntArray:
    """Return the bias of each channel, 0 where the file has none; a FormatError says what does not fit."""
    if "bias" not in node:
        return np.zeros(shape[0], np.int64)
    bias = node.numbers("bias")
    if bias.shape != (shape[0],):
        raise FormatError(f"{where}: bias {listed(bias.shape)}, allowed one for each of {shape[0]} channels")
    if np.abs(bias).max() >= BIAS_LIMIT:
        raise FormatError(f"{where}: bias {bias[np.abs(bias).argmax()]}, allowed below {BIAS_LIMIT}")
    return bias
