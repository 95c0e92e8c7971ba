"""Write a page as one file of HTML: style, script, the drawing library and all numbers are inside, nothing is fetched.

In: a Page. Out: HTML as text. Altair and vl-convert are imported when a page is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from nctool.figures import page_charts, theme
from nctool.figures.file import vega_of
from nctool.reporting.elements import (
    Element,
    Figure,
    Gallery,
    Head,
    LeftOut,
    Page,
    Section,
    Table,
)

GENERATOR = '<meta name="generator" content="nctool report">'
"""What marks a file as a page that may be replaced."""

MOST_BYTES = 2_000_000
"""Size of a page."""

THINNING = (1, 2, 4, 8, 16)
"""One in so many layers and samples can be chosen."""

_FILES = Path(__file__).parent / "page"
_WORTH_PACKING = 12
"""Values of a column that are written one by one."""


def html_of(page: Page) -> str:
    """Return the whole page; where it would be too large, with every second, fourth, ... layer and sample."""
    for step in THINNING:
        html = _html_of(page if step == 1 else _thinned(page, step))
        as_bytes = html.encode(errors="backslashreplace")  # names of files may be no UTF-8
        if len(as_bytes) <= MOST_BYTES:
            break
    return as_bytes.decode()


def _thinned(page: Page, step: int) -> Page:
    """Return a page that offers every `step`-th layer and sample, and says so."""

    def thinned(element: Element) -> Element:
        if not isinstance(element, Figure) or element.by is None:
            return element
        return replace(element, variants=dict(list(element.variants.items())[::step]))

    sections = [
        replace(section, columns=[list(map(thinned, column)) for column in section.columns])
        for section in page.sections
    ]
    note = f"Of layers and samples, one in {step} can be chosen: all of them would make a file of more than 2 MB."
    return replace(page, sections=sections, footer=f"{note} {page.footer}")


def _html_of(page: Page) -> str:
    writer = _Writer([])
    body = "\n".join(writer.body(page))
    data = {"charts": _charts(writer.figures), "figures": [_data(figure) for figure in writer.figures]}
    return Template(_text("page.html")).substitute(
        generator=GENERATOR,
        title=escape(page.title),
        style=_variables() + _text("style.css"),
        body=body,
        footer=escape(page.footer),
        data=_json(data),
        library=_library(),
        script=_text("script.js"),
    )


@cache
def _text(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    """Return Vega-Embed with Vega as a script, without what could end the element that it stands in."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")


def _variables() -> str:
    """Return the colours as variables of the style sheet: light, dark where the reader wants it, light on paper."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in c.items()) for c in (theme.LIGHT, theme.DARK))
    dark = f"@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"
    return f":root{{{light};--font:{theme.FONT}}}\n{dark}\n"


def _charts(figures: Sequence[Figure]) -> dict[str, Any]:
    """Return each chart that is used, as Vega reads it."""
    return {
        name: vega_of(page_charts.chart(name), theme.of_page)
        for name in dict.fromkeys(figure.chart for figure in figures)
    }


def _data(figure: Figure) -> dict[str, Any]:
    variants = {
        key: {
            "text": variant.text,
            "columns": {name: _packed(list(map(_short, values))) for name, values in variant.columns.items()},
            **({"grid": variant.grid} if variant.grid else {}),
            **({"image": variant.image} if variant.image else {}),
        }
        for key, variant in figure.variants.items()
    }
    return {"chart": figure.chart, "by": figure.by, "title": figure.title, "table": dict(figure.table), "of": variants}


def _packed(values: list[Any]) -> Any:
    """Return values as they are, or each distinct one once with its places, where that is shorter."""
    distinct = list(dict.fromkeys(values))
    if len(values) < _WORTH_PACKING or 3 * len(distinct) > len(values):
        return values
    places = {value: place for place, value in enumerate(distinct)}
    return {"of": distinct, "at": [places[value] for value in values]}


def _short(value: Any) -> Any:
    """Return a number with the digits that a reader can use, as JSON takes it."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return value.item() if hasattr(value, "item") else value


