"""TOML as text: the parser of the standard library, and the one literal writer that it lacks.

In: TOML text or plain values. Out: plain values or TOML text. Imports nothing of nctool.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PARSE_ERRORS = (tomllib.TOMLDecodeError, RecursionError)
"""What `parse` raises on text that is not TOML, or is nested too deep to read."""


def parse(text: str) -> dict[str, Any]:
    """Read a TOML document; raises one of `PARSE_ERRORS`."""
    return tomllib.loads(text)


def parse_value(text: str) -> Any:
    """Read one TOML literal; text that is none is returned as it is."""
    try:
        document = parse(f"value = {text}")
    except PARSE_ERRORS:
        return text
    return document["value"] if list(document) == ["value"] else text


def literal(value: Any) -> str:
    """Write a value as a TOML literal.

    Args:
        value: str, bool, int, finite float, or a list, tuple or mapping of these; anything else (dates)
            is written as its text.
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_string(str(key))} = {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(literal(inner) for inner in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, (int, float)) else _string(str(value))


def _string(text: str) -> str:
    """Quote by JSON's rules, which TOML shares but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
