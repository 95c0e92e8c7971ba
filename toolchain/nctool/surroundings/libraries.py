"""The libraries that nctool needs or can use: those that its own distribution names, and what is installed of them.

In: the metadata of installed distributions. Out: versions. None of the libraries is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

PURPOSES = {
    "lava": "the engine `lava`",
    "onnx": "networks from ONNX files",
    "plot": "figures",
    "tensorboard": "`nctool train --tensorboard`",
    "vision": "image files and published data sets",
}
"""What the extras are for that a user may want; the others are for developers."""

LAVA = ("lava-nc", "lava-dl")
"""On a newer Python than its own, Lava is in no extra (docs/LAVA.md)."""

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<range>[^;]*)(?:;(?P<marker>.*))?")
_EXTRA = re.compile(r"extra == ['\"](?P<extra>[\w-]+)['\"]")


@dataclass(frozen=True)
class Library:
    """A distribution that nctool uses.

    Args:
        name: of the distribution.
        version: the one that is installed; None where none is.
        allowed: versions, as the metadata of nctool have them; empty where every one is.
        extra: of nctool, that installs it; None for what nctool always needs.
    """

    name: str
    version: str | None
    allowed: str = ""
    extra: str | None = None


def installed(name: str) -> str | None:
    """Return the version of a distribution that is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def libraries() -> tuple[Library, ...]:
    """Return what nctool needs, then what its extras add, by name; nothing where nctool itself is not installed."""
    found = {library.name: library for library in _named()}
    for name in LAVA if found else ():
        found.setdefault(name, Library(name, installed(name), extra="lava"))
    return tuple(sorted(found.values(), key=lambda library: (library.extra or "", library.name)))


def _named() -> Iterator[Library]:
    """Yield what the metadata of nctool name, without what is for another Python or for developers."""
    try:
        requirements = requires("nctool") or []
    except PackageNotFoundError:
        return
    for text in requirements:
        parts = _REQUIREMENT.match(text)
        if parts is None or not _is_for_this_python(parts["marker"] or ""):
            continue
        extra = _EXTRA.search(parts["marker"] or "")
        if extra is None or extra["extra"] in PURPOSES:
            name = parts["name"]
            yield Library(name, installed(name), parts["range"].strip(), extra and extra["extra"])


def _is_for_this_python(marker: str) -> bool:
    """Return whether a requirement holds for this Python: nctool's markers compare with one version of it."""
    import sys

    compared = re.search(r"python_version (<|>=) ['\"](\d+)\.(\d+)['\"]", marker)
    if compared is None:
        return True
    bound = (int(compared[2]), int(compared[3]))
    return sys.version_info[:2] < bound if compared[1] == "<" else sys.version_info[:2] >= bound
