"""MNIST, Fashion-MNIST and CIFAR through torchvision, which is imported only when it is asked for.

In: a name, a folder, whether to download. Out: checked uint8 arrays in (N, C, H, W) order. The CIFAR files are
pickles: torchvision compares each with its published MD5 sum before it opens one.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt

from nctool.errors import FormatError, UsageError
from nctool.files import make_directory
from nctool.image_arrays import row_by_row
from nctool.torchrun import rank_and_size
from nctool_models.datasets.dataset import Arrays

PATIENCE_S = 4.0
"""Seconds that a server may take to answer at all."""


@dataclass(frozen=True)
class _Source:
    """How torchvision keeps a data set, and what must be in it.

    Attributes:
        loader: the class in `torchvision.datasets`.
        folder: of the files, below the data folder.
        files: their names, all of which must be there.
        parts: what messages call the files that the training and the test split come from.
        damage: what messages say of a file that torchvision cannot read.
        image: shape of an image as torchvision gives it, (height, width) or (height, width, channels).
        n_classes: labels are 0..n_classes − 1.
    """

    loader: str
    folder: str
    files: tuple[str, ...]
    parts: tuple[str, str]
    damage: str
    image: tuple[int, ...]
    n_classes: int


def _idx(loader: str) -> _Source:
    files = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    damage = "a file that is truncated or no IDX file"
    return _Source(loader, f"{loader}/raw", files, ("train-*", "t10k-*"), damage, (28, 28), 10)


def _cifar(loader: str, folder: str, files: tuple[str, ...], n_classes: int) -> _Source:
    damage = "a file that is not the published one"
    return _Source(loader, folder, files, ("*", "*"), damage, (32, 32, 3), n_classes)


_CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
SOURCES = {
    "cifar10": _cifar("CIFAR10", "cifar-10-batches-py", _CIFAR10_FILES, 10),
    "cifar100": _cifar("CIFAR100", "cifar-100-python", ("train", "test", "meta"), 100),
    "fashion-mnist": _idx("FashionMNIST"),
    "mnist": _idx("MNIST"),
}
"""The data sets that torchvision reads, by name."""


def read_torchvision(name: str, data_dir: Path, download: bool) -> Arrays:
    """Read a data set from its folder below `data_dir`, after downloading it when it is not there.

    Args:
        name: a key of `SOURCES`.
        data_dir: the data folder; written to only when something is missing and `download` is true.
        download: fetch what is missing.

    Returns:
        classes, x_train uint8 (N, C, H, W), y_train int64 (N,), x_test, y_test.

    Raises:
        UsageError: torchvision is not installed, or the files are missing and cannot be downloaded.
        FormatError: a file is there, but bad.
    """
    source = SOURCES[name]
    loader = getattr(import_torchvision(name).datasets, source.loader)
    folder = Path(data_dir) / source.folder
    if not all((folder / file).is_file() for file in source.files):
        _download(name, loader, data_dir, folder, download)
    classes, x_train, y_train = _read(name, loader, data_dir, train=True)
    _, x_test, y_test = _read(name, loader, data_dir, train=False)
    return classes, x_train, y_train, x_test, y_test


def import_torchvision(name: str) -> Any:
    """Return the package; a UsageError says that the data set `name` needs it."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:  # RuntimeError: its release does not fit that of torch
        raise UsageError(f"data set `{name}` needs torchvision", hint='pip install "nctool[vision]"') from error
    return torchvision


def _download(name: str, loader: Any, data_dir: Path, folder: Path, download: bool) -> None:
    hint = f"put {', '.join(SOURCES[name].files)} into `{folder}`, or name another folder with --data-dir"
    if not download:
        raise UsageError(f"data set `{name}` is not in `{data_dir}`", hint)
    if rank_and_size()[0] == 0:  # the processes of torchrun say it once
        sys.stderr.write(f"data set `{name}` is not in `{data_dir}`: downloading it\n")
    if not any(_answers(address) for address in getattr(loader, "mirrors", None) or [loader.url]):
        raise UsageError(f"cannot download data set `{name}` to `{data_dir}`: none of its servers answers", hint)
    make_directory(Path(data_dir))
    try:
        with redirect_stdout(sys.stderr):  # torchvision talks on stdout, which is for data
            loader(str(data_dir), download=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise UsageError(f"cannot download data set `{name}` to `{data_dir}`", hint) from error


def _answers(address: str) -> bool:
    """Say whether a server answers within `PATIENCE_S`: torchvision would try for long, without a word."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=PATIENCE_S).close()
    except HTTPError:  # an answer all the same
        return True
    except (OSError, HTTPException):
        return False
    return True


def _read(
    name: str, loader: Any, data_dir: Path, *, train: bool
) -> tuple[tuple[str, ...], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    source = SOURCES[name]
    where = f"data set `{name}`, `{Path(data_dir) / source.folder / source.parts[not train]}`"
    try:
        split = loader(str(data_dir), train=train, download=False)
        classes = tuple(map(str, split.classes))
        images, labels = np.asarray(split.data), np.asarray(split.targets, dtype=np.int64)
    except (RuntimeError, OSError, ValueError, AssertionError, TypeError, KeyError, IndexError) as error:
        raise _bad(source, where, source.damage) from error
    if images.dtype != np.uint8 or images.shape != (len(labels), *source.image) or len(labels) == 0:
        raise _bad(source, where, f"{len(labels)} labels for {images.dtype} images {images.shape}")
    if labels.min() < 0 or labels.max() >= source.n_classes:
        raise _bad(source, where, f"labels {labels.min()}..{labels.max()}")
    with_channels = images.reshape(*images.shape[:3], -1)
    return classes, row_by_row(with_channels.transpose(0, 3, 1, 2)), labels


def _bad(source: _Source, where: str, got: str) -> FormatError:
    shape = "x".join(str(length) for length in source.image)
    return FormatError(
        f"{where}: got {got}, allowed: images of {shape} with labels 0..{source.n_classes - 1}",
        hint="move the files away, they are then downloaded again",
    )
