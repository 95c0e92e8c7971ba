"""Loops over activations that do in one pass what torch does in several, compiled by Numba when this is imported.

They let other threads run, and take a part of a tensor each. Numbers come and go as their bits, so that one loop does
for float32 and bfloat16: a `shift` of 0 or 16 makes a word of either the bits of a float32. All is computed in float32,
in blocks that stay in the first cache.

In: NumPy arrays. Out: arrays that the caller gives, and sums. Must not import torch.
`nctool.compiled` says what an import may raise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nctool.activation import gaussian
from nctool.activation.gaussian import BLOCK, COUNTERS

Bits = NDArray[np.uint32] | NDArray[np.uint16]
Floats = NDArray[np.float32]
Codes = NDArray[np.int8]
Number = np.floating[Any] | float

OUTSIDE = 127
"""The code of a pre-activation above θ, and less 1 the largest inside; its negative is that of one below 0."""
_LANES = 512
"""Sums that are kept side by side; all numbers of a block are added to different ones, so that it takes few steps."""
_F, _W, _U = np.float32, np.uint32, np.uint64

_philox = njit(gaussian.philox)
_place, _number = njit(gaussian.place_of), njit(gaussian.number_at)


@njit(nogil=True)
def _widen(bits: Bits, shift: int, values: Floats) -> None:
    """Write numbers as float32."""
    for place in range(len(bits)):
        values[place] = _W(_W(bits[place]) << _W(shift)).view(_F)


@njit(nogil=True)
def _narrow(values: Floats, shift: int, bits: Bits) -> None:
    """Write float32 numbers in the type of their destination, rounded to the nearest, ties to even."""
    below_half, odd = (_W(0x7FFF), _W(1)) if shift else (_W(0), _W(0))
    for place in range(len(bits)):
        word = _F(values[place]).view(_W)
        bits[place] = _W(word + below_half + ((word >> _W(shift)) & odd)) >> _W(shift)


@njit(nogil=True, error_model="numpy")
def _rounded(inputs: Floats, numbers: Floats, levels: int, values: Floats, ratios: Floats, errors: Floats) -> None:
    """Write θ/L · floor(L · clip(z/θ, 0, 1) + 1/2), z/θ, and scale · (q − clip(z, 0, θ))/θ."""
    threshold, step, scale_over_threshold, scale = numbers[0], numbers[1], numbers[2], numbers[3]
    n_levels = _F(levels)
    for place in range(len(inputs)):
        ratio = inputs[place] / threshold
        clipped = _F(0) if ratio < _F(0) else (_F(1) if ratio > _F(1) else ratio)  # what is no number stays so
        value = np.floor(clipped * n_levels + _F(0.5)) * step
        values[place], ratios[place] = value, ratio
        errors[place] = value * scale_over_threshold - clipped * scale


@njit(nogil=True, error_model="numpy")
def _spike_share(inputs: Floats, numbers: Floats, levels: int, values: Floats, ratios: Floats, errors: Floats) -> None:
    """Write θ times the spikes a step of a neuron that a spike sets to zero, and the same beside it."""
    threshold, scale_over_threshold, scale = numbers[0], numbers[2], numbers[3]
    n_steps, share = _F(levels), _F(1.0 / levels)
    smallest = _F(np.finfo(np.float32).tiny)
    for place in range(len(inputs)):
        z = inputs[place]
        ratio = z / threshold
        clipped = _F(0) if ratio < _F(0) else (_F(1) if ratio > _F(1) else ratio)
        steps = threshold / (smallest if z < smallest else z)
        steps = _F(1) if steps < _F(1) else (n_steps + _F(1) if steps > n_steps + _F(1) else steps)
        value = np.floor(n_steps / np.ceil(steps)) * share * threshold
        values[place], ratios[place] = value, ratio
        errors[place] = value * scale_over_threshold - clipped * scale


@njit(nogil=True)
def _encode(ratios: Floats, errors: Floats, codes: Codes) -> None:
    """Write the code of each pre-activation: where it lies, and inside how far it was rounded."""
    for place in range(len(codes)):
        ratio = ratios[place]
        error = np.int32(np.floor(errors[place] + _F(0.5)))
        codes[place] = -OUTSIDE if ratio < _F(0) else (OUTSIDE if ratio > _F(1) else error)


@njit(nogil=True)
def _make_words(key: Any, other_key: Any, block: int, words: NDArray[np.uint32]) -> None:
    """Write the words of a block, as `gaussian.random_words`."""
    for counter in range(COUNTERS):
        a, b, c, d = _philox(_U(block * COUNTERS + counter), key, other_key)
        words[counter] = a
        words[COUNTERS + counter] = b
        words[2 * COUNTERS + counter] = c
        words[3 * COUNTERS + counter] = d


@njit(nogil=True)
def _add_noise(words: NDArray[np.uint32], sigma: Number, values: Floats) -> None:
    """Add σ times the normal number of each word, as `gaussian.standard_normal`."""
    for place in range(len(values)):
        values[place] += _number(_place(words[place])) * sigma


_FORWARD = "void({0}[::1], i8, f4[::1], i8, b1, f4, u8, u8, i8, {0}[::1], i1[::1])"


@njit([_FORWARD.format(kind) for kind in ("u4", "u2")], nogil=True, cache=True)
def staircase(
    inputs: Bits,
    shift: int,
    numbers: Floats,
    levels: int,
    to_zero: bool,
    sigma: Number,
    key: Any,
    other_key: Any,
    first: int,
    outputs: Bits,
    codes: Codes,
) -> None:
    """Write q(z) + σ·ε and the codes.

    Args:
        inputs: z.
        shift: of the words of `inputs` and `outputs`.
        numbers: θ, θ/L, scale/θ and scale, where scale is the codes for each unit of (q − z)/θ.
        levels: L.
        to_zero: which staircase q is.
        sigma: σ; 0 draws nothing.
        key, other_key: of the noise.
        first: place of the first element in the noise.
        outputs: is filled.
        codes: is filled; empty where nobody asks.
    """
    wide, values, words = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    ratios, errors = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    low, block, skipped = 0, first // BLOCK, first % BLOCK
    while low < len(inputs):
        size = min(BLOCK - skipped, len(inputs) - low)
        z, q = wide[:size], values[:size]
        _widen(inputs[low : low + size], shift, z)
        if to_zero:
            _spike_share(z, numbers, levels, q, ratios, errors)
        else:
            _rounded(z, numbers, levels, q, ratios, errors)
        if len(codes) > 0:
            _encode(ratios, errors, codes[low : low + size])
        if sigma > 0:
            _make_words(key, other_key, block, words)
            _add_noise(words[skipped:], sigma, q)
        _narrow(q, shift, outputs[low : low + size])
        low, block, skipped = low + size, block + 1, 0


_BACKWARD = "f8(i1[::1], {0}[::1], i8, f4, {0}[::1])"


@njit([_BACKWARD.format(kind) for kind in ("u4", "u2")], nogil=True, cache=True)
def staircase_gradients(codes: Codes, upstream: Bits, shift: int, code_unit: Number, outputs: Bits) -> float:
    """Write the gradient for z; return that for θ: the sum of upstream times the error inside, 0 below, 1 above θ.

    Args:
        codes: that `staircase` wrote.
        upstream: gradient for its outputs.
        shift: of the words of `upstream` and `outputs`.
        code_unit: the error of a code of 1, in units of θ.
        outputs: is filled.
    """
    for_threshold = np.zeros(_LANES, np.float32)
    wide, kept = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    for low in range(0, len(codes), _LANES):
        size = min(_LANES, len(codes) - low)
        code, gradient, passed = codes[low : low + size], wide[:size], kept[:size]
        _widen(upstream[low : low + size], shift, gradient)
        for place in range(size):
            g, height = gradient[place], np.int32(code[place])
            inside = abs(height) < OUTSIDE
            passed[place] = g if inside else _F(0)
            for_threshold[place] += g * (_F(height) * code_unit if inside else _F(height > 0))
        _narrow(passed, shift, outputs[low : low + size])
    return float(for_threshold.astype(np.float64).sum())


_WINDOW = "void({0}[:,::1], i8, f4, f4, b1, i8, i8, {0}[:,::1], f4[:,::1])"


@njit([_WINDOW.format(kind) for kind in ("u4", "u2")], nogil=True, cache=True)
def window(
    drive: Bits,
    shift: int,
    threshold: Number,
    start: Number,
    to_zero: bool,
    first: int,
    last: int,
    spikes: Bits,
    potentials: Floats,
) -> None:
    """Run some neurons for a window: integrate, fire, reset.

    Args:
        drive: z, (steps, neurons).
        shift: of the words of `drive` and `spikes`.
        threshold: θ.
        start: the potential before the first step, as a part of θ.
        to_zero: a spike sets the potential to zero, instead of taking θ off.
        first, last: the neurons from one up to the other, without it.
        spikes: (steps, neurons), filled with θ where a neuron spikes, else 0.
        potentials: (steps, neurons), filled with the potentials before the spikes.
    """
    wide, left, fired = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for low in range(first, last, BLOCK):
        high = min(low + BLOCK, last)
        z, out = wide[: high - low], fired[: high - low]
        left[:] = threshold * start
        for step in range(len(drive)):
            _widen(drive[step, low:high], shift, z)
            kept = potentials[step, low:high]
            for place in range(high - low):
                u = left[place] + z[place]
                fires = u >= threshold
                kept[place] = u
                out[place] = threshold if fires else _F(0)
                left[place] = (_F(0) if to_zero else u - threshold) if fires else u
            _narrow(out, shift, spikes[step, low:high])


_WINDOW_BACKWARD = "f8(f4[:,::1], {0}[:,::1], i8, f4, f4, b1, i8, i8, {0}[:,::1])"


@njit([_WINDOW_BACKWARD.format(kind) for kind in ("u4", "u2")], nogil=True, cache=True, error_model="numpy")
def window_gradients(
    potentials: Floats,
    upstream: Bits,
    shift: int,
    threshold: Number,
    start: Number,
    to_zero: bool,
    first: int,
    last: int,
    outputs: Bits,
) -> float:
    """Write the gradient for the drive of some neurons, and return their part of that for θ.

    `nctool.activation.surrogate` has the formulas.

    Args:
        potentials: that `window` wrote.
        upstream: gradient for the spikes times θ, (steps, neurons).
        shift: of the words of `upstream` and `outputs`.
        threshold, start, to_zero, first, last: as `window`.
        outputs: (steps, neurons), is filled.
    """
    wide, after, for_threshold = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.zeros(BLOCK, np.float32)
    of_starts = 0.0
    for low in range(first, last, BLOCK):
        high = min(low + BLOCK, last)
        gradient, back = wide[: high - low], after[: high - low]
        after[:] = _F(0)
        for step in range(len(potentials) - 1, -1, -1):
            _widen(upstream[step, low:high], shift, gradient)
            potential = potentials[step, low:high]
            for place in range(high - low):
                ratio, spike = potential[place] / threshold, potential[place] >= threshold
                inside = abs(ratio - _F(1)) <= _F(0.5)
                g, later = gradient[place], back[place]
                if to_zero:
                    through = (g - later * ratio) if inside else _F(0)
                    for_threshold[place] += (g if spike else _F(0)) - through * ratio
                    back[place] = (_F(0) if spike else later) + through
                else:
                    through = g - later
                    for_threshold[place] += through * ((_F(1) if spike else _F(0)) - (ratio if inside else _F(0)))
                    back[place] = later + (through if inside else _F(0))
            _narrow(back, shift, outputs[step, low:high])
        of_starts += float(back.astype(np.float64).sum())
    return float(for_threshold.astype(np.float64).sum()) + of_starts * float(start)
