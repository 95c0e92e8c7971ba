"""How pixels reach a network: at their value at every step, or as the spike trains of rate encoders (rule I4).

In: uint8 images. Out: what the ANN sees, and what its spiking network sees step by step, as float batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from nctool.conversion.float_network import FloatArray
from nctool.conversion.input_encoding import rate_input
from nctool.recipe.schema import Recipe

_WHITE = 255.0
"""The largest value of a uint8 pixel; mean and std are in units of pixel/255."""


@dataclass(frozen=True)
class Normalisation:
    """(pixel/255 − mean) / std for each channel, in float32 and in this order.

    Attributes:
        mean: one number for each channel, in units of pixel/255.
        std: the same, > 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, C, H, W) into float32 ones of the same shape."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(shape)
        std = torch.tensor(self.std, device=images.device).view(shape)
        return images.to(torch.float32).div_(_WHITE).sub_(mean).div_(std)

    def steps(self, images: Tensor, n_steps: int) -> Iterator[Tensor]:
        """Yield what a spiking network sees at each step: the same float images every time."""
        return repeat(self(images), n_steps)


@dataclass(frozen=True)
class SpikeTrainEncoding:
    """Normalised pixels as the exported network will see them: ON spikes minus OFF spikes, each times its worth.

    Attributes:
        mean, std: for each channel, in units of pixel/255.
        n_steps: window whose rates the ANN sees.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    n_steps: int

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, C, H, W) into the mean of their spikes over the window, float32 of the same shape."""
        return _look_up(self._values(self.n_steps).mean(axis=1), images)

    def steps(self, images: Tensor, n_steps: int) -> Iterator[Tensor]:
        """Yield the spikes of uint8 images (N, C, H, W) at each step of any window, float32 of the same shape."""
        values = self._values(n_steps)
        return (_look_up(values[:, step], images) for step in range(n_steps))

    def _values(self, n_steps: int) -> FloatArray:
        """Return what each pixel value sends at each step, (256, n_steps, channels)."""
        n_channels = len(self.mean)
        rate = rate_input((n_channels,), self.mean, self.std)
        every_pixel = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], n_channels, axis=1)
        worth = rate.encoding.signal(every_pixel, n_steps) * rate.step
        values: FloatArray = worth.reshape(256, n_steps, n_channels, -1).sum(axis=-1)
        return values


ImageEncoding = Normalisation | SpikeTrainEncoding


def image_encoding(normalisation: Normalisation, recipe: Recipe) -> ImageEncoding:
    """Return the encoding that the recipe's `[input]` asks for, over its window `noise.steps`."""
    if recipe.input.encoding == "graded":
        return normalisation
    return SpikeTrainEncoding(normalisation.mean, normalisation.std, recipe.noise.steps)


def _look_up(table: FloatArray, images: Tensor) -> Tensor:
    """Replace each pixel by its value in `table`, (256, channels)."""
    values = torch.from_numpy(table).to(images.device, torch.float32)
    channel = torch.arange(values.shape[1], device=images.device).view(1, -1, 1, 1)
    return values[images.long(), channel]
