"""The result of a training run: one file with all that conversion needs.

In: a frozen `Checkpoint`. Out: a folder with `checkpoint.safetensors` and `recipe.toml`, and back.
The file holds the state dict under `model.`, images for calibration under `calibration.`, and as text
the resolved recipe, the facts of the data set and the result numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import Tensor

from nctool.errors import FormatError, RecipeError
from nctool.files import make_directory, write_atomically
from nctool.recipe.schema import Recipe, parse_recipe
from nctool.training.checkpoints.names import CHECKPOINT_NAME, RECIPE_NAME, checkpoint_path
from nctool.training.checkpoints.tensor_file import TensorFile, read_tensors, with_prefix, write_tensors

FORMAT = "nctool-checkpoint"
MODEL_PREFIX = "model."
_IMAGES = "calibration.images"
_LABELS = "calibration.labels"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and all that its conversion needs.

    Attributes:
        recipe: the resolved recipe.
        state: the model's state dict, on the CPU; names without `model.`.
        calibration_images: uint8 (K, C, H, W), training images, K = 256 or all when there are fewer.
        calibration_labels: int64 (K,).
        dataset_name: name of the data set, or stem of its file.
        input_shape: (channels, height, width).
        classes: a name for each label.
        mean: for each channel, in units of pixel/255.
        std: the same, > 0; the network's input is (pixel/255 − mean) / std.
        results: `accuracy_ann`, `accuracy_snn` {"1": …}, `theta`, `sigma` {layer: …}, `best_epoch`.
        data_dir: the folder of data sets that the images are from, where one was named; None for other data.
        sha256: hexadecimal digest of the file read; empty for a checkpoint that was not read from a file.
    """

    recipe: Recipe
    state: Mapping[str, Tensor]
    calibration_images: npt.NDArray[np.uint8]
    calibration_labels: npt.NDArray[np.int64]
    dataset_name: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    results: Mapping[str, Any]
    data_dir: str | None = None
    sha256: str = ""


class _Facts(BaseModel):
    """What a checkpoint says of its data set, in the order of the file."""

    name: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data_dir: str | None = None


_ATTRIBUTES = {"name": "dataset_name"}
"""What `Checkpoint` calls a fact, where that differs."""
_RESULTS = TypeAdapter(dict[str, Any])


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> Path:
    """Write `recipe.toml` and then `checkpoint.safetensors`, each atomically.

    Equal checkpoints give equal bytes.

    Args:
        directory: made when it is not there.
        checkpoint: what to write; `sha256` is not written.

    Returns:
        the path of `checkpoint.safetensors`.

    Raises:
        UsageError: the folder cannot be written.
    """
    directory = make_directory(directory)
    recipe = checkpoint.recipe.to_toml()
    write_atomically(directory / RECIPE_NAME, recipe.encode())
    tensors = {MODEL_PREFIX + name: tensor for name, tensor in checkpoint.state.items()}
    tensors[_IMAGES] = torch.from_numpy(checkpoint.calibration_images)
    tensors[_LABELS] = torch.from_numpy(checkpoint.calibration_labels)
    facts = {name: getattr(checkpoint, _ATTRIBUTES.get(name, name)) for name in _Facts.model_fields}
    facts = {name: value for name, value in facts.items() if value is not None}
    metadata = {"recipe": recipe, "dataset": json.dumps(facts), "results": json.dumps(checkpoint.results)}
    write_tensors(directory / CHECKPOINT_NAME, FORMAT, tensors, metadata)
    return directory / CHECKPOINT_NAME


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint and check all of it.

    Args:
        path: the folder of a training run, or its `checkpoint.safetensors`.

    Raises:
        UsageError: there is no such path, or the folder holds no checkpoint.
        FormatError: the file is truncated, foreign, newer or inconsistent.
    """
    path = checkpoint_path(Path(path))
    file = read_tensors(path, FORMAT)
    problem = _missing(file)
    if problem is not None:
        raise FormatError(f"`{path}`: {problem}")
    try:
        checkpoint = _from_file(file)
    except RecipeError as error:
        raise FormatError(f"`{path}`: {error.message}") from error
    except ValidationError as error:
        raise FormatError(f"`{path}`: metadata `dataset` or `results` is not what nctool writes") from error
    problem = _inconsistency(checkpoint)
    if problem is not None:
        raise FormatError(f"`{path}`: {problem}")
    return checkpoint


def _missing(file: TensorFile) -> str | None:
    missing_texts = [key for key in ("recipe", "dataset", "results") if key not in file.metadata]
    if missing_texts:
        return f"metadata `{missing_texts[0]}` is missing"
    missing_tensors = [name for name in (_IMAGES, _LABELS) if name not in file.tensors]
    return f"tensor `{missing_tensors[0]}` is missing" if missing_tensors else None


def _from_file(file: TensorFile) -> Checkpoint:
    facts = _Facts.model_validate_json(file.metadata["dataset"])
    return Checkpoint(
        recipe=parse_recipe(file.metadata["recipe"], source="checkpoint"),
        state=with_prefix(file.tensors, MODEL_PREFIX),
        calibration_images=file.tensors[_IMAGES].numpy(),
        calibration_labels=file.tensors[_LABELS].numpy(),
        results=_RESULTS.validate_json(file.metadata["results"]),
        sha256=file.sha256,
        **{_ATTRIBUTES.get(name, name): value for name, value in facts.model_dump().items()},
    )


def _inconsistency(checkpoint: Checkpoint) -> str | None:
    """Return what contradicts itself in a checkpoint, or None."""
    images, labels = checkpoint.calibration_images, checkpoint.calibration_labels
    if images.dtype != np.uint8 or images.shape != (len(images), *checkpoint.input_shape):
        return f"`{_IMAGES}` is {images.dtype} {images.shape}, allowed: uint8 (N, *{checkpoint.input_shape})"
    if labels.dtype != np.int64 or labels.shape != (len(images),):
        return f"`{_LABELS}` is {labels.dtype} {labels.shape}, allowed: int64 ({len(images)},)"
    if np.any((labels < 0) | (labels >= len(checkpoint.classes))):
        return f"`{_LABELS}` holds labels outside 0..{len(checkpoint.classes) - 1}"
    n_channels = checkpoint.input_shape[0]
    if len(checkpoint.mean) != n_channels or len(checkpoint.std) != n_channels:
        return f"mean and std have {len(checkpoint.mean)} and {len(checkpoint.std)} values, allowed: {n_channels}"
    if not all(map(math.isfinite, checkpoint.mean + checkpoint.std)) or min(checkpoint.std) <= 0.0:
        return "mean and std are not all finite, or a std is not positive"
    bad = [name for name, tensor in checkpoint.state.items() if not bool(torch.isfinite(tensor).all())]
    return f"`{MODEL_PREFIX}{bad[0]}` holds values that are not finite" if bad else None
