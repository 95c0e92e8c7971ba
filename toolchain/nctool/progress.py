"""Show a progress bar for work that takes more than a second: on the terminal of stderr, or in a notebook.

In: a title, then counts of work done. Out: a rich bar on a terminal, HTML in a notebook, nothing anywhere else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

NOTEBOOK_S = 0.2
"""Seconds between two pictures of a bar in a notebook, each of which is a message to the browser."""


class ProgressCallback(Protocol):
    """Called with the progress of a long computation."""

    def __call__(self, done: int, total: int, message: str = "") -> None:
        """Report `done` of `total` units of work, with a short line about the current state."""


def no_progress(done: int, total: int, message: str = "") -> None:
    """Report to nobody: a `ProgressCallback` that does nothing."""


def no_report(metrics: object, n_epochs: int) -> None:
    """Report the numbers of an epoch to nobody: an `EpochCallback` that does nothing."""


_titles: dict[str, str] = {}


def learn_title(function: str, title: str) -> None:
    """Take in the title of the bar of a public function; it may name arguments, `engine {engine}`."""
    _titles[function] = title


def title_of(function: str, arguments: Mapping[str, Any]) -> str:
    """Return the title of the bar of a public function that is called with arguments."""
    return _titles.get(function, function).format_map(arguments)


class _Bar(Progress):
    """A bar, and below it the message, which may be longer than a narrow terminal is wide."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(task.fields["message"]) for task in self.tasks if task.fields["message"])


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """Show a bar while the block runs; yield the callback that moves it.

    The bar is drawn in the notebook that runs this, or on stderr, in plain text when NO_COLOR is set, and not at all
    when stderr is no terminal. It vanishes when the block ends.

    Args:
        title: what is going on, lower case.
    """
    if _is_notebook():
        with _notebook_bar(title) as report:
            yield report
    elif sys.stderr.isatty():
        with _terminal_bar(title) as report:
            yield report
    else:
        yield no_progress


@contextmanager
def _terminal_bar(title: str) -> Iterator[ProgressCallback]:
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


# --- in a notebook ----------------------------------------------------------------------------------------------------


def _is_notebook() -> bool:
    """Return whether a kernel of Jupyter runs this; IPython is there then."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def _notebook_bar(title: str) -> Iterator[ProgressCallback]:
    """Show a bar of the browser below the cell; that of rich would need ipywidgets."""
    from IPython.display import HTML, display

    shown, last = display(HTML(_picture(title, 0, 0, "")), display_id=True), 0.0

    def report(done: int, total: int, message: str = "") -> None:
        nonlocal last
        if time.monotonic() - last >= NOTEBOOK_S:
            last = time.monotonic()
            shown.update(HTML(_picture(title, done, total, message)))

    try:
        yield report
    finally:
        shown.update(HTML(""))


def _picture(title: str, done: int, total: int, message: str) -> str:
    """Return a bar as HTML: it moves to and fro where the end is not known yet."""
    ends = f' value="{done}" max="{total}"' if total else ""
    counts = f" {done}/{total}" if total else ""
    return f"<div>{escape(title)} <progress{ends}></progress>{counts}<br>{escape(message)}</div>"
