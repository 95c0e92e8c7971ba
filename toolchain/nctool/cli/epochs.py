"""What is seen of a training run: a bar on a terminal, elsewhere a line an epoch; a table of those done.

In: the batches and epochs of a run. Out: text on stderr; the table on stdout. Must not import torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from nctool.cli.application import is_first_rank
from nctool.cli.tables import print_rows
from nctool.progress import ProgressCallback, no_progress, progress_bar

if TYPE_CHECKING:
    from nctool.api import HistoryReport
    from nctool.training import EpochCallback, EpochMetrics


@contextmanager
def shown_epochs(title: str, json: bool) -> Iterator[tuple[ProgressCallback, EpochCallback]]:
    """Show a bar; where stderr is no terminal or stdout is data, a line for each epoch on stderr.

    Of the ranks of torchrun only the first shows anything.
    """
    if not is_first_rank():
        yield no_progress, _nothing
    elif json or not sys.stderr.isatty():
        yield no_progress, _Lines()
    else:
        with progress_bar(title) as progress:
            yield progress, _nothing


def _nothing(metrics: EpochMetrics, n_epochs: int) -> None:
    """Show nothing of an epoch."""


class _Lines:
    """Writes a line for each epoch; the time left is that of the epochs to come if they last as those seen."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def __call__(self, metrics: EpochMetrics, n_epochs: int) -> None:
        self._seconds.append(metrics.seconds)
        left = sum(self._seconds) / len(self._seconds) * (n_epochs - metrics.epoch)
        sys.stderr.write(
            f"{metrics.stage}: epoch {metrics.epoch}/{n_epochs}, loss {metrics.loss:.4f}, "
            f"training accuracy {metrics.training_accuracy:.2%}, held out {metrics.held_out()}, "
            f"{metrics.seconds:.1f} s, {timedelta(seconds=round(left))} left\n"
        )
        sys.stderr.flush()


def print_history(report: HistoryReport) -> None:
    """Show a row for each epoch."""
    rows = [
        [str(each.epoch), each.stage, f"{each.loss:.4f}", f"{each.training_accuracy:.2%}", each.held_out()]
        for each in report.epochs
    ]
    print_rows(str(report.path), ["epoch", "stage", "loss", "training", "held out"], rows)
