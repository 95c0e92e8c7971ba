"""The error by which a call is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from nctool.errors import NctoolError

Kind = TypeVar("Kind", bound=NctoolError)


def refused(kind: type[Kind], function: Callable[..., Any], *arguments: Any, **options: Any) -> Kind:
    """Return the error of exactly this kind that a call ends in."""
    with pytest.raises(NctoolError) as caught:
        function(*arguments, **options)
    assert type(caught.value) is kind
    return caught.value


def refusal(kind: type[NctoolError], function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """Return what the error of such a call says, its hint included."""
    return str(refused(kind, function, *arguments, **options))
