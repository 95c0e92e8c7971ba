"""history: what a training run measured, epoch by epoch.

In: the folder of a run. Out: a HistoryReport, and a figure where one is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nctool.arguments import public
from nctool.commands.command import Command
from nctool.commands.options import Run
from nctool.commands.tables import print_rows
from nctool.reports import Report
from nctool.signature import Option

if TYPE_CHECKING:
    from nctool.training import EpochMetrics


@dataclass(frozen=True)
class HistoryReport(Report):
    """The epochs of a run that are complete so far.

    Args:
        path: folder of the run.
        epochs: the lines of its metrics.jsonl.
    """

    path: Path
    epochs: tuple[EpochMetrics, ...]

    def plot(self) -> Any:
        """Return the Altair chart that `--plot` draws, for a notebook."""
        from nctool.figures import history as figure
        from nctool.figures.file import for_notebook

        return for_notebook(figure.chart(self.epochs))


@public
def history(
    run: Run,
    *,
    plot: Annotated[
        Path | str | None, Option("Draw loss, accuracies, θ and σ.", metavar="FILE.png|svg|pdf", is_written=True)
    ] = None,
) -> HistoryReport:
    """Show what a training run measured, epoch by epoch.

    It may still be going on.

    Args:
        run: folder of a training run.
        plot: draw loss, accuracies, θ and the gap (σ) of every layer over the epochs to this .png, .svg or .pdf file.

    Raises:
        UsageError: there is no run, or the plot cannot be written.
        FormatError: metrics.jsonl is not what nctool writes.
    """
    from nctool.figures import history as figure
    from nctool.figures.file import OPTION
    from nctool.running.checkpoints import require_run_folder
    from nctool.running.outputs import FIGURE, require_outputs, run_files
    from nctool.training.metrics import read_metrics

    require_run_folder(Path(run))
    draw = None if plot is None else figure.prepare(Path(plot))
    require_outputs(run_files(run), {OPTION: (FIGURE, plot)})
    report = HistoryReport(Path(run), read_metrics(Path(run)))
    if draw is not None:
        draw(report.epochs)
    return report


def print_history(report: HistoryReport) -> None:
    """Show a row for each epoch."""
    rows = [
        [str(epoch.epoch), epoch.stage, f"{epoch.loss:.4f}", f"{epoch.training_accuracy:.2%}", epoch.held_out()]
        for epoch in report.epochs
    ]
    print_rows(str(report.path), ["epoch", "stage", "loss", "training", "held out"], rows)


COMMAND = Command(history, print_history)
