"""The text of `--units`.

In: text. Out: units as `nctool.export` takes them, or a UsageError.
"""

from __future__ import annotations

import re
from typing import Literal

from nctool.errors import UsageError

_ONE = re.compile(r"\d{1,9}")
_NAMED = re.compile(r"([^=,]+)=(\d{1,9})")


def parse_units(text: str | None) -> int | dict[str, int] | Literal["auto"] | None:
    """Turn `4` or `conv1=4,conv2=2` into units; `auto` and nothing stay what they are.

    Raises:
        UsageError: the text is neither, or names a layer twice.
    """
    if text is None or text == "auto":
        return None if text is None else "auto"
    if _ONE.fullmatch(text):
        return int(text)
    named = [_NAMED.fullmatch(part.strip()) for part in text.split(",")]
    units = {match[1]: int(match[2]) for match in named if match}
    if len(units) < len(named):
        raise UsageError(f"units: got `{text}`, allowed a number K, LAYER=K,LAYER=K with each layer once, or auto")
    return units
