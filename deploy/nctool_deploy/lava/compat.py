"""Check that Lava is there as it was verified, and make it importable on Python 3.11 to 3.13.

Lava was made for Python 3.10, where its files run as they are. On newer Pythons a few of them are changed while they
are imported (`nctool_deploy.lava.patches`): never on disk, and only if they are the files that were verified.

In: the installed packages. Out: nothing, or an EngineError. Must not import Lava.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import PackageNotFoundError, version
from types import CodeType, ModuleType

from nctool.errors import EngineError
from nctool_deploy.lava.patches import KNOWN_VERSIONS, LOOSE_INSTALL, PATCHES, WITHOUT_LAVA, Patch

PINNED_PYTHON = (3, 10)
"""The Python that Lava was made for: nothing is changed there."""

LAST_PYTHON = (3, 13)


def require_lava() -> None:
    """Check that Lava is there as it was verified: Python, versions and, where they are changed, its files.

    Raises:
        EngineError: Python is too new, a package is missing or has another version, or a file is another one.
    """
    running = sys.version_info[:2]
    if running > LAST_PYTHON:
        raise EngineError(
            f"engine `lava`: this is Python {_dotted(running)}, allowed {_dotted(PINNED_PYTHON)} to "
            f"{_dotted(LAST_PYTHON)}",
            hint=f"make an environment with one of those; {WITHOUT_LAVA}",
        )
    for package, known in KNOWN_VERSIONS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise EngineError(f"engine `lava`: {package} {known} is not installed", hint=_install_hint()) from None
        if found != known:
            raise EngineError(f"engine `lava`: {package} {found} is installed, allowed {known}", hint=_install_hint())
    if running != PINNED_PYTHON:
        for patch in PATCHES.values():
            patch.apply(patch.installed())


def make_importable() -> None:
    """Make Lava importable in this process and in those forked from it; on Python 3.10 do nothing.

    Raises:
        EngineError: as `require_lava`; and when Lava is imported, if Python finds other files than those checked.
    """
    if sys.version_info[:2] == PINNED_PYTHON:
        return
    require_lava()
    if not any(isinstance(finder, PatchFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PatchFinder())


class PatchFinder(MetaPathFinder):
    """Finds the modules of PATCHES where Python would, and has them changed while they load."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of PATCHES; None, which leaves it to Python, for every other."""
        patch = PATCHES.get(fullname)
        if patch is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = PatchLoader(fullname, spec.origin, patch)
        return spec


class PatchLoader(SourceFileLoader):
    """Loads the changed text of one file, without a cache of its bytecode."""

    def __init__(self, fullname: str, path: str, patch: Patch) -> None:
        super().__init__(fullname, path)
        self.patch = patch

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the changed text."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.patch.apply(self.get_data(path)), path)


def _install_hint() -> str:
    if sys.version_info[:2] == PINNED_PYTHON:
        return f"`pip install nctool[lava]`; {WITHOUT_LAVA}"
    return f"`pip install nctool[lava]`, then `{LOOSE_INSTALL}` (docs/LAVA.md); {WITHOUT_LAVA}"


def _dotted(python: tuple[int, int]) -> str:
    return f"{python[0]}.{python[1]}"
