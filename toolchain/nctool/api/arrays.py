"""Read samples and labels from .npy files, and write what a run gave to an .npz.

In: paths. Out: arrays, or errors that name the file. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError, UsageError
from nctool.files import replace_atomically
from nctool.sim.trace import Trace, join


def load_array(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file, mapped and not read.

    Raises:
        UsageError: there is no such file.
        FormatError: it is no .npy file of numbers.
    """
    if not path.is_file():
        raise UsageError(f"no such file: `{path}`", hint="save an array with `numpy.save`")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].lower()
        raise FormatError(f"`{path}`: no sound .npy file ({reason})", hint="save an array with `numpy.save`") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim == 0 or values.size == 0:
        raise FormatError(f"`{path}`: holds no array of numbers", hint="save an array with `numpy.save`")
    return values


def load_labels(path: Path, n_samples: int) -> NDArray[np.int64]:
    """Return the labels of a .npy file, int64 (samples,), the first `n_samples` of them.

    Raises:
        UsageError: there is no such file.
        FormatError: it does not hold one class number for each sample.
    """
    values = load_array(path)
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) < n_samples or values.min() < 0:
        raise FormatError(
            f"`{path}`: labels are {values.dtype} {values.shape}, allowed class numbers >= 0 for {n_samples} samples"
        )
    return values[:n_samples].astype(np.int64)


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
