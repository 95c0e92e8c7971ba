"""What Lava's fixed-point Dense makes of the weights in a netx file.

netx scales a dense weight matrix to fill the bits of a synapse and gives the inverse scale as an exponent; the Dense
process then clips and truncates to a sign mode that it works out anew. Both together keep most matrices as they are,
but not all: a network is simulated with the weights that Lava runs.

In: the weights of a file. Out: the weights of the running network. Must not import torch or Lava.
"""

from __future__ import annotations

import numpy as np

from nctool.errors import FormatError
from nctool.network import IntArray

LOWEST, HIGHEST = -256, 255


def as_lava_runs(weight: IntArray, where: str) -> tuple[IntArray, int]:
    """Return weights W and an exponent e <= 0 so that Lava's sum is (W @ spikes) * 2**e, rounded down.

    Source: lava-dl 0.6.0, `lava/lib/dl/netx/utils.py` (`optimize_weight_bits`); lava-nc 0.10.0,
    `lava/utils/weightutils.py` (`clip_weights`, `truncate_weights`) and `lava/proc/dense/models.py`.

    Args:
        weight: int64 (out, in), as in the file.
        where: names the layer in messages.

    Raises:
        FormatError: a weight is beyond what netx scales rightly.
    """
    low, high = int(weight.min()), int(weight.max())
    for extreme in (low, high):
        if not LOWEST <= extreme <= HIGHEST:
            raise FormatError(f"{where}: weight {extreme}, allowed {LOWEST}..{HIGHEST}")
    if low == high == 0:
        return weight, 0
    if low < 0 < high:
        weight = np.minimum(weight, HIGHEST - 1)
    shift = _shift(low, int(weight.max()))
    lost = 1 if high == 0 else 0  # netx takes such a matrix for signed, Dense does not
    running = _truncated(weight << shift, shift + _common_zeros(weight) - lost)
    if _common_zeros(running) >= shift:
        return running >> shift, 0
    return running, -shift


def _shift(low: int, high: int) -> int:
    """Return by how many bits netx scales the weights up; an all-zero matrix makes it fail."""
    if high < 0:
        return int(np.floor(np.log2(-256 / low)))
    if low >= 0:
        return int(np.floor(np.log2(255 / high)))
    scale = min(-128 / low, 127 / high if high else np.inf)
    return int(np.floor(np.log2(scale))) + 1


def _common_zeros(weight: IntArray) -> int:
    """Return how many low bits, up to 8, are zero in all weights."""
    used = int(np.bitwise_or.reduce(weight, axis=None))
    return next((bits for bits in range(8, 0, -1) if used % 2**bits == 0), 0)


def _truncated(scaled: IntArray, bits: int) -> IntArray:
    """Return scaled weights as the Dense process keeps them: clipped, and without their lowest bits."""
    if scaled.min() >= 0:
        return np.minimum(scaled, HIGHEST) >> bits << bits
    if scaled.max() <= 0:
        return -(np.minimum(-scaled, HIGHEST) >> bits << bits)
    return np.clip(scaled, LOWEST, HIGHEST) >> bits << bits
