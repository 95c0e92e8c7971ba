"""Folders of images: a tree of class folders in each split, or Tiny-ImageNet as it is published.

In: a folder, and perhaps the side that images are brought to. Out: checked uint8 arrays in (N, C, H, W) order, or an
error that says what is missing where. torchvision lists the images; it is imported only when such a folder
is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nctool.errors import FormatError, UsageError
from nctool.files import cannot_read, plain_file
from nctool_models.datasets.dataset import Arrays
from nctool_models.datasets.image_files import RGB, ImageReader
from nctool_models.datasets.torchvision_files import import_torchvision

TINY_IMAGENET = "tiny-imagenet"
_TREE_HINT = "a folder of images holds train/CLASS/*.jpg, and test/CLASS/*.jpg or val/CLASS/*.jpg"

_FOLDER = "tiny-imagenet-200"
"""What the published archive of Tiny-ImageNet unpacks to."""
_WNIDS = "wnids.txt"
"""Its file that lists the classes, by their numbers in WordNet."""
_ANNOTATIONS, _WORDS = "val/val_annotations.txt", "words.txt"
_TINY_HINT = f"unpack {_FOLDER}.zip anew"


@dataclass(frozen=True)
class _Split:
    """The files of one split.

    Attributes:
        classes: names of the class folders, sorted.
        paths: of the images.
        labels: int64 (N,), positions in `classes`.
    """

    classes: tuple[str, ...]
    paths: list[Path]
    labels: npt.NDArray[np.int64]


_Splits = tuple[tuple[str, ...], _Split, _Split]
"""Names of the classes, the training and the test split."""


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
    require_folder(folder)
    torchvision = import_torchvision(str(folder))
    list_splits = _list_tiny_imagenet if (folder / _WNIDS).is_file() else _list_tree
    classes, train, test = list_splits(folder, torchvision)
    x_train, x_test = ImageReader(image_size, channels).read(train.paths, test.paths)
    return classes, x_train, train.labels, x_test, test.labels


def require_folder(folder: Path) -> None:
    """Refuse, with a UsageError, a path at which there is no folder."""
    if not folder.is_dir():
        raise UsageError(f"no data set folder `{folder}`", hint=_TREE_HINT)


def read_tiny_imagenet(data_dir: Path, image_size: int | None, channels: int = RGB) -> Arrays:
    """Read Tiny-ImageNet from its folder below `data_dir`; as `read_folder`."""
    folder = Path(data_dir) / _FOLDER
    if not (folder / _WNIDS).is_file():
        raise UsageError(
            f"data set `{TINY_IMAGENET}` is not in `{data_dir}`",
            hint=f"unpack {_FOLDER}.zip there, to get `{folder}/{_WNIDS}`, or name another folder with --data-dir",
        )
    return read_folder(folder, image_size, channels)


def _list_tree(folder: Path, torchvision: Any) -> _Splits:
    """Return the images of train/ by name, and of test/, or of val/ where there is no test/, in a mixed order.

    Raises:
        UsageError: a folder cannot be read.
        FormatError: a split is missing or empty, a class has no image or is in one split only, or a file is no image.
    """
    test_folder = folder / "test" if (folder / "test").is_dir() else folder / "val"
    for split in (folder / "train", test_folder):
        if not split.is_dir():
            missing = "train" if split.name == "train" else "test` or `val"
            raise FormatError(f"`{folder}` has no folder `{missing}`", hint=_TREE_HINT)

    def is_image(path: str) -> bool:
        return _is_image(Path(path), torchvision.datasets.folder.IMG_EXTENSIONS)

    train, test = (_list_classes(torchvision, split, is_image, _TREE_HINT) for split in (folder / "train", test_folder))
    for split_only, where in (
        (set(train.classes) - set(test.classes), "train"),
        (set(test.classes) - set(train.classes), test_folder.name),
    ):
        if split_only:
            raise FormatError(f"`{folder}`: class folder `{min(split_only)}` is in `{where}` only", hint=_TREE_HINT)
    return train.classes, train, _mixed(test)


def _mixed(split: _Split) -> _Split:
    """Mix a split, always in the same order, so that its first few images are of all classes."""
    order = np.random.default_rng(0).permutation(len(split.paths))
    return replace(split, paths=[split.paths[number] for number in order], labels=split.labels[order])


def _is_image(path: Path, extensions: tuple[str, ...]) -> bool:
    """Leave out hidden files; refuse any other that is no image, so that nothing is left out in silence."""
    if path.name.startswith("."):
        return False
    if not path.name.lower().endswith(extensions):
        raise FormatError(f"`{path}`: is no image, allowed: {', '.join(extensions)}", hint="move it out of there")
    return True


def _require_no_loop(folder: Path) -> None:
    """Refuse a link that leads, directly or not, to a folder above it: its images would be listed without end."""
    for root, folders, _ in os.walk(folder, followlinks=True):
        passed = {os.path.realpath(place) for place in (Path(root), *Path(root).parents)}
        folders.sort()  # the walk follows, so that the same link is named each time
        for path in (Path(root, name) for name in folders):
            if os.path.realpath(path) in passed:
                raise FormatError(f"`{path}`: is a link to a folder above it", hint="remove the link")


def _list_classes(torchvision: Any, folder: Path, is_image: Callable[[str], bool], hint: str) -> _Split:
    """Return the images of the class folders in `folder`.

    Args:
        torchvision: the package.
        folder: of one split.
        is_image: whether the file of a path belongs to the split.
        hint: what errors give as the way out.

    Raises:
        UsageError: a folder cannot be read.
        FormatError: there is no class folder, or an empty one, or a link leads back to a folder above it.
    """
    _require_no_loop(folder)
    try:
        listed = torchvision.datasets.ImageFolder(str(folder), is_valid_file=is_image, allow_empty=True)
    except FileNotFoundError as error:
        raise FormatError(f"`{folder}` holds no class folder", hint) from error
    except OSError as error:
        raise UsageError(f"cannot read `{error.filename}`: {(error.strerror or str(error)).lower()}") from error
    labels = np.array(listed.targets, dtype=np.int64)
    empty = sorted(set(range(len(listed.classes))) - set(labels.tolist()))
    if empty:
        raise FormatError(f"class folder `{folder / listed.classes[empty[0]]}` holds no image", hint)
    return _Split(tuple(listed.classes), [Path(path) for path, _ in listed.samples], labels)


def _list_tiny_imagenet(folder: Path, torchvision: Any) -> _Splits:
    """Return the training images, and those of `val` as the test split.

    Raises:
        UsageError: a file or folder cannot be read.
        FormatError: a part is missing, or the parts do not agree.
    """
    for part in ("train", _ANNOTATIONS):
        if not (folder / part).exists():
            raise FormatError(f"`{folder}` misses `{part}`", hint=_TINY_HINT)
    train = _list_classes(torchvision, folder / "train", _is_tiny_image, _TINY_HINT)
    wnids = tuple(sorted({line.strip() for line in _lines(folder / _WNIDS)}))
    if train.classes != wnids:
        first = min(set(train.classes) ^ set(wnids))
        where = "train" if first in train.classes else _WNIDS
        raise FormatError(f"`{folder}`: class `{first}` is in `{where}` only", hint=_TINY_HINT)
    return _names(folder / _WORDS, wnids), train, _annotated(folder / _ANNOTATIONS, wnids)


def _is_tiny_image(path: str) -> bool:
    """Leave out the files that list boxes: they lie beside the images."""
    return path.endswith(".JPEG")


def _annotated(path: Path, wnids: tuple[str, ...]) -> _Split:
    """Return the images that a file lists, each with its class and its box in columns with tabs between them."""
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    images, labels = [], []
    for number, line in enumerate(_lines(path), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in numbers:
            message = f"`{path}`, line {number}: got class `{wnid}`, allowed: those of `{_WNIDS}`"
            raise FormatError(message, hint=_TINY_HINT)
        images.append(path.parent / "images" / name)
        labels.append(numbers[wnid])
    if not images:
        raise FormatError(f"`{path}` lists no image", hint=_TINY_HINT)
    return _Split(wnids, images, np.array(labels, dtype=np.int64))


def _names(path: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words for each class, or its number where it has none."""
    words = dict(line.split("\t", 1) for line in _lines(path) if "\t" in line) if path.is_file() else {}
    return tuple(words.get(wnid, wnid) for wnid in wnids)


def _lines(path: Path) -> list[str]:
    try:
        return plain_file(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"`{path}` is not UTF-8 text (byte {error.start})", hint=_TINY_HINT) from error
    except OSError as error:
        raise cannot_read(path, error) from error
