"""Draw what `explore` found: wrong answers against latency, neurons and synaptic operations, best at the lower left.

In: a title and rows. Out: a chart, or a .png, .svg or .pdf file. Altair is imported only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nctool.exporting.exploring import ExploreRow, Measured
from nctool.figures.file import require_figure, save_figure

Rows = Sequence[ExploreRow]

PANELS: dict[str, Callable[[Measured], float]] = {
    "latency, time steps": lambda measured: measured.cost.latency_steps,
    "neurons": lambda measured: measured.neurons,
    "synaptic operations a sample": lambda measured: measured.cost.total.synaptic_operations,
}
COLOURS = {
    "autapse": ("#08519c", "#4292c6", "#9ecae1", "#c6dbef"),
    "population": ("#d94801",),
    "zero-reset": ("#6a51a3",),
    "graded": ("#238b45",),
}
"""The colours of a backend, from many replicas to few; the last one serves all that follow."""

DASHES = ((1, 0), (6, 4), (2, 3), (8, 3, 2, 3))
"""The dashes of a line, from many weight bits to few."""

MOST_TICKS = 6
"""An axis with at most so many values names each of them."""

WRONG = [step * 10**k for k in (-2, -1, 0, 1) for step in (1, 2, 5)]
"""Wrong answers, in percent, that the axis names."""

NOTHING = "none of the settings can be exported"
NOT_BEATEN = "○ not beaten by another"
WIDTH, HEIGHT = 330, 300


def prepare(path: Path) -> Callable[[str, Rows], None]:
    """Return what draws rows to `path`, under a title.

    Raises:
        UsageError: the suffix is unknown, or the file cannot be written.
    """
    require_figure(path)
    return partial(_draw, path)


def _draw(path: Path, title: str, rows: Rows) -> None:
    save_figure(chart(title, rows), path)


def chart(title: str, rows: Rows) -> Any:
    """Return the Altair chart of rows."""
    import altair as alt

    points = list(_points(rows))
    if not points:  # axes of logarithms need a point
        empty = alt.Chart(alt.InlineData([{"text": NOTHING}])).mark_text().encode(text="text:N")
        return empty.properties(title=title, width=WIDTH, height=HEIGHT)
    panels = [_panel(number, name, points) for number, name in enumerate(PANELS)]
    return alt.hconcat(*panels).properties(title=alt.Title(title, subtitle=NOT_BEATEN))


def _points(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yield a point for each row that was measured, curve by curve: the points of a curve are its windows T."""
    bits = sorted({row.setting.weight_bits for row in rows}, reverse=True)
    for row in sorted(rows, key=lambda row: row.setting.steps):
        setting, measured = row.setting, row.measured
        if measured is not None:
            yield {
                "curve": f"{setting.backend}, K={setting.replicas}, {setting.weight_bits} bits",
                "colour": _shade(setting.backend, setting.replicas, rows),
                "dash": list(DASHES[bits.index(setting.weight_bits) % len(DASHES)]),
                "steps": setting.steps,
                "wrong": _wrong_percent(measured),
                "pareto": row.pareto,
                **{name: value(measured) for name, value in PANELS.items()},
            }


def _panel(number: int, name: str, points: Sequence[dict[str, Any]]) -> Any:
    """Return one curve for each backend, replicas and weight bits, with rings where nothing beats a point."""
    import altair as alt

    curves = {point["curve"]: point for point in points}
    colours = alt.Scale(domain=list(curves), range=[point["colour"] for point in curves.values()])
    dashes = alt.Scale(domain=list(curves), range=[point["dash"] for point in curves.values()])
    ticks = sorted({point[name] for point in points})
    named = {"values": ticks, "format": ",d"} if len(ticks) <= MOST_TICKS else {"format": "~s", "tickCount": 4}
    scale = alt.Scale(type="log", nice=False, padding=14)
    base = alt.Chart(alt.InlineData([{**point, "across": point[name]} for point in points])).encode(
        alt.X("across:Q", title=name, scale=scale, axis=alt.Axis(grid=False, **named)),
        alt.Y(
            "wrong:Q",
            title=None if number else "wrong answers, %",
            scale=scale,
            axis=alt.Axis(values=WRONG, format="~g"),
        ),
    )
    legend = None if number else alt.Legend(title=None, orient="bottom", columns=3, symbolType="stroke", symbolSize=400)
    colour = alt.Color("curve:N", scale=colours, sort=list(curves), legend=legend)
    dash = alt.StrokeDash("curve:N", scale=dashes, sort=list(curves), legend=legend)
    lines = base.mark_line(point={"size": 30}).encode(colour, dash, order="steps:Q")
    rings = base.transform_filter("datum.pareto").mark_point(filled=False, size=120, style="ring")
    return (lines + rings).properties(width=WIDTH, height=HEIGHT)


def _wrong_percent(measured: Measured) -> float:
    """Return the wrong answers in percent; none at all is drawn as half of one."""
    return 100 * max(1 - measured.accuracy, 0.5 / measured.cost.samples)


def _shade(backend: str, replicas: int, rows: Rows) -> str:
    """Return the colour of a backend, the darker the more replicas; a lone one is dark."""
    tried = sorted({row.setting.replicas for row in rows if row.setting.backend == backend}, reverse=True)
    shades = COLOURS[backend]
    return shades[min(tried.index(replicas), len(shades) - 1)]
