"""Changes of a recipe: values by key.

In: the document of a recipe, and changes. Out: the changed document, or a RecipeError. The command line has them as
texts KEY=VALUE, each of which is parsed once, here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import date, time
from typing import Any

from nctool.errors import RecipeError
from nctool.toml import parse_value

OLDER_KEYS = {"input.coding": "input.encoding", "chip.realisation": "chip.backend", "chip.units": "chip.replicas"}
"""Keys of recipes and checkpoints of older versions, and what they are called now."""

Overrides = Mapping[str, Any]
"""Values by `table.key` or `key`, applied in order."""


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Return the changes that texts KEY=VALUE ask for; a value is a TOML literal, else plain text.

    Raises:
        RecipeError: a text has no `=`.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise RecipeError(f"--set got `{text}`, allowed: KEY=VALUE", hint="for instance --set training.epochs=3")
        overrides.pop(key.strip(), None)  # a key that comes again comes last
        overrides[key.strip()] = parse_value(value.strip())
    return overrides


def override(content: dict[str, Any], overrides: Overrides) -> None:
    """Change a document in place, key by key.

    Raises:
        RecipeError: a key is none, lies below a value, or a value is of no type that TOML has.
    """
    for key, value in overrides.items():
        parts = [part.strip() for part in str(key).split(".")]
        _put(content, OLDER_KEYS.get(".".join(parts), str(key)), _plain(key, value))


def rename_older_keys(content: dict[str, Any], source: str) -> None:
    """Rename the keys of older versions in a document, in place.

    Raises:
        RecipeError: the document has a key by both names.
    """
    for older, key in OLDER_KEYS.items():
        (name, before), after = older.split("."), key.split(".")[1]
        table = content.get(name)
        if not isinstance(table, dict) or before not in table:
            continue
        if after in table:
            raise RecipeError(f"recipe `{source}`: `{older}` is the older name of `{key}`, allowed: one of them")
        table[after] = table.pop(before)


def add_older_keys(content: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as JSON types with its keys by their older names too, which scripts read."""
    added = {name: dict(table) if isinstance(table, dict) else table for name, table in content.items()}
    for older, key in OLDER_KEYS.items():
        (name, before), after = older.split("."), key.split(".")[1]
        table = added.get(name)
        if isinstance(table, dict):
            table[before] = table[after]
    return added


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
        return {name: _plain(key, inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(key, inner) for inner in value]
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(plain, (str, bool, int, float, date, time)):
        raise RecipeError(
            f"overrides: `{key}` is a {type(value).__name__}, allowed: a text, a number, a list or a mapping",
            hint="leave a key out to keep what the recipe says",
        )
    return plain
