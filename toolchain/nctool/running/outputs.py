"""Refuse output files that would replace an input, each other, or a file of another kind.

In: what a command reads and what it is to write. Out: nothing, or a UsageError before any work is done.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nctool.errors import UsageError
from nctool.files import plain_file, require_writable
from nctool.training.checkpoints.names import CHECKPOINT_NAME, RECIPE_NAME, STATE_NAME
from nctool.training.metrics import METRICS_NAME
from nctool_deploy.foreign import is_netx

PathOrNone = Path | str | None
_TRACE_PARTS = frozenset(("engines", "layers", "logits", "pixels", "potentials", "spikes"))
"""First parts of the names of arrays in the files of `run-sim -o` and `verify --layers`."""


@dataclass(frozen=True)
class Kind:
    """A kind of output file.

    Args:
        name: what messages call it.
        is_of: tells whether an existing file is one, so that it may be replaced.
    """

    name: str
    is_of: Callable[[Path], bool]


def _holds_traces(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.removesuffix(".npy").partition("/")[0] for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # no archive, or a broken one
        return False
    return "logits" in parts and parts <= _TRACE_PARTS


NETX = Kind("netx HDF5 file", is_netx)
TRACES = Kind(".npz file of traces", _holds_traces)
JUNIT = Kind("JUnit XML file", lambda path: b"<testsuite" in path.read_bytes())
FIGURE = Kind(
    "figure of nctool", lambda path: any(mark in path.read_bytes() for mark in (b"nctool figure", b"atplotlib"))
)
"""A figure says that it is one; those of an older nctool name the program that drew them, in two spellings."""
PAGE = Kind("report page of nctool", lambda path: b'content="nctool report"' in path.read_bytes())


def require_outputs(inputs: Mapping[str, PathOrNone], outputs: Mapping[str, tuple[Kind, PathOrNone]]) -> None:
    """Refuse output files that could not be written, or would overwrite an input, each other or a file of another kind.

    Args:
        inputs: what is read, by what messages call it; a folder stands for all that lies in it.
        outputs: what is to be written, by its option; an older file of its kind, or an empty one, may be there.

    Raises:
        UsageError: an output cannot be written, or its place is taken.
    """
    taken = {_place(path): what for what, path in inputs.items() if path is not None}
    for option, (kind, output) in outputs.items():
        if output is None:
            continue
        path = Path(output)
        require_writable(path, option)
        place = _place(path)
        for folder in (place, *place.parents):
            if folder in taken:
                verb = "is" if folder == place else "lies in"
                raise UsageError(f"{option}: `{path}` {verb} {taken[folder]}", hint="give it a file of its own")
        _require_kind(path, kind, option)
        taken[place] = f"the file of {option}"


def _require_kind(path: Path, kind: Kind, option: str) -> None:
    """Refuse to replace a file of another kind: it may be the only copy."""
    if path.exists() and path.stat().st_size > 0 and not kind.is_of(plain_file(path)):
        raise UsageError(
            f"{option}: `{path}` is there and is no {kind.name}, so it is not replaced",
            hint="give another name, or remove it first",
        )


def _place(path: Path | str) -> Path:
    """Return where a path leads; a link to itself leads nowhere, and is no error here."""
    return Path(os.path.realpath(path))


def run_files(checkpoint: Path | str) -> dict[str, PathOrNone]:
    """Return the files of a training run that nothing else may overwrite, by what messages call them.

    Args:
        checkpoint: folder of the run, or its checkpoint.safetensors.
    """
    path = Path(checkpoint)
    files = _named_files(path if path.is_dir() else path.parent)
    return files if path.is_dir() else {**files, "the checkpoint": path}


def model_files(model: Path) -> dict[str, PathOrNone]:
    """Return an exported network, and the files of a run that may lie in its folder, by what messages call them."""
    return {**_named_files(model.parent), "the model": model}


def _named_files(folder: Path) -> dict[str, PathOrNone]:
    names = (CHECKPOINT_NAME, STATE_NAME, RECIPE_NAME, METRICS_NAME)
    return {f"the run's {name}": folder / name for name in names}
