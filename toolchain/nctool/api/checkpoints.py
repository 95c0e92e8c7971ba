"""Open the checkpoint of a training run; what else a user may have meant is called by its name.

In: a path, or what is given in its place. Out: a Checkpoint, or an error that says what was given.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py

from nctool.errors import UsageError
from nctool.training.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint
from nctool.training.state import STATE_NAME

_FOLDER_HINT = "give the folder of the run"
_FROM_PYTHON = (
    "build the network in Python and load its weights, then nctool.prepare(model, images), and nctool.train with model="
)


def run_path(given: Path | str) -> Path:
    """Return where a training run lies; a UsageError says what to call with a network."""
    return _path(given, "checkpoint", 'nctool.train("mine.toml", "runs/mine", model=net), then give "runs/mine"')


def model_path(given: Path | str) -> Path:
    """Return where an exported network lies; a UsageError says what to call with another network."""
    return _path(given, "model", 'nctool.export("runs/mine", "mine.net", model=net), then give "mine.net"')


def output_path(given: Path | str) -> Path:
    """Return where an exported network is to lie; a UsageError says where a network is given."""
    return _path(given, "output", "give the network as model=net")


def _path(given: object, name: str, hint: str) -> Path:
    if isinstance(given, (str, Path)):
        return Path(given)
    raise UsageError(f"{name}: got {type(given).__name__}, allowed a path", hint=hint)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: folder of a training run, or its checkpoint.safetensors.

    Raises:
        UsageError: there is no checkpoint, or the file is an exported network, a recipe, the state of a run or of
            another tool; or a network was given for the path.
        FormatError: the checkpoint is bad.
    """
    path = run_path(path)
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
    _require_no_other_tool(path, "a checkpoint")


def _require_no_other_tool(path: Path, allowed: str) -> None:
    """Refuse files of other tools that hold a network, or its weights alone."""
    what = "an ONNX file" if path.suffix == ".onnx" else "a file of torch.save" if _is_of_torch(path) else None
    if what is not None:
        raise UsageError(f"`{path}` is {what}, allowed: {allowed}", hint=_FROM_PYTHON)


def _is_of_torch(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return path.suffix in (".pt", ".pth")
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def require_no_checkpoint(path: Path) -> None:
    """Refuse, where an exported network is wanted, a file of another tool, a file or the folder of a training run."""
    if path.is_file():
        _require_no_other_tool(path, "an exported network")
    if path.is_file() and (path.name == STATE_NAME or path.suffix == ".toml"):
        what = "a recipe" if path.suffix == ".toml" else "the state of a training run"
        raise UsageError(f"`{path}` is {what}, allowed: an exported network", hint="give a file of `nctool export`")
    if path.name == CHECKPOINT_NAME or (path / CHECKPOINT_NAME).exists():
        what = "the folder of a training run" if path.is_dir() else "a checkpoint"
        hint, exported = f"export it first: nctool export {path} -o MODEL.net", sorted(path.glob("*.net"))
        if exported:
            hint = f"name the network in it: {exported[0]}"
        raise UsageError(f"`{path}` is {what}, allowed: an exported network", hint)
