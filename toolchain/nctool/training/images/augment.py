"""Random changes of training images: shifted crops, mirror images, AutoAugment, black squares.

In: a uint8 batch (N, C, H, W) and the recipe's `[training]` table. Out: a batch of the same shape and type.
Random numbers come from torch's global generator of the CPU, so that a device does not change them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nctool.recipe.schema import TrainingSettings
from nctool.training.images.auto_augment import auto_augment


def augment(images: Tensor, settings: TrainingSettings) -> Tensor:
    """Apply what the recipe asks for, in this order: crop, flip, AutoAugment, cutout. Every image has its own numbers.

    Args:
        images: uint8 (N, C, H, W).
        settings: `crop_padding`, `horizontal_flip`, `auto_augment`, `cutout`; see `TrainingSettings`.

    Returns:
        uint8 images of the same shape; the same tensor when the recipe asks for nothing.
    """
    if settings.crop_padding:
        images = _crop(images, settings.crop_padding)
    if settings.horizontal_flip:
        images = _flip(images)
    if settings.auto_augment != "none":
        images = auto_augment(images, settings.auto_augment)
    if settings.cutout:
        images = _cut_out(images, settings.cutout)
    return images


def _crop(images: Tensor, padding: int) -> Tensor:
    """Pad with black and cut a window of the old size from a uniformly drawn corner."""
    n, _, height, width = images.shape
    windows = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = _draw(n, 2 * padding + 1, images), _draw(n, 2 * padding + 1, images)
    return windows[torch.arange(n, device=images.device), :, top, left]


def _flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = _draw(len(images), 2, images)[:, None, None, None] == 1
    return torch.where(mirrored, images.flip(3), images)


def _cut_out(images: Tensor, side: int) -> Tensor:
    """Black out a square whose centre is drawn uniformly; it may reach over the border (DeVries 2017)."""
    n, _, height, width = images.shape
    rows = _covered(_draw(n, height, images), height, side)[:, None, :, None]
    columns = _covered(_draw(n, width, images), width, side)[:, None, None, :]
    return images.masked_fill(rows & columns, 0)


def _covered(centre: Tensor, length: int, side: int) -> Tensor:
    """Mark, for each image, the positions from centre − side//2 on that the square covers: bool (N, length)."""
    offset = torch.arange(length, device=centre.device) - (centre[:, None] - side // 2)
    return (offset >= 0) & (offset < side)


def _draw(n: int, limit: int, like: Tensor) -> Tensor:
    return torch.randint(limit, (n,)).to(like.device)
