"""Trees of class folders: a folder for each class, in a folder for each split.

In: a folder. Out: the paths and labels of its images, or an error that says what is missing where. Opens no image.
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

TREE_HINT = "a folder of images holds train/CLASS/*.jpg, and test/CLASS/*.jpg or val/CLASS/*.jpg"


@dataclass(frozen=True)
class Split:
    """The files of one split.

    Attributes:
        classes: names of the class folders, sorted.
        paths: of the images.
        labels: int64 (N,), positions in `classes`.
    """

    classes: tuple[str, ...]
    paths: list[Path]
    labels: npt.NDArray[np.int64]


Splits = tuple[tuple[str, ...], Split, Split]
"""Names of the classes, the training and the test split."""


def list_tree(folder: Path, torchvision: Any) -> Splits:
    """Return the images of train/ by name, and of test/, or of val/ where there is no test/, in a mixed order.

    Raises:
        UsageError: a folder cannot be read.
        FormatError: a split is missing or empty, a class has no image or is in one split only, or a file is no image.
    """
    test_folder = folder / "test" if (folder / "test").is_dir() else folder / "val"
    for split in (folder / "train", test_folder):
        if not split.is_dir():
            missing = "train" if split.name == "train" else "test` or `val"
            raise FormatError(f"`{folder}` has no folder `{missing}`", hint=TREE_HINT)

    def is_image(path: str) -> bool:
        return _is_image(Path(path), torchvision.datasets.folder.IMG_EXTENSIONS)

    train, test = (list_classes(torchvision, split, is_image, TREE_HINT) for split in (folder / "train", test_folder))
    for one, other, name in ((train, test, "train"), (test, train, test_folder.name)):
        alone = sorted(set(one.classes) - set(other.classes))
        if alone:
            raise FormatError(f"`{folder}`: class folder `{alone[0]}` is in `{name}` only", hint=TREE_HINT)
    return train.classes, train, _mixed(test)


def _mixed(split: Split) -> Split:
    """Return a split in an order that is always the same, the first few of which are of all classes."""
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
    """Refuse a link to a folder above it, also by way of other links: its images would be listed without end."""
    for root, folders, _ in os.walk(folder, followlinks=True):
        passed = {os.path.realpath(place) for place in (Path(root), *Path(root).parents)}
        folders.sort()  # the walk follows, so that the same link is named each time
        for path in (Path(root, name) for name in folders):
            if os.path.realpath(path) in passed:
                raise FormatError(f"`{path}`: is a link to a folder above it", hint="remove the link")


def list_classes(torchvision: Any, folder: Path, is_image: Callable[[str], bool], hint: str) -> Split:
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
    return Split(tuple(listed.classes), [Path(path) for path, _ in listed.samples], labels)
