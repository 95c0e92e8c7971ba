"""Whether a module of compiled loops works here: Numba compiles it when it is imported.

In: the name of a module. Out: why it cannot be used, if so. Must not import torch.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from nctool.errors import first_line


@cache
def failure_to_compile(module: str) -> str | None:
    """Return why a module of compiled loops is not used, None where it is; it is imported, and compiled once."""
    try:
        import_module(module)
    except ImportError as error:
        return f"Numba is not there ({first_line(error)})"
    except Exception as error:  # noqa: BLE001 - of Numba: no folder for its cache, or a Python or CPU that it does not know
        return f"Numba cannot compile them ({first_line(error)})"
    return None
