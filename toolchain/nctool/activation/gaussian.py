"""Gaussian noise in which every number depends on a seed and its own place alone.

Threads and processes that share the elements of an activation each compute theirs: the numbers are the same however the
elements are shared.

In: a seed and places. Out: numbers. Must not import torch. Here it is written for NumPy; `loops` compiles the same
functions of one number, so they take numbers and arrays.

A counter-based generator, Philox 4x32-10, makes four words of 32 bits of one counter. Each word becomes a number: the
sum of its bytes, brought to the normal distribution by a polynomial. Variance, fourth and sixth moment are 1, 3 and 15
to 0.0001, 0.0001 and 0.01; the largest number is 5.1. Only integers, and additions and multiplications of float32 lead
there, which give the same bits on every computer.

Sources: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011 (Philox); Teichroew, in Knuth, The Art of
Computer Programming, volume 2, 3.4.1 (a polynomial of a sum of uniform numbers).
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

_F, _I, _W, _U = np.float32, np.int32, np.uint32, np.uint64
_LOW, _HALF = _U(0xFFFFFFFF), _U(32)
_MULTIPLIERS = _U(0xD2511F53), _U(0xCD9E8D57)
_KEY_STEPS = _U(0x9E3779B9), _U(0xBB67AE85)
_ROUNDS = 10
PLACES = 1021 << 8
"""Values that a number can have: sums of four bytes, and 256 between one and the next."""


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


def place_of(word: Number) -> Number:
    """Return which of `PLACES` a word stands for, int32.

    It is the sum of the word's bytes, and between one sum and the next the upper byte of a product of the word.
    """
    pairs = _W((word & _W(0x00FF00FF)) + (_W(word >> _W(8)) & _W(0x00FF00FF)))
    fine = _W(_W(word * _W(0x9E3779B1)) >> _W(24))
    return _I(_W(_W((pairs & _W(0xFFFF)) + _W(pairs >> _W(16))) << _W(8)) + fine)


def number_at(place: Number) -> Number:
    """Return the number of a place, float32.

    The sum of four bytes is nearly normal already. A polynomial brings it to the quantile of the normal distribution:
    up to 3 within 0.003, up to 4 within 0.013.
    """
    t = (_F(_I(place - _I(PLACES // 2))) + _F(0.5)) * _F(2.0 / PLACES)
    square = t * t
    p = _F(2.6636019)
    p = p * square + _F(-2.12412463)
    p = p * square + _F(0.881645488)
    p = p * square + _F(0.381903025)
    p = p * square + _F(3.32392275)
    return p * t


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
    numbers: Floats = number_at(place_of(words))
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
