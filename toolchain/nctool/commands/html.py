"""The parts of a report as HTML for a notebook, light or dark: its colours are those of the page around it.

In: lines and tables. Out: HTML that holds no script and fetches nothing. Must not import torch or Lava.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from nctool.commands.tables import WRAPPED, Line, Part, Rows

STYLE = """
.nctool{overflow-x:auto}
.nctool p{margin:.1em 0;line-height:1.4}
.nctool table{border-collapse:collapse;margin:.2em 0 .8em;font-size:90%;color:inherit;background:transparent}
.nctool .title{font-weight:600;margin-top:.6em}
.nctool th,.nctool td{padding:.15em .8em .15em 0;vertical-align:top;text-align:left!important;white-space:nowrap}
.nctool th{border-bottom:1px solid rgba(128,128,128,.6)}
.nctool td{border-bottom:1px solid rgba(128,128,128,.25)}
.nctool .number{text-align:right!important;font-variant-numeric:tabular-nums}
.nctool .text{white-space:normal;min-width:16em;max-width:40em}
"""
"""Greys that are half transparent show on white and on black. Of itself, Jupyter aligns texts to the right."""


def as_html(parts: Sequence[Part]) -> str:
    """Return lines and tables as HTML; nothing of their text is taken for HTML."""
    shown = "".join(_line(part) if isinstance(part, Line) else _table(part) for part in parts)
    return f'<div class="nctool"><style>{STYLE}</style>{shown}</div>'


def _line(line: Line) -> str:
    if line.is_whole:
        before, colon, copied = line.text.partition(": ")
        return f"<p>{_text(before + colon)}<code>{escape(copied)}</code></p>" if colon else f"<p>{_text(before)}</p>"
    return f"<p>{_text(line.text)}</p>" if line.text else ""


def _table(table: Rows) -> str:
    kinds = [_kind(header, [row[number] for row in table.rows]) for number, header in enumerate(table.columns)]
    head = "".join(f"<th{kind}>{_text(header)}</th>" for header, kind in zip(table.columns, kinds, strict=True))
    rows = (
        "".join(f"<td{kind}>{_text(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in table.rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    title = f'<p class="title">{_text(table.title)}</p>'
    label = escape(table.title)
    return f'{title}<table aria-label="{label}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _kind(header: str, cells: Sequence[str]) -> str:
    """Return the class of a column: numbers stand right, long texts go on in the next line."""
    if header in WRAPPED:
        return ' class="text"'
    told = [cell for cell in cells if cell]
    return ' class="number"' if told and all(re.match(r"[+\-−]?\d", cell) for cell in told) else ""


def _text(text: str) -> str:
    """Return text of which nothing is HTML; what stands between back-ticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
