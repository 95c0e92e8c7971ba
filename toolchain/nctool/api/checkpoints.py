"""Open the checkpoint of a training run; another file that a user may have meant is called by its name.

In: a path. Out: a Checkpoint, or an error that says what was given.
"""

from __future__ import annotations

from pathlib import Path

import h5py

from nctool.errors import UsageError
from nctool.training.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint
from nctool.training.state import STATE_NAME

_FOLDER_HINT = "give the folder of the run"


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: folder of a training run, or its checkpoint.safetensors.

    Raises:
        UsageError: there is no checkpoint, or the file is an exported network, a recipe or the state of a run.
        FormatError: the checkpoint is bad.
    """
    path = Path(path)
    if path.is_file():
        _require_checkpoint(path)
    return load_checkpoint(path)


def _require_checkpoint(path: Path) -> None:
    """Refuse files that lie beside a checkpoint."""
    if h5py.is_hdf5(path):
        raise UsageError(f"`{path}` is an exported network, allowed: a checkpoint", hint=_FOLDER_HINT)
    if path.suffix == ".toml":
        raise UsageError(f"`{path}` is a recipe, allowed: a checkpoint", hint=_FOLDER_HINT)
    if path.name == STATE_NAME:
        unfinished = not (path.parent / CHECKPOINT_NAME).exists()
        hint = "the run is not finished: repeat its command with --resume" if unfinished else _FOLDER_HINT
        raise UsageError(f"`{path}` is the state of a run, allowed: a checkpoint", hint)


def require_no_checkpoint(path: Path) -> None:
    """Refuse, where an exported network is wanted, a file or the folder of a training run."""
    if path.is_file() and (path.name == STATE_NAME or path.suffix == ".toml"):
        what = "a recipe" if path.suffix == ".toml" else "the state of a training run"
        raise UsageError(f"`{path}` is {what}, allowed: an exported network", hint="give a file of `nctool export`")
    if path.name == CHECKPOINT_NAME or (path / CHECKPOINT_NAME).exists():
        what = "the folder of a training run" if path.is_dir() else "a checkpoint"
        hint, exported = f"export it first: nctool export {path} -o MODEL.net", sorted(path.glob("*.net"))
        if exported:
            hint = f"name the network in it: {exported[0]}"
        raise UsageError(f"`{path}` is {what}, allowed: an exported network", hint)
