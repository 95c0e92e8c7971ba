"""Folders of images: a tree of class folders in each split, or Tiny-ImageNet as it is published.

In: a folder, and perhaps the side that images are brought to. Out: checked uint8 arrays in (N, C, H, W) order.
torchvision lists and changes the images; it is imported only when such a folder is asked for.
"""

from __future__ import annotations

from pathlib import Path

from nctool.errors import UsageError
from nctool_models.datasets.class_folders import TREE_HINT, list_tree
from nctool_models.datasets.image_files import RGB, ImageReader
from nctool_models.datasets.npz import Arrays
from nctool_models.datasets.tiny_imagenet import FOLDER, WNIDS, list_tiny_imagenet
from nctool_models.datasets.torchvision_files import import_torchvision

TINY_IMAGENET = "tiny-imagenet"


def read_folder(folder: Path, image_size: int | None, channels: int = RGB) -> Arrays:
    """Read a folder of images.

    Args:
        folder: holds train/ and test/ or val/ of class folders, `test` being taken where both are there; or the files
            of Tiny-ImageNet, whose `val` is the test split: its own `test` has no labels.
        image_size: side of the square that images are brought to; None takes them as they are.
        channels: 1 makes them grey, 3 RGB.

    Returns:
        classes, x_train uint8 (N, channels, H, W), y_train int64 (N,), x_test, y_test; the first few test images
        are of all classes.

    Raises:
        UsageError: there is no such folder, a file cannot be opened, or torchvision is not installed.
        FormatError: the folder has another layout, a class without images, other classes in one split than in the
            other, a file that is no image, or images of several sizes.
        RangeError: the images do not fit into memory.
    """
    if not folder.is_dir():
        raise UsageError(f"no data set folder `{folder}`", hint=TREE_HINT)
    torchvision = import_torchvision(str(folder))
    list_splits = list_tiny_imagenet if (folder / WNIDS).is_file() else list_tree
    classes, train, test = list_splits(folder, torchvision)
    x_train, x_test = ImageReader(torchvision, image_size, channels).read(train.paths, test.paths)
    return classes, x_train, train.labels, x_test, test.labels


def read_tiny_imagenet(data_dir: Path, image_size: int | None, channels: int = RGB) -> Arrays:
    """Read Tiny-ImageNet from its folder below `data_dir`; as `read_folder`."""
    folder = Path(data_dir) / FOLDER
    if not (folder / WNIDS).is_file():
        raise UsageError(
            f"data set `{TINY_IMAGENET}` is not in `{data_dir}`",
            hint=f"unpack {FOLDER}.zip there, to get `{folder}/{WNIDS}`, or name another folder with --data-dir",
        )
    return read_folder(folder, image_size, channels)
