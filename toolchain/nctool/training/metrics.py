"""`metrics.jsonl`: one JSON object for each epoch, written as soon as the epoch is done.

In: `EpochMetrics`. Out: lines of text that survive an interruption, and back.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from nctool.errors import FormatError, UsageError
from nctool.files import cannot_read, cannot_write, plain_file, write_atomically
from nctool.recipe.tables import MOST_EPOCHS

METRICS_NAME = "metrics.jsonl"
MOST_EPOCHS_OF_A_RUN = 2 * MOST_EPOCHS
"""The most epochs of both stages together."""
Window = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
"""Time steps, as JSON has them for a key."""


class EpochCallback(Protocol):
    """Called with the numbers of each epoch, as soon as it is done."""

    def __call__(self, metrics: EpochMetrics, n_epochs: int) -> None:
        """Take the numbers of an epoch of a run of `n_epochs`."""


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch.

    Attributes:
        epoch: of the run, from 1.
        stage: "train", or "finetune" for an epoch through the spiking network.
        loss: mean cross-entropy of the training batches, in nats.
        training_accuracy: of the network in training on the batches of the epoch, noise and changes of the images
            included, 0..1; in fine-tuning after the longest window.
        validation_accuracy_ann: of the noise-free ANN on the held-out images, 0..1.
        validation_accuracy_snn: of the spiking network by time steps, 0..1: after `noise.steps` the float one, or with
            `noise_source` "chip" the integer one; in fine-tuning the float one with rounded weights.
        learning_rate: of the epoch's first batch.
        sigma: of the noise from here on, by layer; 0 when the recipe has none, and in fine-tuning what it was before.
        gap: standard deviation of the gap between ANN and spiking network after the epoch, by layer, also when the
            recipe has no noise; empty where it is not measured: in fine-tuning, and of an ordinary ReLU network.
        theta: thresholds after the epoch, by layer; where channels have thresholds of their own, that of the one in the
            middle.
        seconds: wall time of the epoch, measurement included.
        seconds_noise: the part of it after the last batch, when noise and accuracies are measured on held-out images.
        noise_source: what σ was measured on: "ideal", "chip" or "none"; with a recipe for a chip, "ideal" says that
            the integer network did not fit.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    epoch: Annotated[int, Field(ge=1, le=MOST_EPOCHS_OF_A_RUN)]
    stage: str
    loss: float
    training_accuracy: float
    validation_accuracy_ann: float
    validation_accuracy_snn: dict[Window, float]
    learning_rate: float
    sigma: dict[str, float]
    gap: dict[str, float]
    theta: dict[str, float]
    seconds: float
    seconds_noise: float
    noise_source: str

    def held_out(self) -> str:
        """Return the accuracies on the held-out images as a text for people."""
        by_steps = (f"SNN T={steps} {accuracy:.2%}" for steps, accuracy in self.validation_accuracy_snn.items())
        return ", ".join([f"ANN {self.validation_accuracy_ann:.2%}", *by_steps])


_LINE = TypeAdapter(EpochMetrics)


def count_epochs(directory: Path, noise_source: str) -> int:
    """Return how many epochs took their noise from `noise_source`."""
    return sum(epoch.noise_source == noise_source for epoch in read_metrics(directory))


def add_metrics(directory: Path, metrics: EpochMetrics, n_before: int) -> None:
    """Add one line behind the first `n_before`, and drop what else follows them: lines of epochs that are not kept.

    The line is on disk before the state of its epoch is; one that a power cut left half-written is dropped.

    Raises:
        UsageError: the file cannot be written.
    """
    path, new_line = directory / METRICS_NAME, json.dumps(asdict(metrics)) + "\n"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if len(lines) != n_before or not all(line.endswith("\n") for line in lines):
        lines = [line for line in lines if line.endswith("\n")]
        write_atomically(path, "".join([*lines[:n_before], new_line]).encode())
        return
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(new_line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def read_metrics(directory: Path) -> tuple[EpochMetrics, ...]:
    """Read what a run has measured so far; a line that is still being written is left out.

    Raises:
        UsageError: there is no such file.
        FormatError: a line is not what nctool writes.
    """
    path = directory / METRICS_NAME
    try:
        lines = plain_file(path).read_text(encoding="utf-8").splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no `{path}`", hint="`nctool train RECIPE -o DIR` makes one") from error
    except OSError as error:
        raise cannot_read(path, error) from error
    except UnicodeDecodeError as error:
        raise FormatError(f"`{path}` is no text") from error
    return tuple(_parsed(path, number, line) for number, line in enumerate(lines, start=1) if line.endswith("\n"))


def _parsed(path: Path, number: int, line: str) -> EpochMetrics:
    try:
        return _LINE.validate_json(line)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise FormatError(f"`{path}`, line {number}: {where or 'line'} is not what nctool writes") from error
