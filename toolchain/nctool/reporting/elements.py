"""What a page is made of, before it is HTML: sections of figures, tables, images and sentences.

In: texts and numbers. Out: frozen dataclasses. Imports nothing of nctool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Choice = Literal["layer", "sample"]
"""What a reader chooses, so that figures show it."""

WHOLE = ""
"""The key of the only variant of a figure that shows no choice."""

Columns = Mapping[str, Sequence[Any]]
"""The rows of a chart, field by field; all fields are equally long."""


GridLine = tuple[str, str, int, str]
"""A line of cells: its layer, its time steps, how many neurons its cells share evenly, and a digit for each cell: 0..9
and a..z say how dark it is, in parts of 35. A cell that is not empty is at least 1."""


@dataclass(frozen=True)
class Variant:
    """What a figure shows of one layer, of one sample, or of the whole network.

    Args:
        text: says in words what is to be seen, or, where there is nothing, why.
        columns: the rows of the chart; none where there is nothing to draw.
        grid: rows of a chart of many cells in short: see `GridLine`; None where `columns` holds them.
        image: a sample beside the chart, as a `data:` address; empty for none.
    """

    text: str
    columns: Columns = field(default_factory=dict)
    grid: Sequence[GridLine] | None = None
    image: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart with its title, its words and its table.

    Args:
        chart: its name in `nctool.figures.page_charts`.
        title: what is shown, with its unit.
        table: the fields that the table shows, with their headers.
        variants: by what is chosen, or `WHOLE`.
        by: what the reader chooses; None for a figure that is always the same.
        is_wide: it takes the whole width.
    """

    chart: str
    title: str
    table: Mapping[str, str]
    variants: Mapping[str, Variant]
    by: Choice | None = None
    is_wide: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under headers; `keys` says that the first column names the rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_folded: bool = False


@dataclass(frozen=True)
class Picture:
    """An image of a sample, as a `data:` address, with what is to be said of it."""

    image: str
    text: str


@dataclass(frozen=True)
class Gallery:
    """Images of samples under a title, the first one first."""

    title: str
    text: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class LeftOut:
    """Something that does not apply, or is not known, and why."""

    what: str
    why: str


Element = Figure | Table | Gallery | LeftOut


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: in the address, `#name`.
        title: of the section.
        text: what it answers, in a sentence.
        columns: the elements of each network, in the order of the networks; or one for all of them.
        choice: what the reader chooses here.
    """

    name: str
    title: str
    text: str
    columns: Sequence[Sequence[Element]]
    choice: Choice | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether engines agreed, in a word and in sentences.

    Args:
        state: `equal`, `different` or `open`: nothing was compared.
        word: on the badge.
        texts: what was compared, or the first divergence.
    """

    state: Literal["equal", "different", "open"]
    word: str
    texts: Sequence[str]


@dataclass(frozen=True)
class Head:
    """The top of one network: what it is, its verdict, and its numbers by name, each with a note."""

    name: str
    what: str
    verdict: Verdict
    numbers: Sequence[tuple[str, str, str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """All that a page says.

    Args:
        title: of the page.
        heads: one for each network.
        sections: in order.
        compared: what differs between networks, a row for each number; None for one network.
        footer: how the page was made.
    """

    title: str
    heads: Sequence[Head]
    sections: Sequence[Section]
    compared: Table | None
    footer: str
