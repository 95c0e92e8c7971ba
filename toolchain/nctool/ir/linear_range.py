"""Real samples as pixels: a network that takes numbers, not images of 8 bits, takes them in 256 steps of their range.

In: real samples. Out: uint8 pixels; the normalisation that makes real numbers of them again. Must not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import RangeError

WHITE = 255

BEYOND = 0.5
"""A value may lie beyond the range by this part of its width, and is clipped; farther out, something else is wrong."""


@dataclass(frozen=True)
class LinearRange:
    """The range of each channel of real samples: pixel p stands for (p / 255 - mean) / std.

    Args:
        mean, std: one of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, samples: NDArray[np.floating[Any]]) -> LinearRange:
        """Return the range that real samples (N, channels, ...) fill; a channel of one value has the width 1."""
        axes = tuple(axis for axis in range(samples.ndim) if axis != 1)
        low, high = samples.min(axis=axes).astype(np.float64), samples.max(axis=axes).astype(np.float64)
        width = np.where(high > low, high - low, 1.0)
        return cls(tuple((-low / width).tolist()), tuple((1 / width).tolist()))

    def pixels(self, samples: NDArray[np.floating[Any]], name: str) -> NDArray[np.uint8]:
        """Return the pixels that are nearest to real samples (N, channels, ...).

        Args:
            name: what messages call the samples.

        Raises:
            RangeError: a value is not finite, or far outside the range.
        """
        mean, std = (self._column(values, samples.ndim) for values in (self.mean, self.std))
        place = samples.astype(np.float64) * std + mean
        far = ~((place >= -BEYOND) & (place <= 1 + BEYOND))
        if far.any():
            at = np.unravel_index(int(far.argmax()), far.shape)
            low, high = self._ends(int(at[1]))
            raise RangeError(
                f"`{name}`: holds {samples[at]:.4g} in channel {at[1]} of sample {at[0]}, the network was converted on "
                f"{low:.4g}..{high:.4g} there",
                hint="normalise the samples as those that the network was converted on",
            )
        pixels: NDArray[np.uint8] = np.rint(WHITE * place.clip(0, 1)).astype(np.uint8)
        return pixels

    def _column(self, values: tuple[float, ...], axes: int) -> NDArray[np.float64]:
        return np.asarray(values).reshape(-1, *[1] * (axes - 2))

    def _ends(self, channel: int) -> tuple[float, float]:
        mean, std = self.mean[channel % len(self.mean)], self.std[channel % len(self.std)]
        return -mean / std, (1 - mean) / std
