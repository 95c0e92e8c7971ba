"""Show lines and tables on stdout, whatever the width of the terminal.

No word and no number is torn: on a terminal lines go on at a space, and a table that is too wide is shown in parts, one
below the other. A file or a pipe gets lines whole, and tables as on a terminal of 80 columns, or of as many as COLUMNS
says.

In: texts. Out: text on stdout, or, while they are collected, the parts that a notebook shows otherwise. Must not import
torch or Lava.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from io import StringIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from nctool.exporting.utilisation import Utilisation

WIDTH = 80
"""Columns of a table where there is no terminal, and nothing says another number; headers of wider ones are folded."""

WRAPPED = ("step", "what", "instead", "description", "held out", "how far apart")
"""Headers of columns whose text may go on in the next line; others would be torn within a number."""

LEAST_TEXT = 24
"""Columns that such text gets at least."""

GAP = 2
"""Columns between two columns of a table."""


@dataclass(frozen=True)
class Line:
    """A line of text.

    Args:
        text: of the line.
        is_whole: it may be copied, so that it is never broken.
    """

    text: str
    is_whole: bool = False


@dataclass(frozen=True)
class Rows:
    """A table of text under its title.

    Args:
        title: of the table.
        columns: the headers.
        rows: a text for each column.
        n_keys: the first columns, with which all parts of a table begin that is too wide.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_keys: int = 1


Part = Line | Rows

_collected: ContextVar[list[Part] | None] = ContextVar("collected", default=None)


@dataclass(frozen=True)
class _Column:
    """Texts below each other, one a row; the header may have several lines."""

    header: str
    cells: tuple[str, ...]
    wraps: bool

    @property
    def widest(self) -> int:
        """Return the columns of the terminal that its longest line takes."""
        return max(map(cell_len, self._lines()))

    @property
    def width(self) -> int:
        """Return the columns of the terminal that it needs."""
        if not self.wraps:
            return self.widest
        return min(
            self.widest, max(LEAST_TEXT, *(cell_len(word) for line in self._lines() for word in line.split(" ")))
        )

    def _lines(self) -> list[str]:
        return [line for text in (self.header, *self.cells) for line in text.split("\n")]

    def folded(self) -> _Column:
        """Return it with a line for each word of a header that is wider than all cells."""
        wide = cell_len(self.header) > max(map(cell_len, self.cells), default=0)
        return replace(self, header=self.header.replace(" ", "\n")) if wide else self


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], n_keys: int = 1) -> None:
    """Show a table of text under its title; all parts of one that is too wide begin with its `n_keys` first columns."""
    _show(Rows(title, columns, rows, n_keys))


def print_line(text: str) -> None:
    """Show one line; on a terminal that is too narrow it goes on behind a space."""
    _show(Line(text))


def print_whole(text: str) -> None:
    """Show one line that somebody may copy, a command or a path."""
    _show(Line(text, is_whole=True))


def _show(part: Part) -> None:
    collected = _collected.get()
    if collected is None:
        _draw(part, _console())
    else:
        collected.append(part)


def collect(show: Callable[[Any], None], report: Any) -> list[Part]:
    """Return what a function would show of a report."""
    parts: list[Part] = []
    token = _collected.set(parts)
    try:
        show(report)
    finally:
        _collected.reset(token)
    return parts


def as_text(parts: Sequence[Part]) -> str:
    """Return parts as they would be shown on stdout, without codes for bold text."""
    text = StringIO()
    console = Console(file=text, highlight=False, width=_console().width, force_terminal=False, force_jupyter=False)
    for part in parts:
        _draw(part, console)
    return "\n".join(map(str.rstrip, text.getvalue().splitlines()))


def _draw(part: Part, console: Console) -> None:
    if isinstance(part, Rows):
        _draw_line(part.title, console)
        _draw_rows(part, console)
    elif part.is_whole:
        console.print(Text(part.text), soft_wrap=True)
    else:
        _draw_line(part.text, console)


def _draw_line(text: str, console: Console) -> None:
    if _on_terminal():
        text = fill(text, console.width, break_long_words=False, break_on_hyphens=False)
    console.print(Text(text), soft_wrap=True)


def _draw_rows(table: Rows, console: Console) -> None:
    before, columns = console.width, enumerate(table.columns)
    content = [_Column(header, tuple(row[i] for row in table.rows), header in WRAPPED) for i, header in columns]
    if _width(content) > min(console.width, WIDTH):
        content = [column.folded() for column in content]
    for number, part in enumerate(_parts(content, table.n_keys, console.width)):
        if number:
            console.print()
        console.width = max(console.width, _width(part))
        console.print(_drawn(part, console.width))
    console.width = before


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def _parts(columns: Sequence[_Column], n_keys: int, width: int) -> list[list[_Column]]:
    """Return the columns in as few parts as fit the width, which are as narrow as they can be then."""
    fewest = len(_filled(columns, n_keys, width))
    widths = range(1, width + 1)
    return next(parts for narrow in widths if len(parts := _filled(columns, n_keys, narrow)) == fewest)


def _filled(columns: Sequence[_Column], n_keys: int, width: int) -> list[list[_Column]]:
    """Return the columns in parts of at most this width, or of one column beside the keys."""
    keys, parts = [*columns[:n_keys]], [[*columns[: n_keys + 1]]]
    for column in columns[n_keys + 1 :]:
        if _width([*parts[-1], column]) <= width:
            parts[-1].append(column)
        else:
            parts.append([*keys, column])
    return parts


def _drawn(columns: Sequence[_Column], width: int) -> Table:
    """Return the columns as a table; text that may go on in the next line gets what is left of the width."""
    table, spare = Table(box=None, header_style="bold", pad_edge=False), width - _width(columns)
    for column in columns:
        more = min(spare, column.widest - column.width)
        spare -= more
        table.add_column(column.header, overflow="fold", no_wrap=not column.wraps, width=column.width + more)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, in the plural where it is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(fraction: float) -> str:
    """Return a fraction in percent."""
    return f"{100 * fraction:.2f} %"


def span(interval: tuple[int, int] | None) -> str:
    """Return the ends of an interval."""
    return "" if interval is None else f"{interval[0]}..{interval[1]}"


def _console() -> Console:
    return Console(highlight=False, width=None if _on_terminal() else _columns(), force_jupyter=False)


def _columns() -> int:
    """Return the columns of a file or a pipe."""
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else WIDTH


def _on_terminal() -> bool:
    return sys.stdout.isatty()


# --- of a conversion, in the tables of export and inspect -------------------------------------------------------------


def print_changes(title: str, changes: Sequence[Mapping[str, Any]]) -> None:
    """Show what each step of a conversion did; `largest` is the worst error of a number, `output` that of a layer."""
    rows = []
    for change in changes:
        largest = "exact" if change["exact"] else _error(change["worst_error"])
        rows.append([change["step"], change["detail"], largest, _error(change["output_error"])])
    print_rows(title, ["step", "what", "largest", "output"], rows)
    print_line("largest: of the errors of single numbers")
    chosen = "choose …` and `" if any(change["step"].startswith("choose ") for change in changes) else ""
    print_line(f"output: root mean square error of the layer's input sum; in rows `{chosen}compare …`, of its spikes")


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.2%}"


def print_cores(cores: int, chips: int, utilisation: Utilisation) -> None:
    """Show how many cores are used, and how full the fullest is of each resource."""
    full = ", ".join(f"{name.replace('_', ' ')} {part:.0%}" for name, part in utilisation.fullest.items())
    print_line(f"{counted(cores, 'core')} on {counted(chips, 'chip')}; the most that a core uses: {full}")
