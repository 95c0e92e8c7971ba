"""The numbers of every epoch as a TensorBoard event file.

In: the folder of a run. Out: an `EpochCallback` that writes `tensorboard/` in it. The library is imported here only,
and only when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from nctool.errors import UsageError
from nctool.files import cannot_write
from nctool.training import EpochCallback, EpochMetrics

FOLDER = "tensorboard"


@contextmanager
def with_events(wanted: bool, run: Path, on_epoch: EpochCallback) -> Iterator[EpochCallback]:
    """Yield `on_epoch`, or what also writes each epoch into `run`/tensorboard while the block runs.

    Raises:
        UsageError: it is wanted, and tensorboard is not installed.
    """
    if not wanted:
        yield on_epoch
        return
    events = _Events(run / FOLDER)

    def report(metrics: EpochMetrics, n_epochs: int) -> None:
        events.add(metrics)
        on_epoch(metrics, n_epochs)

    try:
        yield report
    finally:
        events.close()


def scalars(metrics: EpochMetrics) -> dict[str, float]:
    """Return what is drawn over the epochs, by the name of its curve."""
    return {
        "loss": metrics.loss,
        "learning rate": metrics.learning_rate,
        "accuracy/training": metrics.training_accuracy,
        "accuracy/held out, ANN": metrics.validation_accuracy_ann,
        **{f"accuracy/held out, SNN T={steps}": value for steps, value in metrics.validation_accuracy_snn.items()},
        **{f"sigma/{layer}": value for layer, value in metrics.sigma.items()},
        **{f"gap/{layer}": value for layer, value in metrics.gap.items()},
        **{f"theta/{layer}": value for layer, value in metrics.theta.items()},
    }


class _Events:
    """An event file that is begun with the first epoch: from there on it replaces those of an interrupted run."""

    def __init__(self, folder: Path) -> None:
        try:
            self._library: Any = import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise UsageError("--tensorboard needs tensorboard", hint='pip install "nctool[tensorboard]"') from error
        self._folder = folder
        self._writer: Any = None

    def add(self, metrics: EpochMetrics) -> None:
        """Write one epoch, at once; a UsageError says why it cannot be done."""
        try:
            if self._writer is None:
                self._writer = self._library.SummaryWriter(str(self._folder), purge_step=metrics.epoch)
            for name, value in scalars(metrics).items():
                self._writer.add_scalar(name, value, metrics.epoch)
            self._writer.flush()
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def close(self) -> None:
        """Close the file, if it was begun."""
        if self._writer is not None:
            self._writer.close()
