"""How figures look: colours, fonts and lines, defined once for the report page, for files, and for light and dark.

A chart names colours by what they are for. In a page they are variables of its style sheet, so that a chart follows the
reader's light or dark setting, and paper; in a file they are the light ones.

In: names of colours. Out: configurations for Vega-Lite. Imports no drawing library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LIGHT = {
    "paper": "#ffffff",
    "surface": "#f5f7f9",
    "ink": "#1b1f24",
    "muted": "#545d68",
    "line": "#d3d9df",
    "link": "#0b5cad",
    "good": "#176b3a",
    "bad": "#b3261e",
    "unsure": "#7a5200",
    "c1": "#1f5fa8",
    "c2": "#b3470e",
    "c3": "#1b7a4b",
    "c4": "#7b3fa0",
    "c5": "#8a6a00",
    "c6": "#b0266b",
    "c7": "#0e7480",
    "c8": "#5c6470",
}
"""Colours on white: text has a contrast of 4.5 and more to `paper` and `surface`, marks of 3 and more (WCAG 2.1 AA)."""

DARK = {
    "paper": "#12161c",
    "surface": "#1b2129",
    "ink": "#e7ebf0",
    "muted": "#a9b2be",
    "line": "#38414d",
    "link": "#7db8ff",
    "good": "#69d391",
    "bad": "#ff9288",
    "unsure": "#e6bf5c",
    "c1": "#6cb0f5",
    "c2": "#f0955c",
    "c3": "#5cc98f",
    "c4": "#c49aec",
    "c5": "#dcb93e",
    "c6": "#f283b6",
    "c7": "#4fc4cf",
    "c8": "#a7adb8",
}
"""The same names on a dark ground."""

SERIES = tuple(name for name in LIGHT if name.startswith("c") and name[1:].isdigit())
"""Colours of curves and groups, in order."""

FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


_REGULAR = {"fontWeight": "normal", "subtitleFontWeight": "normal"}
"""One font in a file: a .pdf with two holds them in another order each time."""


def of_file(name: str) -> str:
    """Return a colour as a file needs it."""
    return LIGHT[name]


def of_page(name: str) -> str:
    """Return a colour as the style sheet of a page calls it."""
    return f"var(--{name})"


def config(colour: Callable[[str], str], font_size: int = 12) -> dict[str, Any]:
    """Return the configuration of all charts.

    Args:
        colour: gives a colour by its name: `of_file` or `of_page`.
        font_size: of labels and titles of axes, in pixels.
    """
    texts = {"labelColor": colour("muted"), "titleColor": colour("ink")}
    sizes = {"labelFontSize": font_size, "titleFontSize": font_size, "labelFont": FONT, "titleFont": FONT}
    lines = {"domainColor": colour("muted"), "tickColor": colour("line"), "gridColor": colour("line")}
    return {
        "background": None,
        "aria": False,  # the page describes its charts itself
        "font": FONT,
        "padding": 4,
        "view": {"stroke": None},
        "axis": {**texts, **sizes, **lines, "titleFontWeight": "normal", "labelLimit": 130, "titlePadding": 8},
        "legend": {**texts, **sizes, "titleFontWeight": "normal", "symbolOpacity": 1, "labelLimit": 220},
        "header": {**texts, **sizes, "titleFontWeight": "normal"},
        "title": {"color": colour("ink"), "font": FONT, "fontSize": font_size + 1, "anchor": "start", **_REGULAR},
        "range": {"category": [colour(name) for name in SERIES]},
        "mark": {"color": colour("c1")},
        "text": {"color": colour("ink"), "font": FONT, "fontSize": font_size},
        "style": {
            "allowed": {"color": colour("c8"), "fillOpacity": 0.16},
            "reference": {"color": colour("ink"), "strokeDash": [4, 4], "strokeWidth": 1.5},
            "ring": {"color": colour("ink"), "strokeWidth": 1.2},
            "framed": {"stroke": colour("line"), "strokeWidth": 1},
            "on_dark": {"color": colour("paper")},
            "on_light": {"color": colour("ink")},
        },
    }
