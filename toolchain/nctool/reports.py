"""What public functions report: as JSON for programs, in a line, as a text and as tables for people.

In: a frozen dataclass. Out: dictionaries, lists, numbers and texts. How a report is shown is learnt from the command of
its function, which shows the same on the command line. Imports nothing of nctool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

TWINS = (("backend", "realisation"), ("replicas", "units"), ("input_encoding", "input_coding"))
"""Keys that JSON has together, with equal values: the second is the older name, kept for scripts."""

NOT_JSON = {"json": False}
"""Metadata of a field that is for Python only."""

LONGEST_LINE = 120
"""Characters of a report in a line."""

LONGEST_TEXT = 40
MOST_SHOWN = 5
"""Characters of a text, and elements of a collection, that stand in the line; of others stands how many there are."""


@dataclass(frozen=True)
class Shown:
    """How the reports of a class are shown: as a text for a terminal, and as HTML for a notebook."""

    text: Callable[[Any], str]
    html: Callable[[Any], str]


_shown: dict[str, Shown] = {}


def learn(report: str, shown: Shown) -> None:
    """Take in how the reports of a class are shown, by the name of the class: its module may not be loaded yet."""
    _shown[report] = shown


@dataclass(frozen=True)
class Report:
    """Base of what a public function returns: `print` shows it as its command does, a notebook as tables."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep the short line: a dataclass would write out every field."""
        super().__init_subclass__(**options)
        cls.__repr__ = Report.__repr__  # type: ignore[method-assign]  # of the class that is being made

    def __repr__(self) -> str:
        """Return a line with as many fields as fit."""
        told = [(field.name, _told(getattr(self, field.name))) for field in fields(self)]
        line = f"{type(self).__name__}("
        for number, (name, text) in enumerate((name, text) for name, text in told if text):
            part = f"{', ' if number else ''}{name}={text}"
            if len(line) + len(part) + len(", …)") > LONGEST_LINE:
                return f"{line}{', …' if number else '…'})"
            line += part
        return f"{line})"

    def __str__(self) -> str:
        """Return what the command prints, in the words of Python."""
        shown = _shown.get(type(self).__name__)
        return repr(self) if shown is None else shown.text(self)

    def _repr_html_(self) -> str | None:
        """Return tables for a notebook; it shows the line where there is None."""
        shown = _shown.get(type(self).__name__)
        return None if shown is None else shown.html(self)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return _object(self)


def _told(value: Any) -> str:
    """Return a value for the line; empty for what would not say anything in it."""
    if value is None or is_dataclass(value):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str | Path):
        text = str(value)
        return repr(text if len(text) <= LONGEST_TEXT else f"…{text[1 - LONGEST_TEXT :]}")
    if isinstance(value, Mapping | Sequence):
        return _counted(value)
    return f"<array {value.shape}>" if hasattr(value, "shape") else repr(value)


def _counted(values: Mapping[Any, Any] | Sequence[Any]) -> str:
    """Return a few plain elements as they are, of others how many there are."""
    is_mapping = isinstance(values, Mapping)
    elements = values.values() if isinstance(values, Mapping) else values
    if len(values) > MOST_SHOWN or not all(isinstance(each, str | int | float) for each in elements):
        return f"<{len(values)}>"
    texts = [f"{key}: {_told(values[key])}" for key in values] if is_mapping else [_told(each) for each in values]
    return f"{{{', '.join(texts)}}}" if is_mapping else f"[{', '.join(texts)}]"


def _object(value: Any) -> dict[str, Any]:
    kept = (field.name for field in fields(value) if field.metadata.get("json", True))
    content = {name: _json(getattr(value, name)) for name in kept}
    for pair in TWINS:
        for present, absent in (pair, pair[::-1]):
            if present in content and absent not in content:
                content[absent] = content[present]
    return content


def _json(value: Any) -> Any:
    if is_dataclass(value):
        return _object(value)
    if isinstance(value, Mapping):
        return {key: _json(element) for key, element in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json(element) for element in value]
    return str(value) if isinstance(value, Path) else value.tolist() if hasattr(value, "tolist") else value
