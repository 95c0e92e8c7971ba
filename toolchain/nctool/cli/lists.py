"""The text of options that take several values.

In: text. Out: values as the public functions take them, or a UsageError.
"""

from __future__ import annotations

import re

from nctool.errors import UsageError

_NUMBER = re.compile(r"\d{1,9}")


def parse_numbers(text: str | None, what: str) -> list[int] | None:
    """Turn `1,2,4` into numbers, and nothing into None; `what` is how messages call them.

    Raises:
        UsageError: a part is no whole number.
    """
    if text is None:
        return None
    parts = parse_names(text)
    if not parts or not all(_NUMBER.fullmatch(part) for part in parts):
        raise UsageError(f"{what}: got `{text}`, allowed whole numbers with commas between them")
    return [int(part) for part in parts]


def parse_names(text: str) -> list[str]:
    """Turn `autapse,population` into names."""
    return [part.strip() for part in text.split(",") if part.strip()]
