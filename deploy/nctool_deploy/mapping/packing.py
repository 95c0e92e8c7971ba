"""How much synaptic memory the connections of an axon take.

The format is Loihi 1's, the only one published: an axon's connections lie in blocks of up to 64; a block holds a
format index, a count and the connections, and fills whole words of 64 bits. A connection of nctool holds a weight of as
many bits as the widest of its synapse needs, where an axon skips neurons the index of the neuron, and in a branch that
waits its delay; tag bits are not used.

In: counts of connections. Out: words. Must not import torch or Lava. Source: nengo-loihi, `nengo_loihi/block.py`,
SynapseConfig.bits_per_axon, INDEX_BITS_MAP.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nctool.ir.network import LARGEST_DELAY, IntArray

WORD_BITS = 64
WORD_BYTES = WORD_BITS // 8
WEIGHT_BITS = 8
STORED_WEIGHT_BITS = (2, 3, 4, 5, 6, WEIGHT_BITS)
"""Widths that a synapse's weights can be stored in, sign included; there is none of 7 bits."""

DELAY_BITS = LARGEST_DELAY.bit_length()

_BLOCK = 64
_HEADER_BITS = 4 + 6
"""Index of the synapse format, and number of connections in the block."""

_SHORTEST_INDEX = 6
"""Bits of the shortest index of a neuron; longer ones grow by single bits, on Loihi 1 up to 12."""


def index_bits(n_neurons: int) -> int:
    """Return the bits of an index that tells `n_neurons` neurons apart."""
    return max(_SHORTEST_INDEX, (n_neurons - 1).bit_length())


def weight_bits(weight: IntArray) -> int:
    """Return the smallest stored width that holds all of `weight`; the largest for what none holds."""
    low, high = int(weight.min()), int(weight.max())
    fitting = (bits for bits in STORED_WEIGHT_BITS if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))
    return next(fitting, WEIGHT_BITS)


@lru_cache(maxsize=4096)
def words_of(connections: int, bits: int) -> int:
    """Return the words that one axon takes; see `words`."""
    return int(words(connections, bits))


def words(connections: NDArray[np.int64] | int, bits: int) -> NDArray[np.int64]:
    """Return the words that axons take.

    Args:
        connections: of each axon, any shape; an axon without any takes none.
        bits: of one connection.

    Returns:
        int64, shaped like `connections`.
    """
    full, rest = np.divmod(connections, _BLOCK)
    last = np.where(rest > 0, -(-(_HEADER_BITS + rest * bits) // WORD_BITS), 0)
    return np.asarray(full * -(-(_HEADER_BITS + _BLOCK * bits) // WORD_BITS) + last, np.int64)
