"""The images of one experiment in memory.

In: uint8 images and labels, split in three. Out: batches on a device, and the images of a calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nctool.errors import UsageError
from nctool.training.images.encoding import Normalisation

CALIBRATION_IMAGES = 256
"""Most training images that a conversion is calibrated on, and that a checkpoint carries for it."""


@dataclass(frozen=True)
class LabelledImages:
    """One split: images uint8 (N, C, H, W) and labels int64 (N,), N ≥ 1.

    Raises:
        UsageError: other types or shapes, or no image at all.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise UsageError(f"images are {_kind(self.images)}, allowed: torch.uint8 (N, C, H, W)")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise UsageError(f"labels are {_kind(self.labels)}, allowed: torch.int64 ({len(self.images)},)")
        if len(self.images) == 0:
            raise UsageError("a split holds no images", hint="change data.validation_fraction or use more images")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> LabelledImages:
        """Return the split on a device."""
        return LabelledImages(self.images.to(device), self.labels.to(device))

    def first(self, n_images: int) -> LabelledImages:
        """Return the first `n_images` of the split, or all when there are fewer."""
        return LabelledImages(self.images[:n_images], self.labels[:n_images])

    def batches(self, batch_size: int) -> Iterator[LabelledImages]:
        """Yield the split in order, in batches; the last may be smaller."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield LabelledImages(images, labels)


@dataclass(frozen=True)
class TrainingData:
    """Everything that `fit` needs to know of a data set.

    Attributes:
        name: of the data set.
        classes: a name for each label.
        train: the images that the weights are fitted to.
        held_out: the images that choose the epoch and measure the noise; part of the training set.
        test: evaluated once, at the end.
        normalisation: from pixels to the network's input.
        data_dir: the folder of data sets that it is from, where one was named.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelledImages
    held_out: LabelledImages
    test: LabelledImages
    normalisation: Normalisation
    data_dir: str | None = None

    def calibration(self, seed: int) -> LabelledImages:
        """Return the training images that a conversion is calibrated on: drawn by `seed`, `CALIBRATION_IMAGES`."""
        chosen = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:CALIBRATION_IMAGES]
        return LabelledImages(self.train.images[chosen], self.train.labels[chosen])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
