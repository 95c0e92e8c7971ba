"""The files of a training run by name, and where its checkpoint lies.

In: a path. Out: the path of a checkpoint. Must not import torch.
"""

from __future__ import annotations

from pathlib import Path

from nctool.errors import UsageError

CHECKPOINT_NAME = "checkpoint.safetensors"
RECIPE_NAME = "recipe.toml"
STATE_NAME = "last.safetensors"


def checkpoint_path(path: Path) -> Path:
    """Return the file of a checkpoint that is given as the folder of its run, or as the file itself.

    Raises:
        UsageError: there is no such path, or the folder holds no checkpoint.
    """
    if not path.exists():
        raise UsageError(f"no checkpoint at `{path}`", hint="`nctool train RECIPE -o DIR` makes one")
    if not path.is_dir():
        return path
    if not (path / CHECKPOINT_NAME).exists():
        unfinished = "the run is not finished: repeat its command with --resume"
        hint = unfinished if (path / STATE_NAME).exists() else "`nctool train RECIPE -o DIR` makes one"
        raise UsageError(f"no {CHECKPOINT_NAME} in `{path}`", hint=hint)
    return path / CHECKPOINT_NAME
