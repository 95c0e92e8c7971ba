"""Output files: refused where they would take the place of what is read, or of each other.

In: what a command reads and what it is to write. Out: nothing, or a UsageError before any work is done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nctool.errors import UsageError
from nctool.files import require_writable
from nctool.training.checkpoint import CHECKPOINT_NAME, RECIPE_NAME
from nctool.training.metrics import METRICS_NAME
from nctool.training.state import STATE_NAME

Given = Path | str | None


def require_outputs(inputs: Mapping[str, Given], outputs: Mapping[str, Given]) -> None:
    """Refuse output files that could not be written, or that would overwrite an input or each other.

    Args:
        inputs: what is read, by what messages call it; a folder stands for all that lies in it.
        outputs: what is to be written, by its option.

    Raises:
        UsageError: an output cannot be written, or its place is taken.
    """
    taken = {_place(path): what for what, path in inputs.items() if path is not None}
    for option, given in outputs.items():
        if given is None:
            continue
        path = Path(given)
        require_writable(path, option)
        place = _place(path)
        for each in (place, *place.parents):
            if each in taken:
                verb = "is" if each == place else "lies in"
                raise UsageError(f"{option}: `{path}` {verb} {taken[each]}", hint="give it a file of its own")
        taken[place] = f"the file of {option}"


def _place(path: Path | str) -> Path:
    """Return where a path leads; a link to itself leads nowhere, and is no error here."""
    return Path(os.path.realpath(path))


def run_files(checkpoint: Path | str) -> dict[str, Given]:
    """Return the files of a training run that nothing else may overwrite, by what messages call them.

    Args:
        checkpoint: folder of the run, or its checkpoint.safetensors.
    """
    path = Path(checkpoint)
    files = _named_files(path if path.is_dir() else path.parent)
    return files if path.is_dir() else {**files, "the checkpoint": path}


def model_files(model: Path) -> dict[str, Given]:
    """Return an exported network, and the files of a run that may lie in its folder, by what messages call them."""
    return {**_named_files(model.parent), "the model": model}


def _named_files(folder: Path) -> dict[str, Given]:
    names = (CHECKPOINT_NAME, STATE_NAME, RECIPE_NAME, METRICS_NAME)
    return {f"the run's {name}": folder / name for name in names}
