"""MNIST and Fashion-MNIST through torchvision, which is imported here only, and only when asked for.

In: a name, a folder, whether to download. Out: checked uint8 arrays in (N, C, H, W) order.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nctool.errors import FormatError, UsageError
from nctool.files import make_directory
from nctool_models.npz import Arrays

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""torchvision's class, and folder below the data folder, of each data set."""
_SIDE = 28
_N_CLASSES = 10
_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def load_torchvision(name: str, data_dir: Path, download: bool) -> Arrays:
    """Read a data set from `data_dir`/<folder>/raw, after downloading it when it is not there.

    Args:
        name: a key of `FOLDERS`.
        data_dir: the data folder; written to only when something is missing and `download` is true.
        download: fetch what is missing.

    Returns:
        classes, x_train uint8 (N, 1, 28, 28), y_train int64 (N,), x_test, y_test.

    Raises:
        UsageError: torchvision is not installed, or the files are missing and cannot be downloaded.
        FormatError: a file is there, but bad.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: its release does not fit that of torch
        raise UsageError(f"data set `{name}` needs torchvision", hint='pip install "nctool[vision]"') from error
    loader = getattr(datasets, FOLDERS[name])
    raw = Path(data_dir) / FOLDERS[name] / "raw"
    if not _is_complete(raw):
        _download(name, loader, data_dir, raw, download)
    train, test = (_read(name, loader, data_dir, raw, train=train) for train in (True, False))
    classes = tuple(str(each) for each in loader.classes)
    return classes, *train, *test


def _is_complete(raw: Path) -> bool:
    return all((raw / file).is_file() for file in _FILES)


def _download(name: str, loader: Any, data_dir: Path, raw: Path, download: bool) -> None:
    hint = f"put {', '.join(_FILES)} into `{raw}`, or name another folder with --data-dir"
    if not download:
        raise UsageError(f"data set `{name}` is not in `{data_dir}`", hint)
    make_directory(Path(data_dir))
    try:
        with redirect_stdout(sys.stderr):  # torchvision talks on stdout, which is for data
            loader(str(data_dir), download=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise UsageError(f"cannot download data set `{name}` to `{data_dir}`", hint) from error


def _read(
    name: str, loader: Any, data_dir: Path, raw: Path, *, train: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        split = loader(str(data_dir), train=train, download=False)
        images, labels = split.data.numpy(), split.targets.numpy().astype(np.int64)
    except (RuntimeError, OSError, ValueError, AssertionError, TypeError, KeyError, IndexError) as error:
        raise _bad(name, raw, train, "a file that is truncated or no IDX file") from error
    if images.dtype != np.uint8 or images.shape != (len(labels), _SIDE, _SIDE) or len(labels) == 0:
        raise _bad(name, raw, train, f"{len(labels)} labels for {images.dtype} images {images.shape}")
    if labels.min() < 0 or labels.max() >= _N_CLASSES:
        raise _bad(name, raw, train, f"labels {labels.min()}..{labels.max()}")
    return images[:, None], labels


def _bad(name: str, raw: Path, train: bool, got: str) -> FormatError:
    part = "train" if train else "t10k"
    return FormatError(
        f"data set `{name}`, `{raw}/{part}-*`: got {got}, allowed: images of 28x28 with labels 0..9",
        hint="delete the files, they are then downloaded again",
    )
