"""Draw what `explore` found: wrong answers against latency, neurons and synaptic operations, best at the lower left.

In: a title and rows. Out: a .png, .svg or .pdf file. matplotlib is imported only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nctool.exporting.exploring import ExploreRow, Measured
from nctool.figures.file import LOOKS, require_figure, save_figure

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

STYLES = ("-", "--", ":", "-.")
"""The line styles, from many weight bits to few; the points of the first are filled."""

MOST_TICKS = 6
"""An axis with at most so many values names each of them."""


def prepare(path: Path) -> Callable[[str, Rows], None]:
    """Return what draws rows to `path`, under a title.

    Raises:
        UsageError: the suffix is unknown, the file cannot be written, or matplotlib is not installed.
    """
    require_figure(path)
    return partial(_draw, path)


def _draw(path: Path, title: str, rows: Rows) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(LOOKS):
        figure = Figure(figsize=(13.5, 4.6), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (label, value) in zip(panels, PANELS.items(), strict=True):
            _panel(axes, label, value, rows)
        panels[0].set_ylabel("wrong answers, %")
        figure.suptitle(title)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
        save_figure(figure, path)


def _panel(axes: Any, label: str, value: Callable[[Measured], float], rows: Rows) -> None:
    """Draw one curve for each backend, replicas and weight bits: its points are the windows T."""
    ring = {"linestyle": "", "marker": "o", "markersize": 9, "markerfacecolor": "none", "color": "black"}
    ticks: set[float] = set()
    for curve in _curves(rows):
        points = [(value(measured), _wrong_percent(measured)) for measured, _ in curve.points]
        fill = curve.colour if curve.style == STYLES[0] else "white"
        axes.plot(*zip(*points, strict=True), curve.style, color=curve.colour, marker="o", mfc=fill, label=curve.name)
        kept = [point for point, (_, pareto) in zip(points, curve.points, strict=True) if pareto]
        axes.plot([across for across, _ in kept], [wrong for _, wrong in kept], **ring)
        ticks |= {across for across, _ in points}
    axes.plot([], [], **ring, label="not beaten by another")
    if ticks:  # matplotlib has no logarithmic axis without a point
        _scale(axes, sorted(ticks))
    axes.set_xlabel(label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Any, across: list[float]) -> None:
    """Make both axes logarithmic, with ticks at the values that occur where they are few."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    if len(across) <= MOST_TICKS:
        axes.set_xticks(across, [f"{tick:,.0f}" for tick in across])
        axes.xaxis.set_minor_locator(NullLocator())


def _wrong_percent(measured: Measured) -> float:
    """Return the wrong answers in percent; none at all is drawn as half of one."""
    return 100 * max(1 - measured.accuracy, 0.5 / measured.cost.samples)


@dataclass(frozen=True)
class _Curve:
    """What is drawn in one colour and style: what was measured by window, and whether nothing beats it."""

    name: str
    colour: str
    style: str
    points: tuple[tuple[Measured, bool], ...]


def _curves(rows: Rows) -> list[_Curve]:
    bits = sorted({row.setting.weight_bits for row in rows}, reverse=True)
    groups: dict[tuple[str, int, int], list[ExploreRow]] = {}
    for row in rows:
        if row.measured is not None:
            key = (row.setting.backend, row.setting.replicas, row.setting.weight_bits)
            groups.setdefault(key, []).append(row)
    return [
        _Curve(
            name=f"{backend}, K={replicas}, {width} bits",
            colour=_shade(backend, replicas, rows),
            style=STYLES[bits.index(width) % len(STYLES)],
            points=tuple(
                (row.measured, row.pareto)
                for row in sorted(group, key=lambda row: row.setting.steps)
                if row.measured is not None
            ),
        )
        for (backend, replicas, width), group in groups.items()
    ]


def _shade(backend: str, replicas: int, rows: Rows) -> str:
    """Return the colour of a backend, the darker the more replicas; a lone one is dark."""
    tried = sorted({row.setting.replicas for row in rows if row.setting.backend == backend}, reverse=True)
    shades = COLOURS[backend]
    return shades[min(tried.index(replicas), len(shades) - 1)]
