"""Geometry, bias and neuron of a layer of a foreign netx file, within the ranges that Lava holds.

Source of the neuron: lava-dl 0.6.0, `lava/lib/dl/netx/hdf5.py` (`get_neuron_params`, `create_dense`).

In: nodes of a file. Out: values of nctool, or an error that names layer, value and limit. Must not import torch or
Lava.
"""

from __future__ import annotations

import numpy as np

from nctool.errors import FormatError, UnsupportedError
from nctool.ir.network import ConvGeometry, CurrentBased, IntArray, Pair, Shape
from nctool_deploy.foreign.foreign_file import BIAS_LIMIT
from nctool_deploy.foreign.node import ForeignNode, listed

INT8_MAX = 127
"""Geometry of a convolution is kept in 8 bits; beyond, Lava computes zeros. Source: lava-nc 0.10.0,
`lava/proc/conv/models.py`."""

CURRENT_BASED = ("LOIHI", "CUBA")
SIMULATED = "only files of current-based neurons (LOIHI, CUBA) are simulated"

LARGEST_DECAY = 2**12
LARGEST_THRESHOLD = 2**24 - 1
"""Slayer writes 2**18 - 1 for a layer that never fires; Lava shifts what it finds up by 6 bits, in 32."""


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


def read_neuron(
    node: ForeignNode | None, channels: int, where: str, *, reset_interval: int | None, latency: int
) -> CurrentBased:
    """Return the neuron of a layer.

    Args:
        node: None for a dense layer that names no neuron: it integrates and never fires.
        where: names the layer in messages.

    Raises:
        FormatError: a register is missing, out of range, or an array of another size.
        UnsupportedError: the neuron is not current-based.
    """
    if node is None:
        current, voltage = (np.full(channels, decay, np.int64) for decay in (0, LARGEST_DECAY))
        return CurrentBased(1 << 17, current, voltage, reset_interval, latency)
    kind = node.word("type")
    if kind not in CURRENT_BASED:
        raise UnsupportedError(f"{where}: neuron `{kind}`, allowed {', '.join(CURRENT_BASED)}", hint=SIMULATED)
    if "messageBits" in node:
        raise UnsupportedError(f"{where}: `messageBits`, on which the stock netx loader fails", hint="leave it out")
    current, voltage = (_decay(node, key, channels, where) for key in ("iDecay", "vDecay"))
    return CurrentBased(_threshold(node, where), current, voltage, reset_interval, latency)


def _decay(node: ForeignNode, key: str, channels: int, where: str) -> IntArray:
    """Return a decay for each channel: slayer writes one for all, or with `shared_param=False` one each."""
    values = np.atleast_1d(node.numbers(key))
    if values.shape not in ((1,), (channels,)):
        allowed = f"one number, or one for each of {channels} channels"
        raise FormatError(f"{where}: `{key}` {listed(values.shape)}, allowed {allowed}")
    for extreme in (values.min(), values.max()):
        if not 0 <= extreme <= LARGEST_DECAY:
            raise FormatError(f"{where}: `{key}` is {extreme}, allowed 0..{LARGEST_DECAY}")
    return np.broadcast_to(values, channels).astype(np.int64)


def _threshold(node: ForeignNode, where: str) -> int:
    threshold = node.number("vThMant")
    if not 0 <= threshold <= LARGEST_THRESHOLD:
        raise FormatError(f"{where}: `vThMant` is {threshold}, allowed 0..{LARGEST_THRESHOLD}")
    return threshold
