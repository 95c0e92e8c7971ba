"""Image data sets in NumPy's .npz format.

In: the path of a file with `x_train`, `y_train`, `x_test`, `y_test` and, if wanted, `classes` and `layout`.
Out: checked uint8 arrays in (N, C, H, W) order. Pickled objects are refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nctool.errors import FormatError, NctoolError, RangeError, UsageError
from nctool.files import cannot_read, plain_file
from nctool.image_arrays import CHANNEL_AXES, channels_first, how_to_class_numbers, how_to_pixels, row_by_row
from nctool_models.datasets.dataset import Arrays

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("classes", "layout")
_MOST_CLASSES = 65536
"""A larger label is taken for damage: every class costs an output neuron."""
_IMAGES = "uint8 (N, H, W) or (N, H, W, C), no axis of length 0"
_HINT = "the file holds x_train, y_train, x_test, y_test: uint8 images (N, H, W) or (N, H, W, C), whole labels (N,)"


def read_npz(path: Path) -> Arrays:
    """Read a data set.

    Args:
        path: the .npz file; images uint8 (N, H, W) or (N, H, W, C), labels integers 0 and up. `classes`, if
            there, is an array of names; else the names are "0", "1", … up to the largest label. `layout`, if there,
            says the order of axes, "NCHW" or "NHWC"; without it, see `channels_first`.

    Returns:
        classes, x_train uint8 (N, C, H, W), y_train int64 (N,), x_test, y_test.

    Raises:
        UsageError: the file is missing or cannot be read.
        FormatError: the file is no .npz file, misses a key, or holds a wrong type, shape or label; or images whose
            order of axes cannot be told.
        RangeError: the arrays do not fit into memory.
    """
    arrays = _load(path)
    layout = _layout(path, arrays.get("layout"))
    x_train, x_test = (_images(path, key, arrays[key], layout) for key in ("x_train", "x_test"))
    y_train = _labels(path, "y_train", arrays["y_train"], len(x_train))
    y_test = _labels(path, "y_test", arrays["y_test"], len(x_test))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise _bad(path, "x_test", f"images of shape {x_test.shape[1:]}", f"{x_train.shape[1:]} as in `x_train`")
    n_labels = int(max(y_train.max(), y_test.max())) + 1
    return _classes(path, arrays.get("classes"), n_labels), x_train, y_train, x_test, y_test


def require_npz(path: Path) -> None:
    """Refuse, with a UsageError, a path at which there is no file that can be read."""
    try:
        plain_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _load(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with plain_file(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: _array(file[key]) for key in (*_KEYS, *_OPTIONAL) if key in file}
    except Exception as error:  # of the system, the archive, its compression, its encryption, and NumPy's headers
        raise _unreadable(path, error) from error
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise FormatError(f"`{path}` misses the key `{missing[0]}`", hint=_HINT)
    return arrays


def _unreadable(path: Path, error: Exception) -> NctoolError:
    """Describe a file that the system does not give, that is too large, or that is no archive of arrays."""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"no data set file `{path}`", hint=_HINT)
    if isinstance(error, OSError) and error.errno is not None:
        return cannot_read(path, error)
    if isinstance(error, MemoryError):
        hint = "use fewer or smaller images: all of them are held in memory"
        return RangeError(f"`{path}` does not fit into memory", hint)
    return FormatError(f"`{path}` is no readable .npz file", hint=_HINT)


def _array(member: object) -> npt.NDArray[np.generic]:
    """Return a member of an archive, which NumPy gives as bytes where it is no array."""
    if not isinstance(member, np.ndarray):
        raise TypeError("not an array")
    return member


def _layout(path: Path, array: npt.NDArray[np.generic] | None) -> str | None:
    """Return the order of axes that the file says."""
    if array is None:
        return None
    if array.shape != () or str(array) not in CHANNEL_AXES:
        got = repr(str(array)) if array.shape == () else f"{array.dtype} {array.shape}"
        raise _bad(path, "layout", got, " or ".join(map(repr, CHANNEL_AXES)))
    return str(array)


def _images(path: Path, key: str, array: npt.NDArray[np.generic], layout: str | None) -> npt.NDArray[np.uint8]:
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise _bad(path, key, f"{array.dtype} {array.shape}", _IMAGES)
    if array.dtype != np.uint8:
        raise _bad(path, key, f"{array.dtype} {array.shape}", _IMAGES, how_to_pixels(key, array))
    pixels: npt.NDArray[np.uint8] = channels_first(array, _where(path, key), layout=layout)
    return row_by_row(pixels)


def _labels(path: Path, key: str, array: npt.NDArray[np.generic], n_images: int) -> npt.NDArray[np.int64]:
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (n_images,):
        got = f"{array.dtype} {array.shape}"
        raise _bad(path, key, got, f"whole numbers ({n_images},)", how_to_class_numbers(key, array, n_images))
    smallest, largest = int(array.min()), int(array.max())
    if smallest < 0 or largest >= _MOST_CLASSES:
        raise _bad(path, key, f"labels {smallest}..{largest}", f"0..{_MOST_CLASSES - 1}")
    return array.astype(np.int64)


def _classes(path: Path, array: npt.NDArray[np.generic] | None, n_labels: int) -> tuple[str, ...]:
    if array is None:
        return tuple(str(label) for label in range(n_labels))
    if array.dtype.kind != "U" or array.ndim != 1 or len(array) < n_labels:
        raise _bad(path, "classes", f"{array.dtype} {array.shape}", f"{n_labels} or more names")
    return tuple(str(name) for name in array)


def _where(path: Path, key: str) -> str:
    return f"`{path}`, key `{key}`"


def _bad(path: Path, key: str, got: str, allowed: str, hint: str = _HINT) -> FormatError:
    return FormatError(f"{_where(path, key)}: got {got}, allowed: {allowed}", hint)
