"""Names and settings as Python callers write them, brought to the one form that is worked with.

In: a text, a list or a mapping. Out: a tuple of texts. Imports only the TOML writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nctool.toml_text import literal

Overrides = Sequence[str] | Mapping[str, Any]
"""Changes of a recipe: `table.key=value` each, or values by `table.key`."""


def split_names(names: Sequence[str] | str) -> tuple[str, ...]:
    """Return names that stand in a list, or in a text with commas between them."""
    given = names.split(",") if isinstance(names, str) else names
    return tuple(name.strip() for name in given if name.strip())


def override_texts(overrides: Overrides | str) -> tuple[str, ...]:
    """Return changes of a recipe as `table.key=value` each; a text is a single one."""
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={literal(value)}" for key, value in overrides.items())
    return (overrides,) if isinstance(overrides, str) else tuple(overrides)
