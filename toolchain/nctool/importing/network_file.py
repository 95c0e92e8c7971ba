"""A network that was read from a file, and what the file itself makes of images.

In: what the readers found. Out: the network; or the proof that it gives what the file gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nctool.errors import FormatError, UsageError
from nctool.fast.engine import exact_arithmetic
from nctool.importing.values import Sizes

ROUNDINGS = 2**10
"""Roundings of float32, each a part of the largest score, by which two runs of one network may differ: 0.012 %. Sums of
some thousand products in another order make up to 30 a layer; what is read wrongly makes far more."""

_SIGNAL_AXES = 3
"""Axes of signals (N, C, length), and of one image."""

AT_ONCE = 64
"""Images that a file computes at once, if it takes any number."""


@dataclass(frozen=True)
class NetworkFile:
    """A file that was read.

    Args:
        network: in evaluation mode.
        sizes: of one image of the network, (C, H, W) or (features,).
        seen: of one image as the file takes it.
        batch: number of images that the file takes at once, None for any.
        run: what the file gives for float32 images (N, *sizes), by another program than the network where there is one.
        runner: what messages call that program.
    """

    network: nn.Module
    sizes: Sizes
    seen: Sizes
    batch: int | None
    run: Callable[[Tensor], Tensor]
    runner: str

    def answers(self, images: Tensor) -> Tensor:
        """Return what the file gives, in parts of as many images as it takes."""
        size = self.batch or AT_ONCE
        parts = []
        for part in images.split(size):
            filled = torch.cat([part, part[-1:].expand(size - len(part), *self.sizes)]) if self.batch else part
            parts.append(self.run(filled.contiguous())[: len(part)])
        return torch.cat(parts)

    def require_same(self, images: Tensor, where: str) -> None:
        """Compare the network with its file on images.

        Args:
            images: float32 (N, *sizes), as the network gets them; signals also (N, C, length).
            where: what messages call the file.

        Raises:
            UsageError: the images have another shape or type.
            FormatError: the answers differ, or the file gives none.
        """
        if images.ndim == _SIGNAL_AXES and len(self.sizes) == _SIGNAL_AXES:
            images = images.unsqueeze(2)
        _require_images(images, self.sizes)
        with torch.no_grad(), exact_arithmetic():
            wanted, found = self.answers(images), self.network(images)
        if wanted.shape != found.shape:
            shapes = f"{tuple(wanted.shape)}, the network read from it {tuple(found.shape)}"
            raise FormatError(f"{where}: {self.runner} gives scores of shape {shapes}")
        allowed = ROUNDINGS * float(np.finfo(np.float32).eps) * float(wanted.abs().max().clamp(min=1e-30))
        gaps = (found.double() - wanted.double()).abs()
        if not bool((gaps <= allowed).all()):  # also where one is not a number
            sample, score = np.unravel_index(int(gaps.nan_to_num(torch.inf).argmax()), gaps.shape)[:2]
            raise FormatError(
                f"{where}: the network read from it differs from {self.runner}: by {float(gaps[sample, score]):.3g} in "
                f"score {score} of image {sample}, allowed {allowed:.3g}",
                hint="export the network in another way, for example with another opset, or give it as a torch module",
            )


def _require_images(images: Tensor, sizes: Sizes) -> None:
    if images.dtype != torch.float32 or images.ndim < 2 or tuple(images.shape[1:]) != sizes or len(images) == 0:
        wanted = ", ".join(map(str, sizes))
        raise UsageError(
            f"images: got {images.dtype} {tuple(images.shape)}, the network takes torch.float32 (N, {wanted})",
            hint="normalise them as in training, channels first",
        )
