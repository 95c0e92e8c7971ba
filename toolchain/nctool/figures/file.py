"""Files that figures are drawn to: checked before the work, written whole.

In: a path. Out: a .png, .svg or .pdf file, or a UsageError. matplotlib is imported only when asked for.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from nctool.errors import UsageError
from nctool.files import require_writable, write_atomically

SUFFIXES = (".png", ".svg", ".pdf")
DATES = {".svg": "Date", ".pdf": "CreationDate"}
"""What the formats call the time of writing, which is left out."""
OPTION = "--plot"
LOOKS = {"font.size": 10, "lines.markersize": 4.5, "lines.linewidth": 1.3, "svg.hashsalt": "nctool"}
"""With a salt of its own, an .svg has the same bytes each time."""


def require_figure(path: Path) -> None:
    """Refuse a figure that could not be written.

    Raises:
        UsageError: the suffix is unknown, the file cannot be written, or matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"plot `{path}`: ends in `{path.suffix}`, allowed {', '.join(SUFFIXES)}")
    require_writable(path, OPTION)
    try:
        import matplotlib.figure  # noqa: F401  # only whether it is there
    except ImportError as error:
        raise UsageError("plots need matplotlib", hint='pip install "nctool[plot]"') from error


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure atomically, without its date; matplotlib fails in its own ways where a disk is full."""
    metadata, drawn = {DATES[path.suffix]: None} if path.suffix in DATES else None, BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], metadata=metadata, dpi=130)
    write_atomically(path, drawn.getvalue(), OPTION)
