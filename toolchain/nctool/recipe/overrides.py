"""Changes of a recipe: texts as the command line takes them, or values by key, as Python has them.

In: the document of a recipe, and changes. Out: the changed document, or a RecipeError. Imports of nctool only errors
and the parser of TOML values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nctool.errors import RecipeError
from nctool.toml import parse_value

Overrides = Sequence[str] | Mapping[str, Any] | str
"""A text `table.key=value`, several of them, or values by `table.key`."""


def override(content: dict[str, Any], overrides: Overrides) -> None:
    """Change a document in place, override by override.

    Raises:
        RecipeError: a text has no `=`, a key is none, lies below a value, or a value is of no type that a recipe has.
    """
    for key, value in _changes(overrides):
        _put(content, key, value)


def _changes(overrides: Overrides) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of each; those of a mapping are taken as they are, and never as text."""
    if isinstance(overrides, Mapping):
        yield from ((str(key), _plain(key, value)) for key, value in overrides.items())
        return
    for text in [overrides] if isinstance(overrides, str) else overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise RecipeError(f"--set got `{text}`, allowed: KEY=VALUE", hint="for instance --set training.epochs=3")
        yield key, parse_value(value.strip())


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    parts = [part.strip() for part in key.split(".")]
    if not all(parts):
        raise RecipeError(f"--set got the key `{key}`, allowed: KEY or TABLE.KEY", hint="for instance training.epochs")
    table = content
    for depth, part in enumerate(parts[:-1], start=1):
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set got the key `{key}`, but `{'.'.join(parts[:depth])}` is no table")
        table = inner
    table[parts[-1]] = value


def _plain(key: str, value: Any) -> Any:
    """Return a value in the types of TOML: what NumPy and torch hold as numbers, a path as text."""
    if isinstance(value, Mapping):
        return {each: _plain(key, inner) for each, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(key, inner) for inner in value]
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, (str, bool, int, float)):
        raise RecipeError(
            f"overrides: `{key}` is a {type(value).__name__}, allowed: a text, a number, a list or a mapping",
            hint="leave a key out to keep what the recipe says",
        )
    return found
