"""Random changes of training images: shifted and enlarged crops, mirror images, AutoAugment, blank squares.

In: a uint8 batch (N, C, H, W), the recipe's `[training]` table and the mean of the training images. Out: a batch of the
same shape and type. Random numbers come from torch's global generator of the CPU, so that a device does not change
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nctool.recipe.schema import TrainingSettings
from nctool.training.images.auto_augment import auto_augment

_WHITE = 255

_RATIOS = (3 / 4, 4 / 3)
"""Width over height of an enlarged crop. Source: `torchvision.transforms.RandomResizedCrop`."""
_TRIES = 10
"""Crops that are drawn before a fixed one is taken. Source: the same."""


def augment(images: Tensor, settings: TrainingSettings, mean: Sequence[float] = ()) -> Tensor:
    """Apply what the recipe asks for: crop, resized crop, flip, AutoAugment, cutout. Every image has its own numbers.

    Args:
        images: uint8 (N, C, H, W).
        settings: `crop_padding`, `resized_crop`, `horizontal_flip`, `auto_augment`, `cutout`, `cutout_fill`; see
            `TrainingSettings`.
        mean: of each channel in units of pixel/255, what the network sees as 0; needed with `cutout_fill` "mean".

    Returns:
        uint8 images of the same shape; the same tensor when the recipe asks for nothing.
    """
    if settings.crop_padding:
        images = _crop(images, settings.crop_padding)
    if settings.resized_crop:
        images = _crop_and_resize(images, settings.resized_crop)
    if settings.horizontal_flip:
        images = _flip(images)
    if settings.auto_augment != "none":
        images = auto_augment(images, settings.auto_augment)
    if settings.cutout:
        colour = mean if settings.cutout_fill == "mean" else (0.0,) * images.shape[1]
        images = _cut_out(images, settings.cutout, colour)
    return images


def _crop(images: Tensor, padding: int) -> Tensor:
    """Pad with black and cut a window of the old size from a uniformly drawn corner."""
    n, _, height, width = images.shape
    windows = functional.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = _draw(n, 2 * padding + 1, images), _draw(n, 2 * padding + 1, images)
    return windows[torch.arange(n, device=images.device), :, top, left]


def _crop_and_resize(images: Tensor, least: float) -> Tensor:
    """Cut a window of random area, shape and place, and bring it back to the old size.

    That is torchvision's `RandomResizedCrop`. No window is larger than the image, so that resizing is bilinear
    interpolation between its pixels, and of its border's alone beyond the middle of those.
    """
    height, width = images.shape[2:]
    top, left, down, across = draw_windows(len(images), height, width, least)
    x, y = _enlarged(left, across, width).to(images.device), _enlarged(top, down, height).to(images.device)
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    sampled = functional.grid_sample(images.float(), grid, "bilinear", "border", align_corners=True)
    return sampled.round().clamp(0, _WHITE).byte()


def draw_windows(n: int, height: int, width: int, least: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a window for each image: its first row, first column, height and width, float64 (n,) each.

    It is the first of ten that lies within the image. Where none does, it stands in the middle: all of the image, or
    as much as the ratios allow.
    """
    low, high = map(math.log, _RATIOS)
    areas, ratios = torch.rand(2, _TRIES, n, dtype=torch.float64)
    areas, ratios = height * width * (least + (1.0 - least) * areas), (low + (high - low) * ratios).exp()
    heights, widths = (areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first, none = fits.int().argmax(0, keepdim=True), ~fits.any(0)
    down = heights.gather(0, first)[0].masked_fill(none, min(height, round(width / _RATIOS[0])))
    across = widths.gather(0, first)[0].masked_fill(none, min(width, round(height * _RATIOS[1])))
    down_from, right_from = torch.rand(2, n, dtype=torch.float64)
    free_rows, free_columns = height - down, width - across
    top = torch.where(none, free_rows / 2, down_from * (free_rows + 1)).floor()
    left = torch.where(none, free_columns / 2, right_from * (free_columns + 1)).floor()
    return top, left, down, across


def _enlarged(first: Tensor, size: Tensor, length: int) -> Tensor:
    """Return where the pixels of enlarged windows lie, float32 (n, length): −1 is the first pixel, 1 the last."""
    places = (torch.arange(length, dtype=torch.float64) + 0.5) * size[:, None] / length - 0.5
    places = first[:, None] + places.clamp(min=0.0).minimum(size[:, None] - 1.0)
    return (2.0 * places / max(length - 1, 1) - 1.0).float()


def _flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = _draw(len(images), 2, images)[:, None, None, None] == 1
    return torch.where(mirrored, images.flip(3), images)


def _cut_out(images: Tensor, side: int, colour: Sequence[float]) -> Tensor:
    """Fill a square whose centre is drawn uniformly; it may reach over the border (DeVries 2017).

    The colour is in units of pixel/255; the pixel nearest to it is taken.
    """
    n, _, height, width = images.shape
    rows = _covered(_draw(n, height, images), height, side)[:, None, :, None]
    columns = _covered(_draw(n, width, images), width, side)[:, None, None, :]
    pixel = (torch.tensor(colour, dtype=torch.float64) * _WHITE).round().clamp(0, _WHITE).byte().to(images.device)
    return torch.where(rows & columns, pixel[:, None, None], images)


def _covered(centre: Tensor, length: int, side: int) -> Tensor:
    """Mark, for each image, the positions from centre − side//2 on that the square covers: bool (N, length)."""
    offset = torch.arange(length, device=centre.device) - (centre[:, None] - side // 2)
    return (offset >= 0) & (offset < side)


def _draw(n: int, limit: int, like: Tensor) -> Tensor:
    return torch.randint(limit, (n,)).to(like.device)
