"""Find the samples that a model is run on: a data set, or arrays of the user.

In: a model and what the user asked for. Out: samples, labels, and the model set up for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.errors import RangeError, UsageError
from nctool.ir.network import IntArray, Shape
from nctool.running.arrays import LABELS, Source, load_array, load_labels, name_of
from nctool.running.images import ImageSamples, are_images, list_images, read_images
from nctool.running.model_file import ModelFile
from nctool_deploy.netx import Provenance
from nctool_models import is_image_folder, load_dataset
from nctool_models.datasets.load import NAMES

SPLITS = ("test", "train")
_NUMBERS_HINT = "give samples with --input X.npy, normalised as the images of the conversion"
_MOST_NAMES = 5
"""Class names that a message lists."""


@dataclass(frozen=True)
class Chosen:
    """A model and the samples to run it on.

    Args:
        content: the model; a foreign network has the window and the range of its samples.
        name: of the samples, for the report.
        samples: uint8 pixels, or the integers that a foreign network takes.
        labels: int64 (samples,), or None.
        files: the names of image files, one a sample; empty for other samples.
        notes: what was changed in these images.
    """

    content: ModelFile
    name: str
    samples: NDArray[np.uint8] | IntArray
    labels: NDArray[np.int64] | None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_samples(
    content: ModelFile,
    dataset: str | None,
    split: str,
    n_samples: int | None,
    data_dir: Path | str | None,
    array: Source | None,
    label_array: Source | None,
) -> Chosen:
    """Return the samples of a data set, or those of `array`.

    Raises:
        UsageError: the choice is ambiguous or empty, or a file or data set is not there.
        FormatError: a file is bad.
        RangeError: the samples or labels do not fit the network.
    """
    if array is None:
        if label_array is not None:
            raise UsageError("labels without samples", hint="give the samples with --input")
        if not content.is_classifier:
            raise UsageError(
                "a netx file of another tool does not say what data it is for", hint="give samples with --input X.npy"
            )
        pixels, labels = load_samples(content, dataset, split, n_samples, data_dir)
        return Chosen(content, f"{dataset or trained_on(content)}/{split}", pixels, labels)
    name = name_of(array, "input")
    if dataset is not None:
        raise UsageError(f"two sources of samples: `{name}` and data set `{dataset}`")
    _require_no_data_set_options(name, split, data_dir)
    images = image_samples(content, array, n_samples)
    if images is None:
        values = load_array(array)
        _require_count(n_samples, len(values), name)
        values = np.asarray(values[:n_samples])
    else:
        values = images.pixels
    answers = None if label_array is None else load_labels(label_array, len(values), of_all=n_samples is None)
    content, samples = content.fit(values, name)
    n_outputs = content.network.readout.n_neurons
    if answers is not None and answers.max() >= n_outputs:
        raise unknown_label(f"`{name_of(label_array, LABELS)}`", answers, n_outputs)
    files, notes = ((), ()) if images is None else (images.files, images.notes)
    return Chosen(content, name, samples, answers, files, notes)


def image_samples(content: ModelFile, array: Source, n_samples: int | None = None) -> ImageSamples | None:
    """Return samples that are given as image files; None for arrays, and for a foreign network, which takes no images.

    Raises:
        UsageError: the network takes other numbers than pixels, there are fewer images than asked for, or one cannot be
            opened.
        FormatError, RangeError: as `list_images` and `read_images`.
    """
    if not content.is_classifier or not are_images(array):
        return None
    path = Path(str(array))
    if content.provenance is not None and content.provenance.samples == "numbers":
        raise UsageError(
            f"`{path}`: images hold pixels, the network takes the numbers that it was converted on", hint=_NUMBERS_HINT
        )
    paths = list_images(path)
    _require_count(n_samples, len(paths), str(path))
    return read_images(paths[:n_samples], content.network.input.sample_shape)


def _require_no_data_set_options(name: str, split: str, data_dir: Path | str | None) -> None:
    for option, is_given in (("--split", split != SPLITS[0]), ("--data-dir", data_dir is not None)):
        if is_given:
            raise UsageError(f"{option}: allowed with a data set only, got the samples `{name}`", hint="leave it out")


def trained_on(content: ModelFile) -> str | None:
    """Return the name or path of the data set that a network was trained on, if its file says so."""
    return None if content.provenance is None else content.provenance.dataset


def dataset_path(name: str | None) -> Path | None:
    """Return where the files of a data set lie; None for a built-in one, which has its own folder."""
    return None if name is None or name in NAMES else Path(name)


def require_here(trained: str) -> None:
    """Refuse the data set that a network was trained on if it is a path at which nothing is."""
    if trained not in NAMES and not Path(trained).exists():
        raise UsageError(
            f"the network was trained on `{trained}`, which is not here", hint="name the data with --dataset PATH"
        )


def load_samples(
    content: ModelFile, dataset: str | None, split: str, n_samples: int | None, data_dir: Path | str | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels, uint8 (samples, *input shape), and labels, int64 (samples,).

    Args:
        dataset: name, .npz path or folder of images; the one that the network was trained on by default.
        split: `test` or `train`.
        n_samples: the first so many; all by default.

    Raises:
        UsageError: no data set, unknown split, or fewer samples than asked for.
        RangeError: the samples or labels do not fit the network.
    """
    provenance, name = content.provenance, dataset or trained_on(content)
    if name is None:
        raise _no_data_set(provenance)
    if provenance is not None and provenance.samples == "numbers":
        raise UsageError(
            f"data set `{name}`: holds pixels, the network takes the numbers that it was converted on",
            hint=_NUMBERS_HINT,
        )
    if dataset is None:
        require_here(name)
    network, classes = content.network, provenance.classes if provenance else None
    n_classes = network.readout.shape[0]
    return dataset_samples(name, split, n_samples, data_dir, network.input.sample_shape, n_classes, classes)


