"""Charts as Vega reads them, and files that figures are drawn to: checked before the work, written whole.

In: an Altair chart, a path. Out: a specification; a .png, .svg or .pdf file, or a UsageError. No browser takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nctool.errors import UsageError
from nctool.figures import theme
from nctool.figures.png import with_text
from nctool.files import require_writable, write_atomically

SUFFIXES = (".png", ".svg", ".pdf")
OPTION = "--plot"
PIXELS_PER_INCH = 144
"""Of a .png, so that a chart is twice as large as its specification says."""

MARK = "nctool figure"
"""A text in each file, by which nctool knows its own."""


def vega_of(chart: Any, colour: Callable[[str], str]) -> dict[str, Any]:
    """Return an Altair chart as Vega draws it.

    Args:
        colour: gives a colour by its name, see `nctool.figures.theme`.
    """
    import vl_convert

    spec: dict[str, Any] = vl_convert.vegalite_to_vega(
        chart.to_dict(), vl_version=_version(), config=theme.config(colour)
    )
    return spec


def _version() -> str:
    """Return the version of Vega-Lite that Altair writes, as vl-convert calls it: 6.1."""
    import altair

    major, minor, *_ = altair.SCHEMA_VERSION.removeprefix("v").split(".")
    return f"{major}.{minor}"


def require_figure(path: Path) -> None:
    """Refuse a figure that could not be written.

    Raises:
        UsageError: the suffix is unknown, or the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"plot `{path}`: ends in `{path.suffix}`, allowed {', '.join(SUFFIXES)}")
    require_writable(path, OPTION)


def save_figure(chart: Any, path: Path) -> None:
    """Write a chart atomically, on a white ground; the suffix of `path` chooses the format."""
    write_atomically(path, drawn(chart, path.suffix), OPTION)


def for_notebook(chart: Any) -> Any:
    """Return a chart as a notebook shows it, like the files: on white, whatever the page."""
    return chart.configure(**_config())


def _config() -> dict[str, Any]:
    return theme.config(theme.of_file) | {"background": theme.LIGHT["paper"]}


def drawn(chart: Any, suffix: str) -> bytes:
    """Return a chart as the bytes of a file: the same ones each time."""
    import vl_convert

    spec = chart.to_dict()
    options: dict[str, Any] = {"vl_version": _version(), "config": _config()}
    if suffix == ".svg":
        return f"{vl_convert.vegalite_to_svg(spec, **options)}<!-- {MARK} -->\n".encode()
    if suffix == ".pdf":
        pdf: bytes = vl_convert.vegalite_to_pdf(spec, **options)
        return pdf + f"%{MARK}\n".encode()
    return with_text(vl_convert.vegalite_to_png(spec, ppi=PIXELS_PER_INCH, **options), MARK)
