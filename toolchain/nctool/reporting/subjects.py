"""What a report is about: exported networks, and the training runs that they come from, as far as they are there.

In: paths of runs and files. Out: subjects, with every file read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeGuard

from nctool.errors import FormatError, UsageError
from nctool.running.model_file import ModelFile, open_model
from nctool.training import EpochMetrics
from nctool.training.checkpoints.names import CHECKPOINT_NAME, STATE_NAME
from nctool.training.metrics import METRICS_NAME, read_metrics
from nctool_deploy.foreign import ForeignOptions
from nctool_deploy.netx import Metadata

if TYPE_CHECKING:
    from nctool.training.checkpoints.checkpoint import Checkpoint

MOST_NETWORKS = 6
"""Networks that fit side by side, and together into a page of 2 MB."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, and its run.

    Args:
        name: tells it from the others.
        path: of the exported file; None for a run that nothing was exported of.
        content: of the file.
        run: the folder of the training; None where it is not at hand.
        checkpoint: of the run, if it is finished.
        epochs: that the run has measured.
        no_run: why there is no checkpoint that belongs to the file; empty where there is one.
    """

    name: str
    path: Path | None
    content: ModelFile | None
    run: Path | None
    checkpoint: Checkpoint | None
    epochs: tuple[EpochMetrics, ...]
    no_run: str

    @property
    def accuracy_ann(self) -> float | None:
        """Return the accuracy of the ANN on the test images, 0..1, if the checkpoint says it."""
        accuracy = None if self.checkpoint is None else self.checkpoint.results.get("accuracy_ann")
        return accuracy if _is_share(accuracy) else None

    @property
    def accuracy_snn(self) -> dict[int, float]:
        """Return the accuracy of the float SNN on the test images by time steps, if the checkpoint says it."""
        by_steps = None if self.checkpoint is None else self.checkpoint.results.get("accuracy_snn")
        if not isinstance(by_steps, dict):
            return {}
        return {int(steps): share for steps, share in by_steps.items() if steps.isdecimal() and _is_share(share)}

    @property
    def how_to_export(self) -> str:
        """Return what exports the run of a subject that nothing was exported of."""
        if self.checkpoint is not None and self.checkpoint.recipe.model.architecture == "own":
            return f'nctool.export("{self.run}", model=…)'  # the network is of the user's code
        return f"nctool export {self.run}"

    @property
    def metadata(self) -> Metadata | None:
        """Return what nctool wrote into the file; None without a file, or of a file of another tool."""
        return None if self.content is None else self.content.metadata


def _is_share(value: Any) -> TypeGuard[float]:
    return isinstance(value, float | int) and 0 <= value <= 1


def find_subjects(paths: Sequence[Path], options: ForeignOptions, shape: tuple[int, ...] | None) -> list[Subject]:
    """Return what paths name: a run stands for each network in its folder, or for itself where none is there.

    Args:
        paths: folders of runs, their checkpoints, exported files.
        options: how files of other tools are read.
        shape: of a sample of the user's own; None for a data set.

    Raises:
        UsageError: a path is none of these, or there are too many networks.
        FormatError, UnsupportedError: a file is bad.
    """
    found = list(dict.fromkeys(file for path in paths for file in _files(path)))
    if len(found) > MOST_NETWORKS:
        raise UsageError(
            f"{len(found)} networks, allowed up to {MOST_NETWORKS} on a page",
            hint="name the files in place of the folder of their run, and make a page for each group",
        )
    names = _names(found)
    return [_subject(path, name, options, shape) for path, name in zip(found, names, strict=True)]


def _files(path: Path) -> Iterator[Path]:
    """Yield the networks of a run, or the run itself; any other path as it is."""
    folder = path.parent if path.name == CHECKPOINT_NAME else path
    if not folder.is_dir():
        yield path
        return
    if not any((folder / name).exists() for name in (CHECKPOINT_NAME, STATE_NAME, METRICS_NAME)):
        networks = sorted(folder.glob("*.net"))
        hint = "name the networks: " + " ".join(quote(str(each)) for each in networks) if networks else None
        raise UsageError(f"`{path}` is a folder, allowed: the folder of a training run, or an exported network", hint)
    yield from sorted(folder.glob("*.net")) or [folder]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return as much of each path as tells it from the others, the name of its folder included."""
    for parts in (1, 2, 3):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return ["/".join(path.parts[-max(parts, 2) :]) for path in paths]
    return [str(path) for path in paths]


def _subject(path: Path, name: str, options: ForeignOptions, shape: tuple[int, ...] | None) -> Subject:
    if path.is_dir():
        checkpoint = _checkpoint(path) if (path / CHECKPOINT_NAME).exists() else None
        return Subject(name, None, None, path, checkpoint, _epochs(path), "" if checkpoint else "the run goes on")
    content = open_model(path, options, input_shape=shape, check_digests=False)
    checkpoint, no_run = _checkpoint_of(content, path.parent)
    run = None if checkpoint is None else path.parent
    return Subject(name, path, content, run, checkpoint, () if run is None else _epochs(run), no_run)


def _checkpoint_of(content: ModelFile, folder: Path) -> tuple[Checkpoint | None, str]:
    """Return the checkpoint that a file was exported from, if it lies beside it, or why it is not known."""
    provenance = content.provenance
    if provenance is None:
        return None, "the file is of another tool"
    if provenance.model is not None:
        return None, f"the file was converted from `{provenance.model}`, which is not in it"
    if not (folder / CHECKPOINT_NAME).exists():
        return None, "its checkpoint is not in the folder of the file"
    try:
        checkpoint = _checkpoint(folder)
    except FormatError as error:
        return None, f"the checkpoint beside it is bad: {error.message}"
    if checkpoint.sha256 != provenance.checkpoint_sha256:
        return None, "the checkpoint beside it is another one than it was exported from"
    return checkpoint, ""


def _checkpoint(folder: Path) -> Checkpoint:
    from nctool.training.checkpoints.checkpoint import load_checkpoint

    return load_checkpoint(folder)


def _epochs(folder: Path) -> tuple[EpochMetrics, ...]:
    return read_metrics(folder) if (folder / METRICS_NAME).exists() else ()
