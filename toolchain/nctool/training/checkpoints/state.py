"""The state from which an interrupted training run goes on, bit for bit, after its last complete epoch.

In: a `TrainingState`. Out: the file `last.safetensors`, and back. Learning rate and random streams are
functions of the recipe and the epoch, so that neither is part of the state; σ is part of the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from nctool.errors import FormatError, RecipeError, UsageError
from nctool.recipe.schema import Recipe, parse_recipe
from nctool.toml import literal
from nctool.training.checkpoints.names import STATE_NAME
from nctool.training.checkpoints.tensor_file import read_tensors, with_prefix, write_tensors
from nctool.training.metrics import MOST_EPOCHS_OF_A_RUN

_FORMAT = "nctool-training-state"
_MODEL, _BEST, _MOMENTUM = "model.", "best.", "momentum."


@dataclass(frozen=True)
class TrainingState:
    """A training run after a complete epoch.

    Attributes:
        epoch: epochs done, 1 or more.
        model: state dict, σ included.
        momentum: SGD's buffer by parameter name.
        best: state dict of the best epoch so far.
        best_epoch: its number, from 1.
        best_score: what the stage compares epochs by, on the held-out images.
        seconds: wall time of each epoch.
    """

    epoch: int
    model: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    best_epoch: int
    best_score: tuple[float, float]
    seconds: tuple[float, ...]


class _Progress(BaseModel):
    """What a state says in its header; the attributes are those of `TrainingState`."""

    model_config = ConfigDict(allow_inf_nan=False)

    epoch: int = Field(ge=1, le=MOST_EPOCHS_OF_A_RUN)
    best_epoch: int = Field(ge=0, le=MOST_EPOCHS_OF_A_RUN)
    best_score: tuple[float, float]
    seconds: tuple[float, ...] = Field(min_length=1)


def save_state(directory: Path, state: TrainingState, recipe: Recipe) -> None:
    """Write `last.safetensors` atomically; a UsageError says why it cannot be written."""
    groups = ((_MODEL, state.model), (_BEST, state.best), (_MOMENTUM, state.momentum))
    tensors = {prefix + name: tensor for prefix, group in groups for name, tensor in group.items()}
    progress = {name: getattr(state, name) for name in _Progress.model_fields}
    metadata = {"recipe": recipe.to_toml(), "progress": json.dumps(progress, sort_keys=True)}
    write_tensors(directory / STATE_NAME, _FORMAT, tensors, metadata)


def load_state(directory: Path, recipe: Recipe) -> TrainingState:
    """Read the state of an interrupted run of the same recipe; its name and description may differ.

    Raises:
        UsageError: there is nothing to resume, or it was trained by another recipe.
        FormatError: the file is bad.
    """
    path = directory / STATE_NAME
    if not path.exists():
        raise UsageError(f"nothing to resume: no `{path}`", hint="run without --resume to start from the beginning")
    file = read_tensors(path, _FORMAT)
    difference = _difference(file.metadata.get("recipe", ""), recipe)
    if difference is not None:
        raise UsageError(
            f"cannot resume `{path}`: {difference}",
            hint="repeat the command line of the interrupted run, or choose another folder with -o",
        )
    try:
        progress = _Progress.model_validate_json(file.metadata.get("progress", ""))
    except ValidationError as error:
        raise FormatError(f"`{path}` has bad metadata") from error
    return TrainingState(
        model=with_prefix(file.tensors, _MODEL),
        momentum=with_prefix(file.tensors, _MOMENTUM),
        best=with_prefix(file.tensors, _BEST),
        **progress.model_dump(),
    )


def _difference(text: str, recipe: Recipe) -> str | None:
    """Say what sets a recipe's text apart from `recipe`, if it would train to another result."""
    try:
        before = parse_recipe(text).model_dump()
    except RecipeError:
        return "its recipe is none of this version"
    for table, now in recipe.model_dump().items():
        if table in ("name", "description") or before[table] == now:
            continue
        if not (isinstance(now, dict) and isinstance(before[table], dict)):
            return f"its `{table}` is {_shown(before[table])}, now {_shown(now)}"
        key = next(key for key in {**now, **before[table]} if now.get(key) != before[table].get(key))
        return f"its `{table}.{key}` is {_shown(before[table].get(key))}, now {_shown(now.get(key))}"
    return None


def _shown(value: Any) -> str:
    return "not there" if value is None else "a table" if isinstance(value, dict) else literal(value)
