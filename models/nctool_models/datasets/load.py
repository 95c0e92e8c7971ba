"""Load an image data set by its name, from a file or from a folder.

In: a name, or the path of an .npz file or of a folder of images, and a folder for downloads. Out: a `Dataset` of uint8
arrays, all of it in memory. `digits` is part of this package; every other name and folders of images need torchvision,
which is imported by their loaders only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nctool.errors import UsageError
from nctool.toml import closest
from nctool_models.datasets.dataset import Arrays, Dataset
from nctool_models.datasets.image_files import RGB
from nctool_models.datasets.image_folders import TINY_IMAGENET, read_folder, read_tiny_imagenet, require_folder
from nctool_models.datasets.npz import read_npz, require_npz
from nctool_models.datasets.torchvision_files import SOURCES, read_torchvision


@dataclass(frozen=True)
class Request:
    """The arguments of `load_dataset` besides the name.

    Attributes:
        data_dir: the folder of data sets.
        image_size: side of the square that image files are brought to; as they are when None.
        channels: of image files, 1 or 3.
        download: fetch what is missing.
    """

    data_dir: Path
    image_size: int | None
    channels: int
    download: bool


@dataclass(frozen=True)
class BuiltIn:
    """A data set that has a name.

    Attributes:
        read: returns its arrays.
        is_image_files: it consists of image files, whose size and channels can be chosen.
        is_packaged: it is part of this package, not in the folder of data sets.
    """

    read: Callable[[Request], Arrays]
    is_image_files: bool = False
    is_packaged: bool = False


def _digits(_request: Request) -> Arrays:
    """Read the 1,797 grey images of 8x8 pixels that scikit-learn (BSD-3) has as `load_digits`.

    Their values 0..16 are scaled to 0..255. A fifth of each class, drawn at random, is the test split. Source: E.
    Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, CC BY 4.0,
    doi 10.24432/C50P49.
    """
    return read_npz(Path(__file__).with_name("digits.npz"))


def _torchvision(name: str, request: Request) -> Arrays:
    return read_torchvision(name, request.data_dir, request.download)


def _tiny_imagenet(request: Request) -> Arrays:
    return read_tiny_imagenet(request.data_dir, request.image_size, request.channels)


DATASETS = {
    "digits": BuiltIn(_digits, is_packaged=True),
    TINY_IMAGENET: BuiltIn(_tiny_imagenet, is_image_files=True),
    **{name: BuiltIn(partial(_torchvision, name)) for name in SOURCES},
}
"""The built-in data sets by name."""
NAMES = tuple(sorted(DATASETS))


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
    name = str(name)
    if not is_image_folder(name):
        _require_no_choice(name, image_size=image_size, channels=channels)
    require_dataset(name)
    if name in DATASETS:
        folder = default_data_dir() if data_dir is None else Path(data_dir)
        request = Request(folder, image_size, channels or RGB, download)
        named = None if data_dir is None or DATASETS[name].is_packaged else str(folder.absolute())
        return Dataset.measured(name, DATASETS[name].read(request), named)
    if is_image_folder(name):
        return Dataset.measured(name, read_folder(Path(name), image_size, channels or RGB))
    return Dataset.measured(name, read_npz(Path(name)))


def require_dataset(name: str) -> None:
    """Refuse a name that is none of a data set, and a path at which there is none, with a UsageError."""
    if name in DATASETS:
        return
    if is_image_folder(name):
        require_folder(Path(name))
    elif name.endswith(".npz"):
        require_npz(Path(name))
    else:
        raise UsageError(
            f"unknown data set `{name}`, allowed: {', '.join(NAMES)}, or the path of an .npz file or of a folder of "
            "images",
            hint=closest(name, NAMES),
        )


def is_image_folder(name: str) -> bool:
    """Say whether a data set consists of image files, so that their size can be chosen.

    A name is taken for the path of a folder if it has a / or the folder is there.

    Built-in names win over folders of the same name.
    """
    if name in DATASETS:
        return DATASETS[name].is_image_files
    return not name.endswith(".npz") and (os.sep in name or Path(name).is_dir())


def default_data_dir() -> Path:
    """Return the folder for downloads: `nctool/data` in the user's cache, which XDG_CACHE_HOME may move."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "nctool" / "data"


def _require_no_choice(name: str, **choices: int | None) -> None:
    """Refuse a size or channels for images that are no files."""
    for key, value in choices.items():
        if value is not None:
            raise UsageError(
                f"data set `{name}`: got `data.{key}` {value}, allowed: none, its images are taken as they are",
                hint="leave it out: it is for folders of images",
            )
