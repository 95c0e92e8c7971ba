"""Modules of loops that Numba compiles when they are imported: get one, or learn why there is none.

Numba keeps the machine code in a cache on disk: the first import on a computer takes seconds, later ones a fraction of
one. What uses such loops does the same without them, several times as slowly.

In: the name of a module. Out: the module. Must not import torch.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from nctool.errors import first_line


@cache
def failure(name: str) -> str | None:
    """Return why a module of loops cannot be used in this process; None where it can."""
    try:
        _compile(name)
    except ImportError as error:
        return f"Numba is not there ({first_line(error)})"
    except Exception as error:  # noqa: BLE001 - of Numba: no folder for its cache, or a Python or CPU that it does not know
        return f"Numba cannot compile them ({first_line(error)})"
    return None


@cache
def loops(name: str) -> ModuleType | None:
    """Return a module of loops, or None where it cannot be used."""
    return None if failure(name) else import_module(name)


def _compile(name: str) -> None:
    import_module(name)
