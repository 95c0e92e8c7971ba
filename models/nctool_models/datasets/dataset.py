"""A data set: images and labels, split as published, and what is held out of it for training.

In: checked arrays. Out: a `Dataset` with the mean and the deviation of its pixels, and the `TrainingData` of a run.
Loads torch for the latter only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nctool.errors import UsageError
from nctool.image_arrays import row_by_row

if TYPE_CHECKING:
    from nctool.training import LabelledImages, Normalisation, TrainingData

Arrays = tuple[
    tuple[str, ...],
    npt.NDArray[np.uint8],
    npt.NDArray[np.int64],
    npt.NDArray[np.uint8],
    npt.NDArray[np.int64],
]
"""What a file or folder holds: classes, x_train, y_train, x_test, y_test, as in `Dataset`."""

_CHUNK = 1024
"""Images that statistics are taken of at a time."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split as published.

    Attributes:
        name: of the data set, or the path of its file or folder.
        classes: a name for each label.
        x_train: uint8 (N, C, H, W).
        y_train: int64 (N,), 0..len(classes) − 1.
        x_test: uint8 (M, C, H, W).
        y_test: int64 (M,).
        mean: of the training images for each channel, in units of pixel/255.
        std: the same, > 0.
        data_dir: the folder of data sets that it is from, where one was named; None of other data.
    """

    name: str
    classes: tuple[str, ...]
    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data_dir: str | None = None

    @classmethod
    def measured(cls, name: str, arrays: Arrays, data_dir: str | None = None) -> Dataset:
        """Return the data set of some arrays, with the statistics of its training images."""
        classes, x_train, y_train, x_test, y_test = arrays
        mean, std = _statistics(x_train)
        return cls(name, classes, x_train, y_train, x_test, y_test, mean, std, data_dir)


def training_data(
    dataset: Dataset, validation_fraction: float, seed: int, normalisation: Normalisation | None = None
) -> TrainingData:
    """Hold out a part of the training images and turn all into tensors.

    Args:
        dataset: what `load_dataset` returned.
        validation_fraction: part of the training images to hold out, between 0 and 1.
        seed: of the recipe; the same seed gives the same split.
        normalisation: from pixels to the network's input; by the data set's mean and standard deviation when None.

    Returns:
        the splits; the held-out images in an order drawn by `seed`, so that the first of them are a fair sample.

    Raises:
        UsageError: a split would be empty, a class has no training image, or the normalisation is for another number
            of channels.
    """
    from nctool.training import Normalisation, TrainingData

    _require_every_class(dataset)
    normalisation = normalisation or Normalisation(dataset.mean, dataset.std)
    _require_every_channel(dataset, normalisation)
    kept, held_out = stratified_split(dataset.y_train, validation_fraction, seed)
    held_out = np.random.default_rng(seed).permutation(held_out)  # so that a part of it holds every class
    return TrainingData(
        name=dataset.name,
        classes=dataset.classes,
        train=_images(dataset.x_train[kept], dataset.y_train[kept]),
        held_out=_images(dataset.x_train[held_out], dataset.y_train[held_out]),
        test=_images(dataset.x_test, dataset.y_test),
        normalisation=normalisation,
        data_dir=dataset.data_dir,
    )


def _require_every_class(dataset: Dataset) -> None:
    """Refuse a gap in the labels: the network would get an output that no image teaches it."""
    missing = sorted(set(range(len(dataset.classes))) - set(np.unique(dataset.y_train).tolist()))
    if missing:
        raise UsageError(
            f"data set `{dataset.name}`: class `{dataset.classes[missing[0]]}` (label {missing[0]}) "
            "has no training image",
            hint="number the classes 0, 1, 2, ... without a gap, each with images in the training split",
        )


def _require_every_channel(dataset: Dataset, normalisation: Normalisation) -> None:
    got, allowed = len(normalisation.mean), dataset.x_train.shape[1]
    if got != allowed:
        raise UsageError(
            f"data set `{dataset.name}`: `data.mean` and `data.std` have {got} numbers, allowed: {allowed}, one for "
            "each channel"
        )


def stratified_split(
    labels: npt.NDArray[np.int64], fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split positions in two so that every class is split in the same proportion.

    Args:
        labels: int64 (N,).
        fraction: part of each class in the second group, rounded to a whole number of images.
        seed: chooses the images.

    Returns:
        the positions of the first and of the second group, int64, each in ascending order.
    """
    generator = np.random.default_rng(seed)
    in_second = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        in_second[members[: round(len(members) * fraction)]] = True
    return np.flatnonzero(~in_second), np.flatnonzero(in_second)


def _statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel in units of pixel/255, from exact integer sums.

    A channel of one single value gets the standard deviation 1: it carries nothing to scale.
    """
    histograms = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), _CHUNK):  # bincount makes 8 bytes of every pixel
        for channel in range(images.shape[1]):
            histograms[channel] += np.bincount(images[start : start + _CHUNK, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    means = [float(histogram @ values / histogram.sum()) for histogram in histograms]
    spreads = [
        float(np.sqrt(histogram @ (values - mean) ** 2 / histogram.sum()))
        for histogram, mean in zip(histograms, means, strict=True)
    ]
    return tuple(means), tuple(spread if spread > 0.0 else 1.0 for spread in spreads)


def _images(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> LabelledImages:
    import torch

    from nctool.training import LabelledImages

    return LabelledImages(torch.from_numpy(row_by_row(images)), torch.from_numpy(labels.copy()))
