"""Show a progress bar on stderr for work that takes more than a second.

In: a title, then counts of work done. Out: a rich bar, or nothing when stderr is no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class ProgressCallback(Protocol):
    """Called with the progress of a long computation."""

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Report `done` of `total` units of work, with a short line about the current state."""


def no_progress(done: int, total: int, message: str = "") -> None:
    """Report to nobody: a `ProgressCallback` that does nothing."""


def no_report(metrics: object, n_epochs: int) -> None:
    """Report the numbers of an epoch to nobody: an `EpochCallback` that does nothing."""


class _Bar(Progress):
    """A bar, and below it the message, which may be longer than a narrow terminal is wide."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(task.fields["message"]) for task in self.tasks if task.fields["message"])


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """Show a bar while the block runs; yield the callback that moves it.

    The bar is drawn on stderr, in plain text when NO_COLOR is set, and not at all when stderr is no
    terminal. It vanishes when the block ends.

    Args:
        title: what is going on, lower case.
    """
    if not sys.stderr.isatty():
        yield no_progress
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, message="")

        def report(done: int, total: int, message: str = "") -> None:
            bar.update(task, completed=done, total=total, message=message)

        yield report
