"""List every violation in one error, so that a user mends all of them before trying again.

In: errors. Out: one error. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Sequence

from nctool.errors import RangeError


def raise_all(errors: Sequence[RangeError]) -> None:
    """Raise one RangeError with the message of each of `errors` on a line of its own and each hint once, if any."""
    if errors:
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        raise RangeError("\n".join(error.message for error in errors), hint="; ".join(hints) or None)
