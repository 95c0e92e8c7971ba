"""Show a progress bar for work that takes more than a second: on the terminal of stderr, or in a notebook.

In: a title, then counts of work done. Out: a rich bar on a terminal, HTML in a notebook, nothing anywhere else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from importlib import import_module
from threading import Timer
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

FIRST_S = 1.0
"""Seconds before a bar is shown: what is quick shows none."""

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
    when stderr is no terminal. It is shown after `FIRST_S`, and vanishes when the block ends.

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
    bar = _Bar(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(title, total=None, message="")

    def report(done: int, total: int, message: str = "") -> None:
        bar.update(task, completed=done, total=total, message=message)

    timer = Timer(FIRST_S, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield report
    finally:
        timer.cancel()
        timer.join()
        if bar.live.is_started:
            bar.stop()


# --- in a notebook ----------------------------------------------------------------------------------------------------


def _is_notebook() -> bool:
    """Return whether a kernel of Jupyter runs this; IPython is there then."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


@contextmanager
def _notebook_bar(title: str) -> Iterator[ProgressCallback]:
    """Show a bar of the browser below the cell; that of rich would need ipywidgets."""
    display: Any = import_module("IPython.display").display  # it is there: a kernel runs
    shown, due = None, time.monotonic() + FIRST_S

    def report(done: int, total: int, message: str = "") -> None:
        nonlocal shown, due
        if time.monotonic() < due:
            return
        due, picture = time.monotonic() + NOTEBOOK_S, _picture(title, done, total, message)
        if shown is None:
            shown = display(picture, raw=True, display_id=True)
        else:
            shown.update(picture, raw=True)

    try:
        yield report
    finally:
        if shown is not None:
            shown.update({"text/html": "", "text/plain": ""}, raw=True)


def _picture(title: str, done: int, total: int, message: str) -> dict[str, str]:
    """Return a bar as HTML and as text, by media type."""
    counts, message = f"{escape(title)} {done}/{total}", escape(message)
    bar = f'<div>{counts} <progress value="{done}" max="{total}"></progress><br>{message}</div>'
    return {"text/html": bar, "text/plain": f"{title} {done}/{total}"}
