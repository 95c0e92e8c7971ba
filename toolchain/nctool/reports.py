"""What public functions report, as JSON.

In: a frozen dataclass. Out: dictionaries, lists, numbers and texts. Imports nothing of nctool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

TWINS = (("backend", "realisation"), ("replicas", "units"), ("input_encoding", "input_coding"))
"""Keys that JSON has together, with equal values: the second is the older name, kept for scripts."""


@dataclass(frozen=True)
class Report:
    """Base of what a public function returns."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return _object(self)


def _object(value: Any) -> dict[str, Any]:
    content = {field.name: _json(getattr(value, field.name)) for field in fields(value)}
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
    return str(value) if isinstance(value, Path) else value
