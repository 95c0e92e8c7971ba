"""Gaussian noise in which every number depends on a seed and its own place alone.

Threads and processes that share the elements of an activation each compute theirs: the numbers are the same however the
elements are shared.

In: a seed and places. Out: numbers. Must not import torch. Here it is written for NumPy; `loops` compiles the same
functions of one number, so they take numbers and arrays.

A counter-based generator, Philox 4x32-10, makes four words of 32 bits of one counter. The upper 24 bits of a word
choose one of 2²⁴ equally likely slices of the normal distribution, and the number is the quantile of the slice's
middle: mean 0, variance 1, largest 5.4. Only additions, multiplications and square roots of float32 lead there, which
give the same bits on every computer.

Sources: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011 (Philox); Giles, Approximating the erfinv
function, GPU Computing Gems 2011 (quantiles from a logarithm).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Number = Any
"""A number of NumPy or an array of them."""

COUNTERS = 256
"""Counters of a block."""
BLOCK = 4 * COUNTERS
"""Numbers of a block: the first words of its counters, then the second ones, and so on."""

_F, _I, _U = np.float32, np.int32, np.uint64
_LOW, _HALF = _U(0xFFFFFFFF), _U(32)
_MULTIPLIERS = _U(0xD2511F53), _U(0xCD9E8D57)
_KEY_STEPS = _U(0x9E3779B9), _U(0xBB67AE85)
_ROUNDS = 10
_SQRT_HALF = _I(0x3F3504F3)
"""The bits of √½ in float32."""
_MANTISSA = _I(23)
_LN_2 = _F(0.69314718056)


def philox(counter: Number, key: Number, other_key: Number) -> tuple[Number, Number, Number, Number]:
    """Return the four words of a counter, each a uint64 below 2³².

    Args:
        counter: uint64.
        key, other_key: uint64 below 2³².
    """
    a, b, c, d = counter & _LOW, counter >> _HALF, counter * _U(0), counter * _U(0)
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (second >> _HALF) ^ b ^ key, second & _LOW, (first >> _HALF) ^ d ^ other_key, first & _LOW
        key, other_key = (key + _KEY_STEPS[0]) & _LOW, (other_key + _KEY_STEPS[1]) & _LOW
    return a, b, c, d


def centre(word: Number) -> Number:
    """Return the middle of a word's slice of −1..1, float32: an odd multiple of 2⁻²⁴."""
    return (_F(_I(word >> np.uint32(8)) - _I(1 << 23)) + _F(0.5)) * _F(2.0**-23)


def quantile(x: Number) -> Number:
    """Return the quantile of the standard normal distribution at (1 + x)/2, for |x| < 1, to 3.1e-5 of itself.

    It is x times a function of w = −ln(1 − x²), and that a polynomial in √(3 + w): both polynomials here are those of
    the smallest largest error.
    """
    bits = _F((_F(1.0) - x) * (_F(1.0) + x)).view(_I)
    exponent = _I((bits - _SQRT_HALF) >> _MANTISSA)
    t = _I(bits - (exponent << _MANTISSA)).view(_F) - _F(1.0)
    p = _F(-0.14319848)
    p = p * t + _F(0.223300692)
    p = p * t + _F(-0.254724643)
    p = p * t + _F(0.332258728)
    p = p * t + _F(-0.499850514)
    p = p * t + _F(1.00001278)
    w = -(p * t + _LN_2 * _F(exponent))
    s = _F(np.sqrt(_F(3.0) + w)) - _F(3.0)
    p = _F(0.00645599394)
    p = p * s + _F(-0.00803762937)
    p = p * s + _F(-0.0270517972)
    p = p * s + _F(0.0633778592)
    p = p * s + _F(-0.0378373272)
    p = p * s + _F(-0.0579491464)
    p = p * s + _F(1.69510166)
    p = p * s + _F(3.23358066)
    return p * x


def keys(seed: int) -> tuple[np.uint64, np.uint64]:
    """Return the two keys of a seed of 64 bits."""
    return _U(seed) & _LOW, _U(seed) >> _HALF


def random_words(seed: int, first_block: int, n_blocks: int) -> Words:
    """Return the words of blocks, one block after the other."""
    counters = np.arange(first_block * COUNTERS, (first_block + n_blocks) * COUNTERS, dtype=_U)
    words = np.stack(philox(counters, *keys(seed))).astype(np.uint32)
    return words.reshape(4, n_blocks, COUNTERS).swapaxes(0, 1).reshape(-1)


def standard_normal(words: Words) -> Floats:
    """Return the number that each word stands for."""
    numbers: Floats = quantile(centre(words))
    return numbers


def normal_numbers(seed: int, first: int, count: int) -> Floats:
    """Return the numbers of so many places, one after the other.

    Args:
        seed: of 64 bits.
        first: place of the first, ≥ 0.
        count: places, ≥ 1.

    Returns:
        float32 (count,).
    """
    block, skipped = divmod(first, BLOCK)
    words = random_words(seed, block, -(-(skipped + count) // BLOCK))
    return standard_normal(words[skipped : skipped + count])
