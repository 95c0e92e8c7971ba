"""Draw what scaling.py measured: images per second of both engines against each quantity, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt

from nctool.figures.file import save_figure

LABELS = {
    "steps": "time steps T",
    "images": "images in one call",
    "channels": "channels of each convolution",
    "convolutions": "convolutions",
}
ENGINES = ("fast", "reference")
SLOPE = {"steps": -1, "images": 0, "channels": -2, "convolutions": -1}
"""Slopes of the dotted lines: multiplications an image are proportional to T, depth and the square of the width."""


def draw(scaling: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Write the figure; the suffix of `path` chooses the format."""
    panels = [_panel(name, points, is_first=not number) for number, (name, points) in enumerate(scaling.items())]
    save_figure(alt.hconcat(*panels).resolve_scale(y="shared"), path)


def _panel(name: str, points: list[dict[str, float]], *, is_first: bool) -> Any:
    rows = [row for engine in ENGINES for row in _rows(name, engine, points)]
    across = alt.Axis(values=[point[name] for point in points], format="d", grid=False)
    up = alt.Y(
        "speed:Q",
        title="images per second" if is_first else None,
        scale=alt.Scale(type="log"),
        axis=alt.Axis(format=",d", tickCount=5),
    )
    legend = alt.Legend(title=None, orient="bottom", symbolType="circle") if is_first else None
    colour = alt.Color("engine:N", sort=list(ENGINES), legend=legend)
    scale = alt.Scale(type="log", base=2, nice=False)
    base = alt.Chart(alt.InlineData(rows)).encode(alt.X("value:Q", title=LABELS[name], scale=scale, axis=across))
    lines = base.mark_line().encode(up, colour)
    points = base.mark_point(filled=True).encode(up, colour)
    guides = base.mark_line(style="reference", opacity=0.6).encode(y="guide:Q", detail="engine:N")
    return (guides + lines + points).properties(width=230, height=250)


def _rows(name: str, engine: str, points: list[dict[str, float]]) -> Iterator[dict[str, Any]]:
    """Yield the speed of an engine at each value, and where a line of the slope would be that ends at half the last."""
    last = points[-1]
    end = 0.5 * last[f"{engine}_images_per_second"]
    for point in points:
        guide = end * (point[name] / last[name]) ** SLOPE[name]
        yield {
            "engine": engine,
            "value": point[name],
            "speed": point[f"{engine}_images_per_second"],
            "guide": guide,
        }
