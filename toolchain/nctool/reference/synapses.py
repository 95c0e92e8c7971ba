"""Synapses of the reference engine: weigh signals, in NumPy int64 (rules W1 to W5).

In: signals and synapses. Out: weighted sums. Must not import torch, nor an engine.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nctool.ir.geometry import ConvGeometry, unfold
from nctool.ir.network import IntArray, Synapse
from nctool.ir.population import GRADED_SUM_LIMIT

Int64 = NDArray[np.int64]
Numbers = TypeVar("Numbers", NDArray[np.int64], NDArray[np.float64])
"""The engine computes in int64; calibration weighs real numbers by the same two functions."""

PATCHES = 2**22
"""Numbers that a convolution lays out at once, unless one row of one image takes more: 32 MiB, twice."""


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


def registered_input(synapse: Synapse, signal: IntArray, n_steps: int) -> tuple[Int64, int]:
    """Weigh a signal for a current-based population (rules W1 to W5).

    Args:
        signal: as for `synaptic_input`.

    Returns:
        int64 (samples, n_steps, *driven shape), and how many sums their register changed (rule O2).
    """
    is_delayed = synapse.delay is not None
    sums = synaptic_input(synapse, signal, n_steps) if is_delayed else _sums(synapse, synapse.weight, signal)
    kept = held(sums, synapse.register_bits)
    changed = int((kept != sums).sum()) * (n_steps // sums.shape[1])
    arriving = kept if is_delayed else shifted(kept, synapse.exponent)
    return np.broadcast_to(arriving, (len(signal), n_steps, *arriving.shape[2:])), changed


def graded_input(synapse: Synapse, signal: IntArray, n_steps: int) -> tuple[Int64, int]:
    """Weigh a signal for a graded population (rules W1 to W3).

    Args:
        signal: as for `synaptic_input`.

    Returns:
        int64 (samples, n_steps, *driven shape), and how many sums are beyond what is held before the shift (rule O3).
    """
    sums = _sums(synapse, synapse.weight, signal)
    beyond = int((np.abs(sums) > GRADED_SUM_LIMIT).sum()) * (n_steps // sums.shape[1])
    arriving = shifted(sums, synapse.exponent)
    return np.broadcast_to(arriving, (len(signal), n_steps, *arriving.shape[2:])), beyond


def held(values: Int64, bits: int) -> Int64:
    """Return integers as a signed register of `bits` holds them: they wrap (rule W5)."""
    half = 2 ** (bits - 1)
    kept: Int64 = (values + half) % (2 * half) - half
    return kept


def _weigh(synapse: Synapse, weight: IntArray, signal: IntArray) -> Int64:
    """Weigh every step of a signal by `weight` (rules W1 to W3)."""
    return shifted(_sums(synapse, weight, signal), synapse.exponent)


def _sums(synapse: Synapse, weight: IntArray, signal: IntArray) -> Int64:
    """Weigh every step of a signal by `weight` (rules W1 and W2)."""
    samples, steps = signal.shape[:2]
    flat = signal.reshape(samples * steps, *signal.shape[2:]).astype(np.int64)
    wide = weight.astype(np.int64)
    weighted = dense(flat, wide) if synapse.conv is None else convolve(flat, wide, synapse.conv)
    return weighted.reshape(samples, steps, *weighted.shape[1:])


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
    rows, columns = conv.places(signal.shape[1:], (weight.shape[2], weight.shape[3]))
    row = signal.shape[1] * weight[0, 0].size * len(columns)
    at_once = min(max(PATCHES // row, 1), len(rows))
    images = max(PATCHES // (row * len(rows)), 1)
    out: Numbers = np.empty((len(signal), len(weight), len(rows), len(columns)), signal.dtype)
    for first in range(0, len(signal), images):
        for top in range(0, len(rows), at_once):
            patches = unfold(signal[first : first + images], rows[top : top + at_once], columns)
            out[first : first + images, :, top : top + at_once] = _weigh_patches(patches, weight, conv.groups)
    return out


def _weigh_patches(patches: Numbers, weight: Numbers, groups: int) -> Numbers:
    """Weigh what `unfold` gives; return (batch, out, rows, columns)."""
    batch, _, rows, _, columns, _ = patches.shape
    in_order = patches.transpose(0, 2, 4, 1, 3, 5)
    outputs = [
        dense(seen.reshape(batch * rows * columns, -1), kernels.reshape(len(kernels), -1))
        for seen, kernels in zip(np.split(in_order, groups, axis=3), np.split(weight, groups), strict=True)
    ]
    return np.moveaxis(np.concatenate(outputs, axis=1).reshape(batch, rows, columns, -1), 3, 1)
