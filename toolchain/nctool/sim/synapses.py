"""Synapses of the reference engine: weigh signals, in NumPy int64 (rules W1 to W4).

In: signals and synapses. Out: weighted sums. Must not import torch, nor an engine.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nctool.network import ConvGeometry, IntArray, Synapse

Int64 = NDArray[np.int64]
Numbers = TypeVar("Numbers", NDArray[np.int64], NDArray[np.float64])
"""The engine computes in int64; calibration weighs real numbers by the same two functions."""


def synaptic_input(synapse: Synapse, signal: IntArray, n_steps: int) -> Int64:
    """Weigh a signal (rules W1 to W4).

    Args:
        signal: integers (samples, n_steps, *source shape), or (samples, 1, *source shape): the same at every step.

    Returns:
        int64 (samples, n_steps, *driven shape).
    """
    if synapse.delay is None:
        weighted = _weigh(synapse, synapse.weight, signal)
        return np.broadcast_to(weighted, (len(signal), n_steps, *weighted.shape[2:]))
    total = np.zeros((len(signal), n_steps, len(synapse.weight)), np.int64)
    signal = np.broadcast_to(signal, (len(signal), n_steps, *signal.shape[2:]))
    for delay in np.unique(synapse.delay[synapse.delay < n_steps]):
        of_this_delay = np.where(synapse.delay == delay, synapse.weight, 0)
        total[:, delay:] += _weigh(synapse, of_this_delay, signal[:, : n_steps - delay])  # W4
    return total


def _weigh(synapse: Synapse, weight: IntArray, signal: IntArray) -> Int64:
    """Weigh every step of a signal by `weight` (rules W1 to W3)."""
    samples, steps = signal.shape[:2]
    flat = signal.reshape(samples * steps, *signal.shape[2:]).astype(np.int64)
    wide = weight.astype(np.int64)
    weighted = dense(flat, wide) if synapse.conv is None else convolve(flat, wide, synapse.conv)
    return shifted(weighted, synapse.exponent).reshape(samples, steps, *weighted.shape[1:])


def shifted(weighted: Int64, exponent: int) -> Int64:
    """Return weighted * 2**exponent, rounded towards minus infinity (rule W3)."""
    return weighted << exponent if exponent >= 0 else weighted >> -exponent


def dense(signal: Numbers, weight: Numbers) -> Numbers:
    """Rule W1: out[n, o] = sum_i weight[o, i] * signal[n, i], the source flattened in C order."""
    out: Numbers = np.einsum("ni,io->no", signal.reshape(len(signal), -1), np.ascontiguousarray(weight.T))
    return out


def convolve(signal: Numbers, weight: Numbers, conv: ConvGeometry) -> Numbers:
    """Rule W2: cross-correlation with zero padding, as torch.nn.functional.conv2d defines it.

    Args:
        signal: int64 (batch, channels, height, width).
        weight: int64 (out, channels / groups, kernel height, kernel width).

    Returns:
        int64 (batch, out, height, width).
    """
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = conv.padding, conv.stride, conv.dilation
    high, wide = conv.output_size(signal.shape[1:], (weight.shape[2], weight.shape[3]))
    padded = np.pad(signal, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    taps = [
        padded[:, :, gap_y * y :, gap_x * x :][:, :, : step_y * high : step_y, : step_x * wide : step_x]
        for y in range(weight.shape[2])
        for x in range(weight.shape[3])
    ]
    patches = np.stack(taps, axis=2)  # (batch, channel, tap, height, width)
    outputs = [
        dense(np.moveaxis(block, (1, 2), (3, 4)).reshape(-1, block.shape[1] * block.shape[2]), kernel)
        for block, kernel in zip(
            np.split(patches, conv.groups, axis=1),
            np.split(weight.reshape(len(weight), -1), conv.groups),
            strict=True,
        )
    ]
    return np.moveaxis(np.concatenate(outputs, axis=1).reshape(len(signal), high, wide, -1), 3, 1)
