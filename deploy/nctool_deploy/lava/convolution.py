"""What Lava's `Conv` process can hold. It runs every convolution of stock netx, and the largest ones of the autapse.

In: a convolution and what its source sends. Out: every reason why `Conv` would compute something else. Must not import
torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nctool.errors import RangeError
from nctool.ir.network import INPUT_NAME, ConvGeometry, IntNetwork, Synapse
from nctool_deploy.backends.number_formats import CONVOLUTION_GEOMETRY, CONVOLUTION_SUM


def largest_message(network: IntNetwork, source: str) -> int:
    """Return the largest magnitude that `source` sends in one step."""
    return max(map(abs, network.input_range)) if source == INPUT_NAME else 1


def convolution_violations(synapse: Synapse, largest: int, where: str) -> Iterator[RangeError]:
    """Yield all that keeps a Conv process from computing `synapse`; nothing when it can, or for a dense synapse.

    Args:
        synapse: without an exponent, which Conv does not have.
        largest: the largest magnitude that its source sends.
        where: what a message calls it.
    """
    if synapse.conv is None:
        return
    if _largest_size(synapse, synapse.conv) > CONVOLUTION_GEOMETRY.high:
        yield RangeError(
            f"{where}: groups {synapse.conv.groups}, kernel {synapse.weight.shape[2:]} or geometry exceed what Lava's "
            f"Conv holds in 8 bits, allowed up to {CONVOLUTION_GEOMETRY.high}",
            hint="use fewer groups or a smaller kernel, or export with --realisation autapse",
        )
    total = largest * int(np.abs(synapse.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max())
    if total > CONVOLUTION_SUM.high:
        yield RangeError(
            f"{where}: a convolution may sum to {total}, Lava's Conv clamps at {CONVOLUTION_SUM.high}",
            hint="export with fewer --weight-bits, or with --realisation autapse",
        )


def _largest_size(synapse: Synapse, conv: ConvGeometry) -> int:
    return max(conv.groups, *conv.padding, *conv.stride, *conv.dilation, *synapse.weight.shape[2:])
