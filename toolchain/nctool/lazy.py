"""Names of a package that are loaded when they are first used: torch takes seconds, and what needs none loads none.

In: the modules of a package and their names. Out: its `__getattr__` (PEP 562). Imports nothing of nctool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return what finds the public names of a package.

    Args:
        package: its `__name__`.
        modules: names with a space between them, by the module of the package that holds them.
    """
    places = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module `{package}` has no attribute `{name}`")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find
