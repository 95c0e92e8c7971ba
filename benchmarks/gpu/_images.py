"""CIFAR-10 from the JPEG files of one .npz, as a data set that `nctool train` reads."""

from __future__ import annotations

import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SPLITS = ("train", "test")
KEYS = ("classes", *(f"{split}_{part}" for split in SPLITS for part in ("jpeg", "offsets", "labels")))
CHUNK = 1000

TINY = {"train": 1000, "test": 100}
"""About as many images a rehearsal takes; they lie sorted by class, so from everywhere."""


def write_data_sets(packed: Path, folder: Path, tiny: bool) -> dict[str, Path]:
    """Decode the images and write them, all of them as `whole` and a tenth of the training images as `tenth`.

    Args:
        packed: the .npz file: `classes`, and for each split `<split>_jpeg`, uint8, all files joined, `<split>_offsets`,
            where each begins and the last ends, and `<split>_labels`.
        folder: where to write.
        tiny: take a few hundred images only.

    Returns:
        the paths by name.
    """
    arrays = read_packed(packed)
    content = {"classes": arrays["classes"]}
    for split in SPLITS:
        labels = arrays[f"{split}_labels"]
        chosen = np.arange(0, len(labels), max(1, len(labels) // TINY[split]) if tiny else 1)
        content[f"x_{split}"] = _decoded(arrays[f"{split}_jpeg"], arrays[f"{split}_offsets"], chosen)
        content[f"y_{split}"] = labels[chosen]
    tenth = {key: value[::10] if key.endswith("_train") else value for key, value in content.items()}
    paths = {}
    for name, each in (("whole", content), ("tenth", tenth)):
        paths[name] = folder / f"{name}.npz"
        np.savez(paths[name], **each)
    return paths


def read_packed(packed: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of the file.

    Raises:
        ValueError: it cannot be read, misses a key, or holds another number of labels than of images.
    """
    try:
        with np.load(packed, allow_pickle=False) as file:
            arrays = {key: file[key] for key in KEYS if key in file}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{packed}: no .npz file that can be read ({error})") from error
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{packed}: misses the key `{missing[0]}`, allowed: a file that holds {', '.join(KEYS)}")
    for split in SPLITS:
        offsets, n_labels = arrays[f"{split}_offsets"], len(arrays[f"{split}_labels"])
        if len(offsets) != n_labels + 1 or offsets[-1] != len(arrays[f"{split}_jpeg"]):
            raise ValueError(f"{packed}: `{split}_offsets` are no bounds of {n_labels} files, as many as labels")
    return arrays


def _decoded(joined: NDArray[np.uint8], offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return some images of a split, uint8 (N, height, width, 3); threads share them, for Pillow lets others run."""

    def chunk(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([_image(joined[offsets[number] : offsets[number + 1]]) for number in numbers])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return np.concatenate(list(threads.map(chunk, np.array_split(chosen, -(-len(chosen) // CHUNK)))))


def _image(jpeg: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg.tobytes())).convert("RGB"))
