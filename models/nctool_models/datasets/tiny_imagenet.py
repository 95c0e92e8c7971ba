"""Tiny-ImageNet in the layout that it is published in.

In: its folder. Out: the paths and labels of its images, or an error that says what is missing where. Opens no image.
The labels of the published `test` are not: `val` is the test split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nctool.errors import FormatError
from nctool.reading import cannot_read, plain_file
from nctool_models.datasets.class_folders import Split, Splits, list_classes

FOLDER = "tiny-imagenet-200"
"""What the published archive unpacks to."""
WNIDS = "wnids.txt"
"""The file that lists the classes, by their numbers in WordNet."""
_HINT = f"unpack {FOLDER}.zip anew"
_ANNOTATIONS, _WORDS = "val/val_annotations.txt", "words.txt"


def list_tiny_imagenet(folder: Path, torchvision: Any) -> Splits:
    """Return the training images, and those of `val` as the test split.

    Raises:
        UsageError: a file or folder cannot be read.
        FormatError: a part is missing, or the parts do not agree.
    """
    for part in ("train", _ANNOTATIONS):
        if not (folder / part).exists():
            raise FormatError(f"`{folder}` misses `{part}`", hint=_HINT)
    train = list_classes(torchvision, folder / "train", _is_image, _HINT)
    wnids = tuple(sorted({line.strip() for line in _lines(folder / WNIDS)}))
    if train.classes != wnids:
        first = min(set(train.classes) ^ set(wnids))
        where = "train" if first in train.classes else WNIDS
        raise FormatError(f"`{folder}`: class `{first}` is in `{where}` only", hint=_HINT)
    return _names(folder / _WORDS, wnids), train, _annotated(folder / _ANNOTATIONS, wnids)


def _is_image(path: str) -> bool:
    """Leave out the files that list boxes: they lie beside the images."""
    return path.endswith(".JPEG")


def _annotated(path: Path, wnids: tuple[str, ...]) -> Split:
    """Return the images that a file lists, each with its class and its box in columns with tabs between them."""
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    images, labels = [], []
    for number, line in enumerate(_lines(path), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in numbers:
            message = f"`{path}`, line {number}: got class `{wnid}`, allowed: those of `{WNIDS}`"
            raise FormatError(message, hint=_HINT)
        images.append(path.parent / "images" / name)
        labels.append(numbers[wnid])
    if not images:
        raise FormatError(f"`{path}` lists no image", hint=_HINT)
    return Split(wnids, images, np.array(labels, dtype=np.int64))


def _names(path: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words for each class; its number where there are none."""
    words = dict(line.split("\t", 1) for line in _lines(path) if "\t" in line) if path.is_file() else {}
    return tuple(words.get(wnid, wnid) for wnid in wnids)


def _lines(path: Path) -> list[str]:
    try:
        return plain_file(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"`{path}` is not UTF-8 text (byte {error.start})", hint=_HINT) from error
    except OSError as error:
        raise cannot_read(path, error) from error
