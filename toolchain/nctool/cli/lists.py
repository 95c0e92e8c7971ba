"""The text of options that take several values.

In: text. Out: values as the public functions take them, or a UsageError.
"""

from __future__ import annotations

import re
from typing import Literal

from nctool.errors import UsageError

_NUMBER = re.compile(r"\d{1,9}")
_NAMED = re.compile(r"([^=,]+)=(\d{1,9})")


def parse_numbers(text: str | None, what: str) -> list[int] | None:
    """Turn `1,2,4` into numbers, and nothing into None; `what` is how messages call them.

    Raises:
        UsageError: a part is no whole number.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(_NUMBER.fullmatch(part) for part in parts):
        raise UsageError(f"{what}: got `{text}`, allowed whole numbers with commas between them")
    return [int(part) for part in parts]


def parse_units(text: str | None) -> int | dict[str, int] | Literal["auto"] | None:
    """Turn `4` or `conv1=4,conv2=2` into units; `auto` and nothing stay what they are.

    Raises:
        UsageError: the text is neither, or names a layer twice.
    """
    if text is None or text == "auto":
        return None if text is None else "auto"
    if _NUMBER.fullmatch(text):
        return int(text)
    named = [_NAMED.fullmatch(part.strip()) for part in text.split(",")]
    units = {match[1]: int(match[2]) for match in named if match}
    if len(units) < len(named):
        raise UsageError(f"units: got `{text}`, allowed a number K, LAYER=K,LAYER=K with each layer once, or auto")
    return units