def _json(data: Any) -> str:
    """Return JSON that cannot end the element that it stands in."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


@dataclass(frozen=True)
class _Writer:
    """Writes elements one after the other, and keeps the figures, whose numbers go into the page as data.

    Args:
        figures: grows.
    """

    figures: list[Figure]

    def body(self, page: Page) -> Iterator[str]:
        """Yield the page between its title and its footer."""
        yield f"<h1>{escape(page.title)}</h1>"
        several = len(page.heads) > 1
        yield self._row("".join(_head(head, several) for head in page.heads), len(page.heads))
        if page.compared is not None:
            yield f'<section id="comparison"><h2>Side by side</h2>{_table(page.compared)}</section>'
        shown = [section for section in page.sections if any(section.columns)]
        links = "".join(f'<li><a href="#{section.name}">{escape(section.title)}</a></li>' for section in shown)
        yield f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
        for section in shown:
            yield self._section(section, [head.name for head in page.heads])

    def _row(self, content: str, columns: int) -> str:
        return f'<div class="networks" style="--networks:{columns}">{content}</div>'

    def _section(self, section: Section, names: Sequence[str]) -> str:
        titles = names if len(section.columns) > 1 else [""]
        columns = [self._column(name, column) for name, column in zip(titles, section.columns, strict=True)]
        return (
            f'<section id="{section.name}"><h2>{escape(section.title)}</h2><p class="answer">{escape(section.text)}</p>'
            f"{self._choice(section)}{self._row(''.join(columns), len(columns))}</section>"
        )

    def _column(self, name: str, elements: Sequence[Element]) -> str:
        whose = f'<p class="whose">{escape(name)}</p>' if name else ""
        return f'<div class="network">{whose}<div class="elements">{"".join(map(self._element, elements))}</div></div>'

    def _choice(self, section: Section) -> str:
        """Return what a reader chooses from: all that any figure of the section can show, what most can show first."""
        if section.choice is None:
            return ""
        figures = [e for column in section.columns for e in column if isinstance(e, Figure) and e.by == section.choice]
        keys = Counter(key for figure in figures for key in figure.variants)
        if not keys:
            return ""
        options = "".join(f"<option>{escape(key)}</option>" for key, _ in keys.most_common())
        name = f"choose-{section.name}"
        label = f'<label for="{name}">{section.choice.capitalize()}</label>'
        return f'<p class="choice">{label} <select id="{name}" data-by="{section.choice}">{options}</select></p>'

    def _element(self, element: Element) -> str:
        if isinstance(element, Figure):
            return self._figure(element)
        if isinstance(element, Table):
            return _table(element)
        if isinstance(element, Gallery):
            return _gallery(element)
        return _left_out(element)

    def _figure(self, figure: Figure) -> str:
        number = len(self.figures)
        self.figures.append(figure)
        text = next(iter(figure.variants.values())).text if figure.variants else ""
        image = '<img class="sample" alt="">' if any(v.image for v in figure.variants.values()) else ""
        return (
            f'<figure class="card{" wide" if figure.is_wide else ""}" data-figure="{number}">'
            f'<figcaption><h3>{escape(figure.title)}</h3><p class="text">{_written(text)}</p></figcaption>'
            f'<div class="drawn">{image}<div class="chart" role="img"></div></div>'
            f'<details class="data"><summary>Table: {escape(figure.title)}</summary>'
            f"{_scrolling(figure.title, '')}</details></figure>"
        )


def _head(head: Head, is_named: bool) -> str:
    numbers = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class=note>{_written(note)}</dd></div>"
        for name, value, note in head.numbers
    )
    verdict, name = head.verdict, f'<h2 class="name">{escape(head.name)}</h2>' if is_named else ""
    texts = "".join(f"<li>{_written(text)}</li>" for text in verdict.texts)
    notes = "".join(f'<p class="warning">{escape(note)}</p>' for note in head.notes)
    return (
        f'<section class="head" aria-label="{escape(head.name)}">{name}<p class="what">{escape(head.what)}</p>'
        f'<div class="verdict {verdict.state}"><p class="badge">{escape(verdict.word)}</p><ul>{texts}</ul></div>'
        f'<dl class="numbers">{numbers}</dl>{notes}</section>'
    )


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.header)
    rows = "".join(
        f'<tr><th scope="row">{_written(first)}</th>{"".join(f"<td>{_written(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in table.rows
    )
    content = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    content = _scrolling(table.title, content)
    if table.is_folded:
        return f'<details class="card wide"><summary>{escape(table.title)}</summary>{content}</details>'
    return f'<div class="card wide"><h3>{escape(table.title)}</h3>{content}</div>'


def _scrolling(title: str, content: str) -> str:
    """Return a place that scrolls, also by the keyboard."""
    return f'<div class="scrolls" tabindex="0" role="group" aria-label="{escape(title)}">{content}</div>'


def _gallery(gallery: Gallery) -> str:
    pictures = "".join(
        f'<li><img class="pixels" src="{picture.image}" alt="">{escape(picture.text)}</li>'
        for picture in gallery.pictures
    )
    return (
        f'<div class="card"><h3>{escape(gallery.title)}</h3><p class="text">{_written(gallery.text)}</p>'
        f'<ul class="gallery">{pictures}</ul></div>'
    )


def _written(text: str) -> str:
    """Return text in which names stand between backticks."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if k % 2 else part for k, part in enumerate(parts))


def _left_out(element: LeftOut) -> str:
    return f'<p class="left-out"><strong>{escape(element.what)}</strong> left out: {_written(element.why)}.</p>'
