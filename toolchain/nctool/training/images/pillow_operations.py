"""Operations on images as Pillow computes them, for whole batches, where torchvision's give other pixels.

In: uint8 batches (N, 1 or 3, H, W). Out: new ones of the same shape, with the very pixels that Pillow gives each image,
to which a test holds them. What comes from beyond the border is grey.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

GREY = 128
"""Fills what comes from beyond the border. Source: the policies of AutoAugment that are written for Pillow."""
_FIXED = 2.0**16
"""Pillow moves in fixed-point numbers of 16 fractional bits. Source: `affine_fixed` in its Geometry.c."""
_LUMA = (19595, 38470, 7471)
"""Parts of red, green and blue in the grey of a pixel, of 2^16. Source: `L24` in Pillow's Convert.c."""
_SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))
"""The kernel of `ImageFilter.SMOOTH`, of 13 parts."""


def moved(images: Tensor, right: float, down: float) -> Tensor:
    """Move images by so many pixels to the right and down; each new pixel is the nearest old one."""
    return _nearest(images, (1.0, 0.0, -right, 0.0, 1.0, -down))


def rotated(images: Tensor, degrees: float) -> Tensor:
    """Turn images counter-clockwise about their centre; each new pixel is the nearest old one."""
    height, width = images.shape[2:]
    cosine, sine, x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), width / 2, height / 2
    return _nearest(images, (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y))


def sheared_down(images: Tensor, slope: float) -> Tensor:
    """Take each column from `slope` times its distance to the left border further down, by a cubic of four pixels."""
    height, width = images.shape[2:]
    rows, columns = _centres(height, images.device)[:, None], _centres(width, images.device)
    source = rows + slope * columns
    above = (source - 0.5).floor()
    distance = source - 0.5 - above
    taps = [(above + offset).long().clamp(0, height - 1).expand_as(images) for offset in (-1, 0, 1, 2)]
    first, second, third, fourth = (images.gather(2, tap).double() for tap in taps)
    cubic = fourth - third + second - first
    square = 2.0 * (first - second) + third - fourth
    values = second + distance * (third - first + distance * (square + distance * cubic))
    return torch.where((source >= 0) & (source < height), values.clamp(0, 255).byte(), GREY)


def _centres(length: int, device: torch.device) -> Tensor:
    return torch.arange(length, dtype=torch.float64, device=device) + 0.5


def _nearest(images: Tensor, matrix: tuple[float, ...]) -> Tensor:
    """Give each pixel (x, y) that at (a·x + b·y + c, d·x + e·y + f); `matrix` is (a, b, c, d, e, f)."""
    height, width = images.shape[2:]
    rows, columns = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    places = []
    for by_x, by_y, start in (matrix[:3], matrix[3:]):
        first = _fixed(start + 0.5 * by_x + 0.5 * by_y)
        places.append((first + columns * _fixed(by_x) + rows * _fixed(by_y)) >> 16)
    x, y = places
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, images[:, :, y.clamp(0, height - 1), x.clamp(0, width - 1)], GREY)


def _fixed(value: float) -> int:
    return math.floor(value * _FIXED + 0.5)


def coloured(images: Tensor, factor: float) -> Tensor:
    """Blend images with their own grey: a factor of 0 gives that, 1 the image, more goes beyond it."""
    return _blended(_grey(images), images, factor)


def contrasted(images: Tensor, factor: float) -> Tensor:
    """Blend each image with its mean grey."""
    mean = (_grey(images).double().mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return _blended(mean, images, factor)


def sharpened(images: Tensor, factor: float) -> Tensor:
    """Blend images with smooth ones, whose outermost pixels are as they were."""
    if min(images.shape[2:]) < len(_SMOOTH):
        return images
    kernel = torch.tensor(_SMOOTH, dtype=torch.float32, device=images.device)
    whole = kernel.expand(images.shape[1], 1, -1, -1)  # of integers: exact in TF32 too, as GPUs multiply
    smooth = images.clone()
    inner = functional.conv2d(images.float(), whole, groups=images.shape[1]) / kernel.sum()
    smooth[:, :, 1:-1, 1:-1] = (inner + 0.5).clamp(0, 255).byte()
    return _blended(smooth, images, factor)


def autocontrasted(images: Tensor) -> Tensor:
    """Stretch each channel so that its darkest pixel becomes 0 and its lightest 255; one of a single value stays."""
    low, high = (f((2, 3), keepdim=True).double() for f in (images.amin, images.amax))
    scale = torch.full_like(low, 255.0) / (high - low).clamp(min=1.0)  # a number over a tensor is rounded twice
    return torch.where(high > low, (images * scale - low * scale).clamp(0, 255).byte(), images)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    parts = torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)
    return ((images.long() * parts).sum(1, keepdim=True) + 2**15) >> 16


def _blended(first: Tensor, second: Tensor, factor: float) -> Tensor:
    start = first.float()
    return (start + torch.tensor(factor, dtype=torch.float32) * (second.float() - start)).clamp(0, 255).byte()
