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
from nctool.commands.tables import print_line, print_rows
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
        best_epoch: the one whose weights the checkpoint holds, or the best so far of a run that goes on; one before
            these, or 0, where fine-tuning kept the network that it started with. None where the folder has neither
            checkpoint nor state.
    """

    path: Path
    epochs: tuple[EpochMetrics, ...]
    best_epoch: int | None

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
        FormatError: metrics.jsonl, the checkpoint or the state is not what nctool writes.
    """
    from nctool.figures import history as figure
    from nctool.figures.file import OPTION
    from nctool.running.checkpoints import require_run_folder
    from nctool.running.outputs import FIGURE, require_outputs, run_files
    from nctool.training.checkpoints.chosen import chosen_epoch
    from nctool.training.metrics import read_metrics

    require_run_folder(Path(run))
    draw = None if plot is None else figure.prepare(Path(plot))
    require_outputs(run_files(run), {OPTION: (FIGURE, plot)})
    report = HistoryReport(Path(run), read_metrics(Path(run)), chosen_epoch(Path(run)))
    if draw is not None:
        draw(report.epochs)
    return report


def print_history(report: HistoryReport) -> None:
    """Show a row for each epoch, with a mark on the one that was chosen."""
    rows = [
        [
            f"{epoch.epoch}{'*' * (epoch.epoch == report.best_epoch)}",
            epoch.stage,
            f"{epoch.loss:.4f}",
            f"{epoch.training_accuracy:.2%}",
            epoch.held_out(),
        ]
        for epoch in report.epochs
    ]
    print_rows(str(report.path), ["epoch", "stage", "loss", "training", "held out"], rows)
    if report.best_epoch is not None:
        is_there = any(epoch.epoch == report.best_epoch for epoch in report.epochs)
        print_line("* chosen on held-out images" if is_there else "chosen: the network that fine-tuning started with")


COMMAND = Command(history, print_history)
