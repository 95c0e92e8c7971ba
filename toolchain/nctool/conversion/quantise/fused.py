"""Loops of the rounding with error feedback and of the patches it looks at, compiled by Numba at the first import.

In: NumPy arrays. Out: arrays that the caller gives. Importing this fails as `nctool.fast.fused` does, so ask
`nctool.compiled` first. Must not import torch.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TOGETHER = 512
"""Channels that are rounded together: the errors of a block, 128 KiB, stay in a cache of the core."""


@njit("void(f4[:,::1], f4[:,::1], i2[:,::1], f4[:,::1], f4[:,::1], i8)", nogil=True, cache=True)
def round_block(
    targets: Floats, wanted: Floats, rounded: NDArray[np.int16], error: Floats, inner: Floats, largest: int
) -> None:
    """Round the weights of a block from the last to the first, with the same sums in the same order as `plain_block`.

    Args:
        targets, wanted, rounded, error, inner, largest: as there, (weights, channels) but `inner`.
    """
    rows, channels = targets.shape
    most = np.float32(largest)
    for low in range(0, channels, TOGETHER):
        size = min(TOGETHER, channels - low)
        for row in range(rows - 1, -1, -1):
            target, off = targets[row, low : low + size], error[row, low : low + size]
            for behind in range(rows - 1, row, -1):
                reach, other = inner[row, behind], error[behind, low : low + size]
                for place in range(size):
                    target[place] += reach * other[place]
            whole, real = rounded[row, low : low + size], wanted[row, low : low + size]
            for place in range(size):
                nearest = np.rint(target[place])
                nearest = min(max(nearest, -most), most)
                whole[place] = np.int16(nearest)
                off[place] = real[place] - nearest


@njit("void(f4[:,:,:,::1], i8[::1], i8[:,::1], i8[:,::1], i8[::1], f4[:,:,:,::1])", nogil=True, cache=True)
def gather(
    image: Floats,
    sample: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    here: NDArray[np.int64],
    patches: Floats,
) -> None:
    """Copy what some neurons see, as `plain_gather` does.

    Args:
        image, sample, rows, columns, here, patches: as there.
    """
    _, height, width, channels = image.shape
    for neuron in range(len(sample)):
        patch = patches[here[neuron]]
        for down in range(rows.shape[1]):
            row = rows[neuron, down]
            for along in range(columns.shape[1]):
                column = columns[neuron, along]
                if 0 <= row < height and 0 <= column < width:
                    for channel in range(channels):
                        patch[channel, down, along] = image[sample[neuron], row, column, channel]
                else:
                    for channel in range(channels):
                        patch[channel, down, along] = np.float32(0)
