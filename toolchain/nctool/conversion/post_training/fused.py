"""Loops over what neurons send for drives that are given, compiled by Numba when this module is imported.

A channel's drives stay in the nearest cache while all its thresholds are tried.

In: NumPy arrays. Out: arrays that the caller gives. Importing this fails as `nctool.fast.fused` does, so ask
`nctool.compiled` first. Must not import torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@njit(nogil=True)
def _count(
    drive: Floats, threshold: Any, starts: Floats, clears: bool, potential: Floats, some: Floats, total: Floats
) -> None:
    """Count into `total`, (windows,), how often the neurons of one channel fire; a maximum takes some together.

    Args:
        drive: (steps, together, windows).
        starts: (replicas,).
        clears: a spike sets the potential to 0.
        potential: (together, windows), is written over.
        some: (windows,), is written over.
    """
    n_steps, together, windows = drive.shape
    for place in range(windows):
        total[place] = np.float32(0)
    for start in starts:
        for one in range(together):
            for place in range(windows):
                potential[one, place] = start
        for step in range(n_steps):
            for place in range(windows):
                some[place] = np.float32(0)
            for one in range(together):
                arriving, held = drive[step, one], potential[one]
                for place in range(windows):
                    value = held[place] + arriving[place]
                    fires = value >= threshold
                    left = np.float32(0) if clears else value - threshold
                    held[place] = left if fires else value
                    some[place] = np.float32(1) if fires else some[place]
            for place in range(windows):
                total[place] += some[place]


@njit("void(f4[:,:,:,::1], f4[:,::1], f4[:,::1], f4[:,:,::1], f4[:,::1], b1, f8[:,::1])", nogil=True, cache=True)
def squared_errors(
    drive: Floats, wanted: Floats, threshold: Floats, starts: Floats, worth: Floats, clears: bool, errors: Doubles
) -> None:
    """Sum up the squared errors of what the neurons of each channel send, for all candidates.

    Args:
        drive: (channels, steps, together, windows).
        wanted: (channels, windows).
        threshold: (channels, candidates).
        starts: (channels, candidates, replicas).
        worth: of one spike, (channels, candidates).
        clears: a spike sets the potential to 0.
        errors: (channels, candidates), is filled; of squares in single, summed up in double precision.
    """
    channels, _, together, windows = drive.shape
    potential, some = np.empty((together, windows), np.float32), np.empty(windows, np.float32)
    total = np.empty(windows, np.float32)
    for channel in range(channels):
        for candidate in range(threshold.shape[1]):
            each, spike = threshold[channel, candidate], worth[channel, candidate]
            _count(drive[channel], each, starts[channel, candidate], clears, potential, some, total)
            squares: Any = 0.0
            for place in range(windows):
                gap = total[place] * spike - wanted[channel, place]
                squares += np.float64(gap * gap)
            errors[channel, candidate] = squares


@njit("void(f4[:,:,:,::1], f4[::1], f4[:,::1], b1, f4[:,::1])", nogil=True, cache=True)
def spike_counts(drive: Floats, threshold: Floats, starts: Floats, clears: bool, total: Floats) -> None:
    """Count how often the neurons of each channel fire.

    Args:
        drive: (channels, steps, together, windows).
        threshold: (channels,).
        starts: (channels, replicas).
        clears: a spike sets the potential to 0.
        total: (channels, windows), is filled.
    """
    channels, _, together, windows = drive.shape
    potential, some = np.empty((together, windows), np.float32), np.empty(windows, np.float32)
    for channel in range(channels):
        _count(drive[channel], threshold[channel], starts[channel], clears, potential, some, total[channel])
