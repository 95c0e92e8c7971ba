"""Read samples and labels from .npy files or arrays, and write traces to an .npz file.

In: paths or arrays. Out: arrays, or errors that name the file. Nothing is unpickled.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nctool.errors import FormatError, UnsupportedError, UsageError, first_line
from nctool.files import cannot_read, plain_file, write_atomically
from nctool.image_arrays import how_to_class_numbers
from nctool.reference.trace import Trace, join

SAVE_HINT = "save an array of numbers with `numpy.save`"
FOLDER_HINT = "a folder with train/ and test/ of class folders is a --dataset; for other images, " + SAVE_HINT
IMAGE_HINT = "save its pixels: `numpy.save('x.npy', numpy.asarray(image)[None])`, image being what Pillow opened"
ARCHIVE_HINT = "save one array of it with `numpy.save`; a data set of images and labels is given with --dataset"
IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
LARGEST_LABEL = 2**31 - 1
UNFIT_NAME = re.compile(r"[/\\\x00-\x1f\x7f]|^\.\.?$|.{201}")
"""Layer names that the members of an archive cannot have, or that would leave the folder it is unpacked in."""
LABELS = "labels"
"""What messages call an array of class numbers."""

Source = Path | ArrayLike
"""The path of a .npy file, also as text, or anything that NumPy can make an array of."""


def path_of(source: Source | None) -> Path | None:
    """Return the path of a file, None for an array."""
    return Path(source) if isinstance(source, (str, Path)) else None


def name_of(source: Source | None, argument: str) -> str:
    """Return what messages call a source: its path, or the argument that an array was given as."""
    path = path_of(source)
    return argument if path is None else str(path)


def load_array(source: Source, argument: str = "input") -> NDArray[Any]:
    """Return an array of numbers; that of a .npy file is mapped and not read.

    Args:
        source: path or array.
        argument: what messages call an array.

    Raises:
        UsageError: there is no such file, or it is a folder.
        FormatError: it is no .npy file or array of numbers.
    """
    path = path_of(source)
    values = _as_array(source, argument) if path is None else _map(path)
    if values.ndim > 0 and len(values) == 0:
        raise FormatError(
            f"`{name_of(source, argument)}`: holds no {_content(argument)}: {values.dtype} {values.shape}"
        )
    if values.dtype.kind not in "biuf" or values.ndim == 0 or values.size == 0:
        name, hint = name_of(source, argument), None if path is None else SAVE_HINT
        raise FormatError(f"`{name}`: holds {values.dtype} {values.shape}, allowed an array of numbers", hint)
    return values


def _content(argument: str) -> str:
    return LABELS if argument == LABELS else "samples"


def _as_array(source: Any, argument: str) -> NDArray[Any]:
    try:
        return np.asarray(source)
    except Exception as error:  # of a list, or of a tensor on an accelerator, in that library's own way
        raise FormatError(f"`{argument}`: no array ({first_line(error)})", hint="give a NumPy array") from error


def _map(path: Path) -> NDArray[Any]:
    if path.is_dir():
        raise UsageError(f"`{path}` is a folder, allowed: a .npy file", hint=FOLDER_HINT)
    try:
        plain_file(path)
    except FileNotFoundError as error:
        raise UsageError(f"no such file: `{path}`", hint=SAVE_HINT) from error
    except OSError as error:
        raise cannot_read(path, error) from error
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise FormatError(f"`{path}` is an image, allowed: a .npy file", hint=IMAGE_HINT)
    if zipfile.is_zipfile(path):
        raise FormatError(f"`{path}` is an archive, allowed: a .npy file of one array", hint=ARCHIVE_HINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a shape whose product overflows is no more than a warning to NumPy
            values: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]  # NumPy's own
    except Exception as error:  # NumPy reads the header with Python's tokeniser and parser
        raise FormatError(f"`{path}`: no sound .npy file ({first_line(error)})", hint=SAVE_HINT) from error
    return values


def load_labels(source: Source, n_samples: int, *, of_all: bool = False) -> NDArray[np.int64]:
    """Return the labels of a .npy file or array, int64 (samples,), the first `n_samples` of them.

    Args:
        source: where they are.
        n_samples: how many are wanted.
        of_all: those are all samples that there are: refuse more labels.

    Raises:
        UsageError: there is no such file.
        FormatError: it does not hold one class number for each sample.
    """
    values, name = load_array(source, LABELS), name_of(source, LABELS)
    are_too_many = of_all and len(values) > n_samples
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) < n_samples or are_too_many:
        raise FormatError(
            f"`{name}`: labels are {values.dtype} {values.shape}, allowed class numbers for {n_samples} samples",
            how_to_class_numbers("y", values[:n_samples], n_samples),
        )
    labels = values[:n_samples]
    if labels.min() < 0 or labels.max() > LARGEST_LABEL:
        raise FormatError(f"`{name}`: labels reach from {labels.min()} to {labels.max()}, allowed 0..{LARGEST_LABEL}")
    return labels.astype(np.int64)


def require_array_names(layers: Iterable[str], option: str) -> None:
    """Refuse with an UnsupportedError a layer whose name cannot name an array of the file that `option` asks for."""
    for layer in layers:
        if UNFIT_NAME.search(layer):
            raise UnsupportedError(
                f"{option}: layer {layer!r} cannot name an array, allowed up to 200 characters without `/`, `\\` and "
                "control characters"
            )


def record(traces: Iterable[Trace], path: Path) -> Iterator[Trace]:
    """Yield traces as they come; write them all to an .npz at the end.

    The file holds `logits`, int64 (samples, steps, neurons), and `spikes/NAME`, bool (samples, steps, *shape).
    """
    kept = []
    for trace in traces:
        kept.append(trace)
        yield trace
    whole = join(kept)
    arrays = {f"spikes/{name}": spikes for name, spikes in whole.spikes.items()}
    save_arrays(path, {"logits": whole.logits, **arrays}, "-o", compressed=True)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], option: str, *, compressed: bool = False) -> None:
    """Write an .npz file. It is built in memory, because NumPy reports a full disk too late.

    Raises:
        UsageError: the file cannot be written.
    """
    buffer = BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **dict(arrays))
    write_atomically(path, buffer.getbuffer(), option)
