"""Open the checkpoint of a training run, and recognise the files that users give in place of one file or another.

In: a path. Out: a Checkpoint, or an error that says what the file is. Loads torch where a checkpoint is read only.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import h5py

from nctool.errors import UsageError
from nctool.training.checkpoints.names import CHECKPOINT_NAME, STATE_NAME, checkpoint_path
from nctool_models.zoo.networks import PREFIX

if TYPE_CHECKING:
    from nctool.training import Checkpoint

_FOLDER_HINT = "give the folder of the run"
_FROM_PYTHON = (
    "build the network in Python and load its weights, then nctool.prepare(model, images), and nctool.train with model="
)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: folder of a training run, or its checkpoint.safetensors.

    Raises:
        UsageError: there is no checkpoint, or the file is an exported network, a recipe, the state of a run or of
            another tool.
        FormatError: the checkpoint is bad.
    """
    from nctool.training import load_checkpoint

    require_checkpoint(path)
    return load_checkpoint(path)


def require_checkpoint(path: Path | str) -> None:
    """Refuse a path at which no checkpoint is, with a UsageError that says what is there; nothing of it is read."""
    if str(path).startswith(PREFIX):
        raise UsageError(
            f"`{path}` is an exported network, allowed: a checkpoint",
            hint="`nctool recipes` lists what trains one: nctool train RECIPE -o DIR",
        )
    path = Path(path)
    if path.is_file():
        _require_no_neighbour(path)
    checkpoint_path(path)


def remembered(data_dir: Path | str | None, loaded: Checkpoint, dataset: str) -> Path | str | None:
    """Return `data_dir`, or else the folder in which the training found `dataset`."""
    return loaded.data_dir if data_dir is None and dataset == loaded.dataset_name else data_dir


def _require_no_neighbour(path: Path) -> None:
    """Refuse files that lie beside a checkpoint."""
    if h5py.is_hdf5(path):
        raise UsageError(f"`{path}` is an exported network, allowed: a checkpoint", hint=_FOLDER_HINT)
    if path.suffix == ".toml":
        raise UsageError(f"`{path}` is a recipe, allowed: a checkpoint", hint=_FOLDER_HINT)
    if path.name == STATE_NAME:
        unfinished = not (path.parent / CHECKPOINT_NAME).exists()
        hint = "the run is not finished: repeat its command with --resume" if unfinished else _FOLDER_HINT
        raise UsageError(f"`{path}` is the state of a run, allowed: a checkpoint", hint)
    _require_no_other_tool(path, "a checkpoint")
    _require_no_data(path, "a checkpoint", _FOLDER_HINT)


def _require_no_other_tool(path: Path, allowed: str) -> None:
    """Refuse files of other tools that hold a network, or its weights alone."""
    what = "an ONNX file" if path.suffix == ".onnx" else "a file of torch.save" if _is_of_torch(path) else None
    if what is not None:
        raise UsageError(f"`{path}` is {what}, allowed: {allowed}", hint=_FROM_PYTHON)


_DATA_SUFFIXES = {".npz": "an .npz file", ".npy": "a .npy file"}


def _require_no_data(path: Path, allowed: str, hint: str) -> None:
    """Refuse arrays of samples."""
    if path.suffix in _DATA_SUFFIXES:
        raise UsageError(f"`{path}` is {_DATA_SUFFIXES[path.suffix]}, allowed: {allowed}", hint)


def require_no_other_recipe(recipe: Path | str) -> None:
    """Refuse, where a recipe is wanted, a file of data, a network, or its weights alone."""
    path, allowed = Path(recipe), "the name of a recipe or a .toml file"
    if path.suffix in ("", ".toml") or not path.is_file():
        return
    _require_no_data(path, allowed, f"a recipe names its data: nctool train RECIPE --set data.name={quote(str(path))}")
    _require_no_other_tool(path, allowed)
    what = "a checkpoint" if path.suffix == ".safetensors" else "an exported network" if h5py.is_hdf5(path) else None
    if what is not None:
        raise UsageError(f"`{path}` is {what}, allowed: {allowed}", hint="`nctool finetune RUN` trains a network on")


def require_run_folder(path: Path | str) -> None:
    """Refuse a file where the folder of a training run is wanted, and a folder without its numbers."""
    path = Path(path)
    if path.is_file():
        what = "an exported network" if h5py.is_hdf5(path) else "a file"
        raise UsageError(f"`{path}` is {what}, allowed: the folder of a run", hint=_FOLDER_HINT)


def _is_of_torch(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):  # no archive, or a broken one
        return path.suffix in (".pt", ".pth")


def require_no_checkpoint(path: Path) -> None:
    """Refuse, where an exported network is wanted, a file of another tool, a file or the folder of a training run."""
    if path.is_file():
        _require_no_other_tool(path, "an exported network")
        option = "--input" if path.suffix == ".npy" else "--dataset"
        _require_no_data(path, "an exported network", f"give it with the network: {option} {quote(str(path))}")
    if path.is_file() and (path.name == STATE_NAME or path.suffix == ".toml"):
        what = "a recipe" if path.suffix == ".toml" else "the state of a training run"
        raise UsageError(f"`{path}` is {what}, allowed: an exported network", hint="give a file of `nctool export`")
    if path.name == CHECKPOINT_NAME or (path / CHECKPOINT_NAME).exists():
        what = "the folder of a training run" if path.is_dir() else "a checkpoint"
        hint, exported = f"export it first: nctool export {quote(str(path))} -o MODEL.net", sorted(path.glob("*.net"))
        if exported:
            hint = f"name the network in it: {exported[0]}"
        raise UsageError(f"`{path}` is {what}, allowed: an exported network", hint)
