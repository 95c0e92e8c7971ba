"""`metrics.jsonl`: one JSON object for each epoch, written as soon as the epoch is done.

In: `EpochMetrics`. Out: lines of text that survive an interruption.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nctool.files import cannot_write, replace_atomically

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch.

    Attributes:
        epoch: of the run, from 1.
        stage: "train", or "finetune" for an epoch through the spiking network.
        loss: mean cross-entropy of the training batches, in nats.
        validation_accuracy_ann: of the noise-free ANN on the held-out images, 0..1.
        validation_accuracy_snn: of the spiking network by time steps, 0..1: after `noise.steps` the float one, or with
            `noise_source` "chip" the integer one; in fine-tuning the float one with rounded weights.
        learning_rate: of the epoch's first batch.
        sigma: measured after the epoch, by layer; 0 when the recipe has no noise.
        theta: thresholds after the epoch, by layer.
        seconds: wall time of the epoch, measurement included.
        seconds_noise: the part of it after the last batch, when noise and accuracies are measured on held-out images.
        noise_source: what σ was measured on: "ideal", "chip" or "none"; with a recipe for a chip, "ideal" says that
            the integer network did not fit.
    """

    epoch: int
    stage: str
    loss: float
    validation_accuracy_ann: float
    validation_accuracy_snn: dict[str, float]
    learning_rate: float
    sigma: dict[str, float]
    theta: dict[str, float]
    seconds: float
    seconds_noise: float
    noise_source: str


def start_metrics(directory: Path, n_epochs: int) -> None:
    """Keep the lines of the first `n_epochs` epochs and drop what follows; 0 starts an empty file.

    Raises:
        UsageError: the folder cannot be written.
    """
    path = directory / METRICS_NAME
    kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:n_epochs] if n_epochs and path.exists() else []
    with replace_atomically(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def count_epochs(directory: Path, noise_source: str) -> int:
    """Return how many epochs took their noise from `noise_source`."""
    lines = (directory / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["noise_source"] == noise_source for line in lines)


def append_metrics(directory: Path, metrics: EpochMetrics) -> None:
    """Add one line; closing the file hands it to the system.

    Raises:
        UsageError: the file cannot be written.
    """
    path = directory / METRICS_NAME
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error
