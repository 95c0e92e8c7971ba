"""Names and settings as Python callers write them, brought to the one form that is worked with.

In: a text, a list or a mapping. Out: a tuple of texts. Imports only errors and the TOML writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nctool.errors import RecipeError
from nctool.toml_text import literal

Overrides = Sequence[str] | Mapping[str, Any]
"""Changes of a recipe: `table.key=value` each, or values by `table.key`."""


def split_names(names: Sequence[str] | str) -> tuple[str, ...]:
    """Return the names of `names`, a list or a text with commas between them, without the blanks around them."""
    given = names.split(",") if isinstance(names, str) else names
    return tuple(name.strip() for name in given if name.strip())


def override_texts(overrides: Overrides | str) -> tuple[str, ...]:
    """Return changes of a recipe as `table.key=value` each; a text is a single one.

    Raises:
        RecipeError: a value is of no type that a recipe has.
    """
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={literal(_plain(key, value))}" for key, value in overrides.items())
    return (overrides,) if isinstance(overrides, str) else tuple(overrides)


def _plain(key: str, value: Any) -> Any:
    """Return a value as Python's own types: numbers and arrays of NumPy and torch as what they hold."""
    found = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(found, (str, bool, int, float, list, tuple, Mapping)):
        raise RecipeError(
            f"overrides: `{key}` is a {type(value).__name__}, allowed: a text, a number, a list or a mapping",
            hint="leave a key out to keep what the recipe says",
        )
    return found
