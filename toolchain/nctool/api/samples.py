"""Find the samples that a file is run on.

In: a file's provenance and what the user asked for. Out: pixels and labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.errors import RangeError, UsageError
from nctool_deploy.netx import NetxFile
from nctool_models import load_dataset

SPLITS = ("test", "train")


def load_samples(
    content: NetxFile, dataset: str | None, split: str, n_samples: int | None, data_dir: Path | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels, uint8 (samples, *input shape), and labels, int64 (samples,).

    Args:
        dataset: name or .npz path; the one that the network was trained on by default.
        split: `test` or `train`.
        n_samples: the first so many; all by default.

    Raises:
        UsageError: no data set, unknown split, or fewer samples than asked for.
        RangeError: the samples or labels do not fit the network.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split `{split}`, allowed {', '.join(SPLITS)}")
    provenance = content.metadata.provenance
    name = dataset or (provenance.dataset if provenance else None)
    if name is None:
        raise UsageError("the file does not say which data set it was trained on", hint="name one with --dataset")
    data = load_dataset(name, data_dir)
    pixels, labels = (data.x_test, data.y_test) if split == "test" else (data.x_train, data.y_train)
    n_samples = len(pixels) if n_samples is None else n_samples
    if not 1 <= n_samples <= len(pixels):
        raise UsageError(f"samples: {n_samples} is out of range, allowed 1..{len(pixels)} ({name}, {split})")
    _require_fit(content, name, pixels, labels)
    return pixels[:n_samples], labels[:n_samples]


def _require_fit(content: NetxFile, name: str, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    shape, n_classes = content.network.input.shape, content.network.readout.shape[0]
    if pixels.shape[1:] != shape:
        raise RangeError(
            f"data set `{name}`: samples have shape {pixels.shape[1:]}, the network takes {shape}",
            hint="give the data set that the network was trained on with --dataset",
        )
    if labels.max() >= n_classes:
        raise RangeError(f"data set `{name}`: label {labels.max()}, the network has {n_classes} classes")