def _no_data_set(provenance: Provenance | None) -> UsageError:
    """Describe a file that no training is known of."""
    if provenance is None or provenance.model is None:
        return UsageError("the file does not say which data set it was trained on", hint="name one with --dataset")
    hint = "give samples with --input X.npy, or a data set of pixels with --dataset"
    return UsageError(
        f"the file names no data set: it was converted from `{provenance.model}`",
        hint=_NUMBERS_HINT if provenance.samples == "numbers" else hint,
    )


def dataset_samples(
    name: str,
    split: str,
    n_samples: int | None,
    data_dir: Path | str | None,
    shape: Shape,
    n_classes: int,
    classes: tuple[str, ...] | None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels, uint8 (samples, *shape), and labels, int64 (samples,), of a data set given by name or path.

    The images of a folder are brought to the size that the network takes, if it is a square, and made grey or RGB.
    Their labels are positions in the sorted list of its classes, so the classes must be those of the training.

    Raises:
        UsageError: no such data set, unknown split, or fewer samples than asked for.
        RangeError: the samples or labels do not fit a network that takes `shape` and has `n_classes`, or a folder has
            other classes than `classes`, where they are known.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split `{split}`, allowed {', '.join(SPLITS)}")
    size, channels = (_side(shape), _channels(shape)) if is_image_folder(name) else (None, None)
    data = load_dataset(name, data_dir, image_size=size, channels=channels)
    pixels, labels = (data.x_test, data.y_test) if split == "test" else (data.x_train, data.y_train)
    _require_count(n_samples, len(pixels), f"{name}, {split}")
    _require_fit(name, pixels, labels, shape, n_classes)
    if is_image_folder(name) and classes:
        _require_classes(name, data.classes, classes)
    return pixels[:n_samples], labels[:n_samples]


def _side(shape: Shape) -> int | None:
    """Return the side of square images, None for other samples."""
    return shape[-1] if len(shape) == 3 and shape[1] == shape[2] else None


def _channels(shape: Shape) -> int | None:
    """Return the channels of images that are grey or RGB, None for other samples."""
    return shape[0] if len(shape) == 3 and shape[0] in (1, 3) else None


def _require_count(n_samples: int | None, available: int, name: str) -> None:
    if n_samples is not None and not 1 <= n_samples <= available:
        raise UsageError(f"samples: {n_samples} is out of range, allowed 1..{available} ({name})")


def _require_fit(name: str, pixels: NDArray[np.uint8], labels: NDArray[np.int64], shape: Shape, n_classes: int) -> None:
    if pixels.shape[1:] != shape:
        raise RangeError(
            f"data set `{name}`: samples have shape {pixels.shape[1:]}, the network takes {shape}",
            hint="give the data set that the network was trained on with --dataset",
        )
    if labels.max() >= n_classes:
        raise unknown_label(f"data set `{name}`", labels, n_classes)


def unknown_label(where: str, labels: NDArray[np.int64], n_classes: int) -> RangeError:
    """Describe a label that no class of a network has."""
    from_one = labels.min() >= 1 and labels.max() == n_classes
    hint = f"classes are 0..{n_classes - 1}: save y - 1" if from_one else None
    return RangeError(f"{where}: label {labels.max()}, the network has {n_classes} classes", hint)


def _require_classes(name: str, got: tuple[str, ...], trained: tuple[str, ...]) -> None:
    if got != trained:
        raise RangeError(
            f"data set `{name}`: has the classes {_shown(got)}, the network was trained on {_shown(trained)}",
            hint="give it a folder for each class that the network was trained on, of the same name",
        )


def _shown(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown}, ... ({len(names)} of them)"
