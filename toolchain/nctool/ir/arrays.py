"""Dataclasses that hold arrays: equal means same type, same fields, same array bytes.

Imports only NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np


class StructuralEquality:
    """Base of `@dataclass(frozen=True, eq=False)` types whose fields may be NumPy arrays."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        names = (field.name for field in fields(self) if field.compare)
        return all(_are_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]  # arrays are mutable: these objects are no dictionary keys


def _are_equal(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_are_equal(left[key], right[key]) for key in left)
    return bool(left == right)
