"""Names as Python callers write them, brought to the one form that is worked with.

In: a text or a list. Out: a tuple of texts.
"""

from __future__ import annotations

from collections.abc import Sequence


def split_names(names: Sequence[str] | str) -> tuple[str, ...]:
    """Return the names of `names`, a list or a text with commas between them, without the blanks around them."""
    given = names.split(",") if isinstance(names, str) else names
    return tuple(name.strip() for name in given if name.strip())
