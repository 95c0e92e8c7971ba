"""history: what a training run measured, epoch by epoch.

In: the folder of a run. Out: a HistoryReport, and a figure where one is wanted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nctool.arguments import public
from nctool.figures import history as history_figure
from nctool.figures.file import OPTION
from nctool.running.checkpoints import RunPath, require_run_folder
from nctool.running.outputs import FIGURE, require_outputs, run_files
from nctool.training.metrics import EpochMetrics, read_metrics


@dataclass(frozen=True)
class HistoryReport:
    """The epochs of a run that are complete so far.

    Args:
        path: folder of the run.
        epochs: the lines of its metrics.jsonl.
    """

    path: Path
    epochs: tuple[EpochMetrics, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {"path": str(self.path), "epochs": [asdict(epoch) for epoch in self.epochs]}


@public
def history(run: RunPath, *, plot: Path | str | None = None) -> HistoryReport:
    """Read what a training run measured; it may still be going on.

    Args:
        run: folder of a training run.
        plot: draw loss, accuracies, θ and the gap (σ) of every layer over the epochs to this .png, .svg or .pdf file.

    Raises:
        UsageError: there is no run, or the plot cannot be written.
        FormatError: metrics.jsonl is not what nctool writes.
    """
    require_run_folder(Path(run))
    draw = None if plot is None else history_figure.prepare(Path(plot))
    require_outputs(run_files(run), {OPTION: (FIGURE, plot)})
    report = HistoryReport(Path(run), read_metrics(Path(run)))
    if draw is not None:
        draw(report.epochs)
    return report
