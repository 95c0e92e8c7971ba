"""What Lava's stock synapse processes make of the weights in a netx file, and what they cannot hold.

netx scales a dense weight matrix to fill the bits of a synapse and gives the inverse scale as an exponent; the Dense
process then clips and truncates to a sign mode that it works out anew. Both together keep most matrices as they are,
but not all: a network is simulated with the weights that Lava runs. The Conv process runs every convolution of stock
netx, and the largest ones of the autapse.

In: the weights of a file. Out: the weights of the running network, or every reason why Conv would compute something
else. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nctool.errors import FormatError, RangeError
from nctool.ir.network import INPUT_NAME, PAYLOAD_LIMIT, ConvGeometry, IntArray, IntNetwork, Synapse
from nctool_deploy.backends.number_formats import CONVOLUTION_GEOMETRY, CONVOLUTION_SUM

LOWEST, HIGHEST = -256, 255


def as_lava_runs(weight: IntArray, where: str) -> tuple[IntArray, int]:
    """Return weights W and an exponent e <= 0 so that Lava's sum is (W @ spikes) * 2**e, rounded down.

    Args:
        weight: int64 (out, in), as in the file.
        where: names the layer in messages.

    Raises:
        FormatError: a weight is beyond what netx scales rightly.
    """
    return parts_as_lava_runs([weight], where)[0]


def parts_as_lava_runs(parts: Sequence[IntArray], where: str) -> list[tuple[IntArray, int]]:
    """Return what Lava runs for matrices that netx scales together, each in a Dense process of its own.

    Source: lava-dl 0.6.0, `lava/lib/dl/netx/utils.py` (`optimize_weight_bits`); lava-nc 0.10.0,
    `lava/utils/weightutils.py` (`clip_weights`, `truncate_weights`) and `lava/proc/dense/models.py`.

    Args:
        parts: int64 (out, in) each, as in the file.
        where: names the layer in messages.

    Raises:
        FormatError: a weight is beyond what netx scales rightly.
    """
    low, high = min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)
    for extreme in (low, high):
        if not LOWEST <= extreme <= HIGHEST:
            raise FormatError(f"{where}: weight {extreme}, allowed {LOWEST}..{HIGHEST}")
    if low == high == 0:
        return [(part, 0) for part in parts]
    if low < 0 < high:
        parts = [np.minimum(part, HIGHEST - 1) for part in parts]
    whole = np.hstack(parts)
    shift = _shift(low, int(whole.max()))
    is_signed = low < 0 <= high  # to netx; each Dense process decides anew
    bits = shift + _common_zeros(whole) - is_signed
    return [_lowest_terms(_truncated(part << shift, bits), shift) for part in parts]


def _lowest_terms(running: IntArray, shift: int) -> tuple[IntArray, int]:
    """Return weights and an exponent of the same value, 0 where it can be."""
    return (running >> shift, 0) if _common_zeros(running) >= shift else (running, -shift)


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
    """Return scaled weights as a Dense process keeps them: clipped, without their lowest bits, one more if signed."""
    if scaled.min() >= 0:
        return np.minimum(scaled, HIGHEST) >> bits << bits
    if scaled.max() <= 0:
        return -(np.minimum(-scaled, HIGHEST) >> bits << bits)
    return np.clip(scaled, LOWEST, HIGHEST) >> bits + 1 << bits + 1


# --- Conv -----------------------------------------------------------------


def largest_message(network: IntNetwork, source: str) -> int:
    """Return the largest magnitude that `source` can send in one step."""
    if source == INPUT_NAME:
        return max(map(abs, network.input_range))
    return PAYLOAD_LIMIT if network.is_graded else 1


def convolution_violations(synapse: Synapse, largest: int, where: str) -> Iterator[RangeError]:
    """Yield all that keeps a Conv process from computing `synapse`; nothing when it can, or for a dense synapse.

    Args:
        synapse: without an exponent, which Conv does not have.
        largest: the largest magnitude that its source sends.
        where: what a message calls it.
    """
    if synapse.conv is None:
        return
    if synapse.conv.input_dilation != (1, 1):
        yield RangeError(
            f"{where}: reads an enlarged image (input dilation {synapse.conv.input_dilation}), Lava's Conv knows none",
            hint="use --backend autapse",
        )
    if _largest_size(synapse, synapse.conv) > CONVOLUTION_GEOMETRY.high:
        yield RangeError(
            f"{where}: groups {synapse.conv.groups}, kernel {synapse.weight.shape[2:]} or geometry exceed what Lava's "
            f"Conv holds in 8 bits, allowed up to {CONVOLUTION_GEOMETRY.high}",
            hint="use a smaller kernel, stride, padding or dilation, or use --backend autapse",
        )
    total = largest * int(np.abs(synapse.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max())
    if total > CONVOLUTION_SUM.high:
        yield RangeError(
            f"{where}: a convolution may sum to {total}, Lava's Conv clamps at {CONVOLUTION_SUM.high}",
            hint="use fewer --weight-bits, or --backend autapse",
        )


def _largest_size(synapse: Synapse, conv: ConvGeometry) -> int:
    return max(conv.groups, *conv.padding, *conv.stride, *conv.dilation, *synapse.weight.shape[2:])
