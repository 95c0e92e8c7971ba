"""Show lines and tables on stdout, whatever the width of the terminal.

In: texts. Out: text on stdout. Must not import torch or Lava.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""

WRAPPED = ("what", "description")
"""Headers of columns whose text may go on in the next line; others would be torn within a number."""


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table of text."""
    table = make_table(columns)
    for row in rows:
        table.add_row(*row)
    print_table(title, table)


def make_table(columns: Sequence[str]) -> Table:
    """Return an empty table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in WRAPPED)
    return table


def print_table(title: str, table: Table) -> None:
    """Show a table under its title; where it is too wide, with headers of several lines, or wider than the terminal."""
    print_line(title)
    console = _console()
    if _width(table, console) > console.width:
        for column in table.columns:
            column.header = str(column.header).replace(" ", "\n")
    console.width = max(console.width, _width(table, console))
    console.print(table)


def _width(table: Table, console: Console) -> int:
    """Return the columns that a table needs if only the text of `WRAPPED` goes on in the next line."""
    for column in table.columns:
        if column.no_wrap:
            cells = (str(cell) for cell in (column.header, *column.cells))
            column.min_width = max(cell_len(line) for cell in cells for line in cell.split("\n"))
    return Measurement.get(console, console.options.update(max_width=10 * WIDTH), table).minimum


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, in the plural where it is not 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def print_line(text: str) -> None:
    """Show one line, however long."""
    _console().print(text, markup=False, soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
