"""Loops over neurons that do in one pass what torch does in several, compiled by Numba when this module is imported.

Numba keeps the machine code in a cache on disk: the first import on a computer takes seconds, later ones a fraction of
one. The loops let other threads run.

In: NumPy arrays. Out: arrays that the caller gives, and counts. Importing this raises an ImportError where Numba is
missing, and a RuntimeError where there is no place for its cache. Must not import torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Number = np.floating[Any] | float

START, BIAS, TAKEN = range(3)
"""Rows of the numbers of neurons."""


@njit(nogil=True)
def _copied(values: Floats, copies: int, out: Floats) -> Floats:
    """Write every value so many times side by side into `out`, and return what was written."""
    for copy in range(copies):
        for place in range(len(values)):
            out[place * copies + copy] = values[place]
    return out[: len(values) * copies]


@njit(nogil=True)
def _put(numbers: Bytes, put: Bytes) -> None:
    """Replace the first of some numbers; Numba's own assignment of slices takes ten times as long."""
    for place in range(len(put)):
        numbers[place] = put[place]


@njit(nogil=True)
def _add(total: Bytes, added: Bytes) -> None:
    """Add to the first of some numbers, in place."""
    for place in range(len(added)):
        total[place] += added[place]


@njit("UniTuple(i8, 2)(f4[:,::1], f4[:,::1], f4, f4, i8, u1[:,::1])", nogil=True, cache=True)
def fire(drive: Floats, numbers: Floats, kept: Number, limit: Number, copies: int, spikes: Bytes) -> tuple[int, int]:
    """Step neurons through a window: integrate, fire, reset (rules S1 to S3); count spikes and overflows (rule O1).

    Neurons lie one behind the other, the channels of a place side by side. Potentials are shifted so that a neuron
    fires above 0.

    Args:
        drive: (steps, neurons / copies); of one step where it is the same at every step.
        numbers: (3, tile): the start, the bias, and what a spike takes off, of the first neurons; all others have the
            same again and again. The tile is a multiple of the channels.
        kept: of the potential at a spike: 1, or 0 where a spike clears it.
        limit: an accumulated input of a larger magnitude is counted.
        copies: neurons side by side that each drive reaches.
        spikes: (steps, neurons), is filled with 0 and 1.

    Returns:
        the number of spikes, and of accumulated inputs beyond the limit.
    """
    n_steps, n_neurons = spikes.shape
    tile = numbers.shape[1]
    start, bias, taken = numbers[START], numbers[BIAS], numbers[TAKEN]
    potential, spread = np.empty(tile, np.float32), np.empty(tile, np.float32)
    fired = beyond = 0
    for low in range(0, n_neurons, tile):
        size = min(tile, n_neurons - low)
        for place in range(size):
            potential[place] = start[place]
        for step in range(n_steps):
            arriving = drive[min(step, len(drive) - 1), low // copies : (low + size) // copies]
            if copies > 1:
                arriving = _copied(arriving, copies, spread)
            out = spikes[step, low : low + size]
            some_fired: Any = np.int32(0)  # 32 bits: twice as many at a time as Numba's own 64
            some_beyond: Any = np.int32(0)
            for place in range(size):
                value = potential[place] + (arriving[place] + bias[place])
                fires = value > np.float32(0)
                out[place] = fires
                potential[place] = value * kept - taken[place] if fires else value
                some_fired = np.int32(some_fired + fires)
                some_beyond = np.int32(some_beyond + (abs(value - start[place]) > limit))
            fired += some_fired
            beyond += some_beyond
    return fired, beyond


@njit("void(f4[:,::1], f4[:,::1], f4, i8, u1[:,::1], f4[:,::1])", nogil=True, cache=True)
def fire_within(drive: Floats, numbers: Floats, kept: Number, copies: int, spikes: Bytes, extremes: Floats) -> None:
    """Step neurons through a window as `fire` does, and tell between what their potentials stay before they fire.

    Args:
        drive, numbers, kept, copies, spikes: as `fire`.
        extremes: (2, channels), is filled with the smallest and the largest potential of each channel.
    """
    n_steps, n_neurons = spikes.shape
    tile = numbers.shape[1]
    start, bias, taken = numbers[START], numbers[BIAS], numbers[TAKEN]
    potential, spread = np.empty(tile, np.float32), np.empty(tile, np.float32)
    low_of, high_of = np.full(tile, np.inf, np.float32), np.full(tile, -np.inf, np.float32)
    for low in range(0, n_neurons, tile):
        size = min(tile, n_neurons - low)
        for place in range(size):
            potential[place] = start[place]
        for step in range(n_steps):
            arriving = drive[min(step, len(drive) - 1), low // copies : (low + size) // copies]
            if copies > 1:
                arriving = _copied(arriving, copies, spread)
            out = spikes[step, low : low + size]
            for place in range(size):
                value = potential[place] + (arriving[place] + bias[place])
                fires = value > np.float32(0)
                out[place] = fires
                potential[place] = value * kept - taken[place] if fires else value
                low_of[place] = value if value < low_of[place] else low_of[place]
                high_of[place] = value if value > high_of[place] else high_of[place]
    channels = extremes.shape[1]
    for channel in range(channels):
        extremes[0, channel] = low_of[channel::channels].min()
        extremes[1, channel] = high_of[channel::channels].max()


@njit("i8(f4[:,::1], f4[:,::1], f4, i8, f4[:,::1])", nogil=True, cache=True)
def integrate(drive: Floats, numbers: Floats, limit: Number, copies: int, potentials: Floats) -> int:
    """Step neurons that never fire through a window (rule S4), and return how many overflows there were (rule O1).

    Args:
        drive, numbers, limit, copies: as `fire`.
        potentials: (steps, neurons), is filled.
    """
    n_steps, n_neurons = potentials.shape
    tile = numbers.shape[1]
    beyond = 0
    for neuron in range(n_neurons):
        start, bias = numbers[START, neuron % tile], numbers[BIAS, neuron % tile]
        value = start
        for step in range(n_steps):
            value += drive[min(step, len(drive) - 1), neuron // copies] + bias
            potentials[step, neuron] = value
            beyond += abs(value - start) > limit
    return beyond


@njit("i8(f4[:,::1], f8, f8[:,::1], f8[::1], f8, i8, i8, i8, u1[:,::1], f8[:,::1])", nogil=True, cache=True)
def leak(
    drive: Floats,
    units: Number,
    numbers: Doubles,
    bias: Doubles,
    threshold: Number,
    first: int,
    latency: int,
    interval: int,
    spikes: Bytes,
    voltages: Doubles,
) -> int:
    """Step current-based neurons whose registers hold everything through a window (rules C1 to C5).

    Args:
        drive: (steps, neurons); of one step where it is the same at every step.
        units: what a drive of 1 adds to the current.
        numbers: (2, tile): what is left of current and voltage after a step, of the first neurons; all others have the
            same again and again.
        bias: (tile,), likewise, or (neurons,).
        threshold: a voltage above it fires.
        first: step in which the neurons begin to run.
        latency: steps before step 1.
        interval: both states are cleared before step 1 and every so many steps; 0 for never.
        spikes: (steps, neurons), is filled with 0 and 1.
        voltages: (steps, neurons), is filled from the first step on; (0, 0) where nobody asks.

    Returns:
        the number of spikes.
    """
    n_steps, n_neurons = spikes.shape
    tile = numbers.shape[1]
    current, voltage = np.empty(tile), np.empty(tile)
    fired = 0
    for low in range(0, n_neurons, tile):
        size = min(tile, n_neurons - low)
        added = bias[low : low + size] if len(bias) == n_neurons else bias[:size]
        for step in range(n_steps):
            if step in (0, first) or (interval > 0 and (step - latency) % interval == 0):
                for place in range(size):
                    current[place] = 0.0
                    voltage[place] = 0.0
            arriving, out = drive[min(step, len(drive) - 1), low : low + size], spikes[step, low : low + size]
            some_fired: Any = np.int32(0)
            for place in range(size):
                left = np.trunc(current[place] * numbers[0, place]) + arriving[place] * units
                reached = np.trunc(voltage[place] * numbers[1, place]) + left + added[place]
                fires = reached > threshold and step >= first
                out[place] = fires
                current[place] = left
                voltage[place] = 0.0 if fires else reached
                some_fired = np.int32(some_fired + fires)
            if len(voltages) > 0:
                for place in range(size):
                    voltages[step, low + place] = voltage[place]
            fired += some_fired
    return fired


@njit("void(u1[:,:,:,::1], i8, i8, i8, u1[:,:,:,::1])", nogil=True, cache=True)
def add_blocks(signal: Bytes, high: int, wide: int, copies: int, sums: Bytes) -> None:
    """Add up the signals that share a weight: blocks of high * wide places, and so many channels side by side.

    The row sums are moved over themselves as a whole, which is quick however few the channels are; then one in so many
    is kept.

    Args:
        signal: (images, height, width, channels).
        sums: (images, height // high, width // wide, channels // copies), is filled; no sum may reach 256.
    """
    n_images, rows, columns, channels = sums.shape
    length, channels_in = signal.shape[2] * signal.shape[3], signal.shape[3]
    lines = signal.reshape(n_images, signal.shape[1], length)
    line, moved = np.empty(length, np.uint8), np.empty(length, np.uint8)
    for image in range(n_images):
        for row in range(rows):
            _put(line, lines[image, row * high])
            for other in range(1, high):
                _add(line, lines[image, row * high + other])
            _put(moved, line)
            for shift in range(1, wide * copies):
                _add(moved, line[shift // copies * channels_in + shift % copies :])
            for column in range(columns):
                first = column * wide * channels_in
                if copies == 1:
                    _put(sums[image, row, column], moved[first : first + channels])
                else:
                    _put(sums[image, row, column], moved[first : first + channels_in : copies])
