"""How pixels reach a network: at their value at every step, or as the spike trains of rate encoders (rule I4).

In: uint8 images. Out: what the ANN sees, and what its spiking network sees step by step, as float batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nctool.conversion.float_network import FloatArray
from nctool.conversion.rate_input import rate_input
from nctool.recipe.schema import Recipe
from nctool.training.images.data import Normalisation


@dataclass(frozen=True)
class RateCoding:
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
        coded = rate_input((n_channels,), self.mean, self.std)
        every_pixel = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], n_channels, axis=1)
        worth = coded.encoding.signal(every_pixel, n_steps) * coded.step
        values: FloatArray = worth.reshape(256, n_steps, n_channels, -1).sum(axis=-1)
        return values


InputCoding = Normalisation | RateCoding


def input_coding(normalisation: Normalisation, recipe: Recipe) -> InputCoding:
    """Return the coding that the recipe's `[input]` asks for, over its window `noise.steps`."""
    if recipe.input.coding == "graded":
        return normalisation
    return RateCoding(normalisation.mean, normalisation.std, recipe.noise.steps)


def _look_up(table: FloatArray, images: Tensor) -> Tensor:
    """Replace each pixel by its value in `table`, (256, channels)."""
    values = torch.from_numpy(table).to(images.device, torch.float32)
    channel = torch.arange(values.shape[1], device=images.device).view(1, -1, 1, 1)
    return values[images.long(), channel]
