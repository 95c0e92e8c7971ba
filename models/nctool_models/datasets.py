"""The image data sets of the model zoo, all in one shape.

In: a name or the path of an .npz file, and a folder for downloads. Out: a `Dataset` of uint8 arrays.
`digits` needs scikit-learn, the MNIST and CIFAR sets need torchvision; each is imported by its loader only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nctool.errors import UsageError
from nctool.training import LabelledImages, Normalisation, TrainingData
from nctool_models.npz import read_npz
from nctool_models.torchvision_files import SOURCES, load_torchvision

NAMES = tuple(sorted(("digits", *SOURCES)))
"""The built-in data sets."""
_DIGITS_LARGEST = 16
"""Pixel values of scikit-learn's digits are 0..16 (its data set description)."""
_DIGITS_TEST_FRACTION = 0.2
_DIGITS_SPLIT_SEED = 0
"""The test images of `digits` are the same for every recipe and every seed."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split as published.

    Attributes:
        name: of the data set, or the path of its file.
        classes: a name for each label.
        x_train: uint8 (N, C, H, W).
        y_train: int64 (N,), 0..len(classes) − 1.
        x_test: uint8 (M, C, H, W).
        y_test: int64 (M,).
        mean: of the training images for each channel, in units of pixel/255.
        std: the same, > 0.
    """

    name: str
    classes: tuple[str, ...]
    x_train: npt.NDArray[np.uint8]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.uint8]
    y_test: npt.NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_dataset(name: str, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
    """Load a data set by name, or from an .npz file.

    Args:
        name: one of `NAMES`, or a path that ends in .npz.
        data_dir: folder of downloaded data; $XDG_CACHE_HOME/nctool/data or ~/.cache/nctool/data when None.
        download: fetch what is missing.

    Raises:
        UsageError: unknown name, missing file, a package that is not installed, or a download that failed.
        FormatError: a file is there, but bad.
    """
    if name.endswith(".npz"):
        return _dataset(name, *read_npz(Path(name)))
    if name == "digits":
        return _digits()
    if name in SOURCES:
        return _dataset(name, *load_torchvision(name, data_dir or default_data_dir(), download))
    raise UsageError(f"unknown data set `{name}`, allowed: {', '.join(NAMES)} or the path of an .npz file")


def default_data_dir() -> Path:
    """Return the folder for downloads: `nctool/data` in the user's cache, which XDG_CACHE_HOME may move."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "nctool" / "data"


def training_data(dataset: Dataset, validation_fraction: float, seed: int) -> TrainingData:
    """Hold out a part of the training images and turn all into tensors.

    Args:
        dataset: what `load_dataset` returned.
        validation_fraction: part of the training images to hold out, between 0 and 1.
        seed: of the recipe; the same seed gives the same split.

    Raises:
        UsageError: a split would be empty.
    """
    kept, held_out = stratified_split(dataset.y_train, validation_fraction, seed)
    return TrainingData(
        name=dataset.name,
        classes=dataset.classes,
        train=_images(dataset.x_train[kept], dataset.y_train[kept]),
        held_out=_images(dataset.x_train[held_out], dataset.y_train[held_out]),
        test=_images(dataset.x_test, dataset.y_test),
        normalisation=Normalisation(dataset.mean, dataset.std),
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


def _digits() -> Dataset:
    """Load scikit-learn's 1,797 digits of 8x8 pixels; a fifth of each class is the test split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("data set `digits` needs scikit-learn", hint="pip install scikit-learn") from error
    bunch = load_digits()
    images = np.rint(bunch.images[:, None] * (255 / _DIGITS_LARGEST)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, _DIGITS_TEST_FRACTION, _DIGITS_SPLIT_SEED)
    classes = tuple(str(digit) for digit in range(10))
    return _dataset("digits", classes, images[train], labels[train], images[test], labels[test])


def _dataset(
    name: str,
    classes: tuple[str, ...],
    x_train: npt.NDArray[np.uint8],
    y_train: npt.NDArray[np.int64],
    x_test: npt.NDArray[np.uint8],
    y_test: npt.NDArray[np.int64],
) -> Dataset:
    mean, std = _statistics(x_train)
    return Dataset(name, classes, x_train, y_train, x_test, y_test, mean, std)


def _statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel in units of pixel/255, from exact integer sums.

    A channel of one single value gets the standard deviation 1: it carries nothing to scale.
    """
    histograms = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
    values = np.arange(256) / 255
    means = [float(histogram @ values / histogram.sum()) for histogram in histograms]
    spreads = [
        float(np.sqrt(histogram @ (values - mean) ** 2 / histogram.sum()))
        for histogram, mean in zip(histograms, means, strict=True)
    ]
    return tuple(means), tuple(spread if spread > 0.0 else 1.0 for spread in spreads)


def _images(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> LabelledImages:
    return LabelledImages(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.copy()))
