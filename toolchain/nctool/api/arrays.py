"""Read samples and labels from .npy files, and write what a run gave to an .npz.

In: paths. Out: arrays, or errors that name the file. Nothing is unpickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError, UsageError, first_line
from nctool.files import replace_atomically
from nctool.sim.trace import Trace, join

SAVE_HINT = "save an array of numbers with `numpy.save`"
LARGEST_LABEL = 2**31 - 1


def load_array(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file, mapped and not read.

    Raises:
        UsageError: there is no such file.
        FormatError: it is no .npy file of numbers.
    """
    if not path.is_file():
        raise UsageError(f"no such file: `{path}`", hint=SAVE_HINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a shape whose product overflows is no more than a warning to NumPy
            values: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]  # NumPy's own
    except Exception as error:  # NumPy reads the header with Python's tokeniser and parser
        raise FormatError(f"`{path}`: no sound .npy file ({first_line(error)})", hint=SAVE_HINT) from error
    if values.dtype.kind not in "biuf" or values.ndim == 0 or values.size == 0:
        raise FormatError(f"`{path}`: holds {values.dtype} {values.shape}, allowed an array of numbers", hint=SAVE_HINT)
    return values


def load_labels(path: Path, n_samples: int) -> NDArray[np.int64]:
    """Return the labels of a .npy file, int64 (samples,), the first `n_samples` of them.

    Raises:
        UsageError: there is no such file.
        FormatError: it does not hold one class number for each sample.
    """
    values = load_array(path)
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) < n_samples:
        raise FormatError(
            f"`{path}`: labels are {values.dtype} {values.shape}, allowed class numbers for {n_samples} samples"
        )
    labels = values[:n_samples]
    if labels.min() < 0 or labels.max() > LARGEST_LABEL:
        raise FormatError(f"`{path}`: labels reach from {labels.min()} to {labels.max()}, allowed 0..{LARGEST_LABEL}")
    return labels.astype(np.int64)


def record(traces: Iterable[Trace], path: Path) -> Iterator[Trace]:
    """Yield traces as they come; write them all to an .npz at the end.

    The file holds `logits`, int64 (samples, steps, neurons), and `spikes/NAME`, bool (samples, steps, *shape).
    """
    with replace_atomically(path) as temporary:
        kept = []
        for trace in traces:
            kept.append(trace)
            yield trace
        whole = join(kept)
        arrays = {f"spikes/{name}": spikes for name, spikes in whole.spikes.items()}
        with temporary.open("wb") as file:
            np.savez_compressed(file, logits=whole.logits, **arrays)
