"""The image data sets of the model zoo, all in one shape.

In: a name, or the path of an .npz file or of a folder of images, and a folder for downloads. Out: a `Dataset` of uint8
arrays, all of it in memory. `digits` is part of this package; every other name and folders of images need torchvision,
which is imported by their loaders only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nctool.errors import UsageError
from nctool.image_arrays import row_by_row
from nctool.toml_schema import closest
from nctool.training import LabelledImages, Normalisation, TrainingData
from nctool_models.datasets.image_files import RGB
from nctool_models.datasets.image_folders import TINY_IMAGENET, read_folder, read_tiny_imagenet
from nctool_models.datasets.npz import read_npz
from nctool_models.datasets.torchvision_files import SOURCES, load_torchvision

NAMES = tuple(sorted(("digits", TINY_IMAGENET, *SOURCES)))
"""The built-in data sets."""
_DIGITS = Path(__file__).with_name("digits.npz")
"""The 1,797 grey images of 8x8 pixels that scikit-learn (BSD-3) has as `load_digits`, their values 0..16 scaled to
0..255; a fifth of each class, drawn at random, is the test split. Source: E. Alpaydin, C. Kaynak, Optical Recognition
of Handwritten Digits, UCI Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0."""
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


def load_dataset(
    name: Path | str,
    data_dir: Path | str | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    download: bool = True,
) -> Dataset:
    """Load a data set by name, from an .npz file or from a folder of images.

    Args:
        name: one of `NAMES`, a path that ends in .npz, or the path of a folder; see `read_npz` and `read_folder`.
        data_dir: folder of downloaded data; $XDG_CACHE_HOME/nctool/data or ~/.cache/nctool/data when None.
        image_size: side of the square that the images of a folder are brought to; as they are when None.
        channels: of the images of a folder: 1 is grey, 3, or None, RGB.
        download: fetch what is missing. `tiny-imagenet` and folders are never fetched.

    Raises:
        UsageError: unknown name, missing file or folder, a package that is not installed, a download that failed, or
            a size or channels for a data set that has its own.
        FormatError: a file is there, but bad.
        RangeError: the images do not fit into memory.
    """
    name, folder = str(name), default_data_dir() if data_dir is None else Path(data_dir)
    named = None if data_dir is None else str(Path(data_dir).absolute())
    if name == TINY_IMAGENET:
        return replace(_dataset(name, *read_tiny_imagenet(folder, image_size, channels or RGB)), data_dir=named)
    if is_image_folder(name):
        return _dataset(name, *read_folder(Path(name), image_size, channels or RGB))
    for key, value in (("image_size", image_size), ("channels", channels)):
        if value is not None:
            raise UsageError(
                f"data set `{name}`: got `data.{key}` {value}, allowed: none, its images are taken as they are",
                hint="leave it out: it is for folders of images",
            )
    if name.endswith(".npz"):
        return _dataset(name, *read_npz(Path(name)))
    if name == "digits":
        return _dataset(name, *read_npz(_DIGITS))
    if name in SOURCES:
        return replace(_dataset(name, *load_torchvision(name, folder, download)), data_dir=named)
    raise UsageError(
        f"unknown data set `{name}`, allowed: {', '.join(NAMES)}, or the path of an .npz file or of a folder of images",
        hint=closest(name, NAMES),
    )


def is_image_folder(name: str) -> bool:
    """Say whether a data set consists of image files, whose size can be chosen; a path is one that is there or has a /.

    Built-in names win over folders of the same name.
    """
    is_path = os.sep in name or Path(name).is_dir()
    return name == TINY_IMAGENET or (name not in NAMES and not name.endswith(".npz") and is_path)


def default_data_dir() -> Path:
    """Return the folder for downloads: `nctool/data` in the user's cache, which XDG_CACHE_HOME may move."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "nctool" / "data"


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
    return LabelledImages(torch.from_numpy(row_by_row(images)), torch.from_numpy(labels.copy()))
