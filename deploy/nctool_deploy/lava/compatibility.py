"""The verified Lava: its versions, and what makes it importable on Python 3.11 to 3.13.

Lava was made for Python 3.10, where its files run as they are. On newer Pythons and numpy 2 a few of them are changed
while they are imported: never on disk, and only if they are the files that were verified. docs/LAVA.md has the reason
of each change; none changes what Lava computes.

In: the installed packages. Out: nothing, or an EngineError. Must not import Lava.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from types import CodeType, ModuleType

from nctool.errors import EngineError

PINNED_PYTHON = (3, 10)
"""The Python that Lava was made for; on it, nothing is changed."""

LAST_PYTHON = (3, 13)

KNOWN_VERSIONS = {"lava-nc": "0.10.0", "lava-dl": "0.6.0"}
LOOSE_INSTALL = "pip install --no-deps --ignore-requires-python " + " ".join(
    f"{package}=={known}" for package, known in KNOWN_VERSIONS.items()
)
"""What installs Lava on a newer Python than its own; the extra `lava` has the libraries that it imports."""

WITHOUT_LAVA = (
    "without Lava: `nctool run-sim MODEL.net --engine fast`, `nctool verify MODEL.net --engines reference,fast`"
)
"""What a user can always do instead."""


@dataclass(frozen=True)
class Patch:
    """A source file of Lava, and how its text changes.

    Args:
        package: the distribution that holds the file.
        path: the file in it.
        sha256: digest of the verified file, hexadecimal.
        replacements: texts and what stands in their place, in as many lines, so that tracebacks stay right.
    """

    package: str
    path: str
    sha256: str
    replacements: Mapping[str, str]

    def installed(self) -> bytes:
        """Return the installed file.

        Raises:
            EngineError: it is not there.
        """
        path = Path(str(distribution(self.package).locate_file(self.path)))
        if not path.is_file():
            raise self._refusal("is missing")
        return path.read_bytes()

    def apply(self, source: bytes) -> bytes:
        """Return the changed text of the file.

        Raises:
            EngineError: `source` is not the verified file.
        """
        digest = sha256(source).hexdigest()
        if digest != self.sha256:
            raise self._refusal(f"has SHA-256 {digest[:12]}, allowed {self.sha256[:12]}")
        text = source.decode()
        for old, new in self.replacements.items():
            text = text.replace(old, new)
        return text.encode()

    def _refusal(self, what: str) -> EngineError:
        return EngineError(
            f"engine `lava`: `{self.path}` of {self.package} {what}",
            hint=f"`{LOOSE_INSTALL} --force-reinstall`; {WITHOUT_LAVA}",
        )


_ENCODERS = ("ByteEncoder", "CoreEncoder", "ChipEncoder", "AxonEncoder")
_SLAYER_IMPORT = "from lava.lib.dl.slayer.neuron.rf import neuron_params as get_rf_params"
_SLAYER_CALL = "neuron_params = get_rf_params(neuron_config)"

PATCHES: Mapping[str, Patch] = {
    # Since Python 3.11 the default of a dataclass's field must be hashable, and these are such defaults.
    "lava.magma.compiler.var_model": Patch(
        "lava-nc",
        "lava/magma/compiler/var_model.py",
        "3b8acb73dc3ff38d159065aa0339b90f371f99f162e68d10a3117afbd916afa8",
        {f"@dataclass\nclass {name}:\n": f"@dataclass(unsafe_hash=True)\nclass {name}:\n" for name in _ENCODERS},
    ),
    # numpy 2.4 has no `newshape`, and numpy before 2.1 no `shape` in its place.
    "lava.magma.core.process.ports.ports": Patch(
        "lava-nc",
        "lava/magma/core/process/ports/ports.py",
        "176f546874deb3d105cee79099d8926847f9d79da01039adf5ec385c27eec282",
        {
            f"ft.partial(np.reshape, newshape={shape})": f"lambda data: np.reshape(data, {shape})"
            for shape in ("self.shape", "self.old_shape")
        },
    ),
    # The geometry is int8, and numpy 2 computes in int8 with it: sizes from 128 on do not fit.
    "lava.proc.conv.models": Patch(
        "lava-nc",
        "lava/proc/conv/models.py",
        "d5672836b15765424d9b61b0830edf33ecd0c787e30ab4bbde77ee486f3fdd4f",
        {
            "self.kernel_size, self.stride, self.padding, self.dilation,\n": (
                "self.kernel_size.tolist(), self.stride.tolist(), self.padding.tolist(), self.dilation.tolist(),\n"
            ),
            "self.groups[0]\n": "self.groups.item()\n",
        },
    ),
    # netx loads all of slayer, with torch, torchvision and OpenCV, for a function that only resonators call;
    # numpy 2.4 converts no array of one element to an int.
    "lava.lib.dl.netx.hdf5": Patch(
        "lava-dl",
        "lava/lib/dl/netx/hdf5.py",
        "c7d2805d9e70b2b1144853c6ab2024544c954b8a282b9341453ea28fdfadc00e",
        {
            f"\n{_SLAYER_IMPORT}\n": "\n\n",
            _SLAYER_CALL: f"{_SLAYER_IMPORT}; {_SLAYER_CALL}",
            "int(layer_config['weight'])": "layer_config['weight'].item()",
            "int(layer_config['bias'])": "layer_config['bias'].item()",
        },
    ),
    # These modules load torch, and nothing here uses them.
    "lava.lib.dl.netx": Patch(
        "lava-dl",
        "lava/lib/dl/netx/__init__.py",
        "bb8d4cc3ce9a0f23f6cd2b39e88db92d1a3e2c51ad76b1a310700eaf61204ad8",
        {"from . import sequential_modules as modules\n": "\n", ", 'modules']": "]"},
    ),
    # Lava executes every neighbour of hdf5.py to look for models of the stock Network: the modules above and slayer.
    "lava.magma.compiler.compiler_graphs": Patch(
        "lava-nc",
        "lava/magma/compiler/compiler_graphs.py",
        "f920a11542ad5471d04dec4495eacb07879aae1074668d3df7aec697f7093aab",
        {
            "        # Search for the file of the module.\n": (
                "        if proc.__module__ == 'lava.lib.dl.netx.hdf5': return proc_models\n"
            )
        },
    ),
}
"""The changed files by the name of their module."""


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
            installed = version(package)
        except PackageNotFoundError:
            raise EngineError(f"engine `lava`: {package} {known} is not installed", hint=_install_hint()) from None
        if installed != known:
            raise EngineError(
                f"engine `lava`: {package} {installed} is installed, allowed {known}", hint=_install_hint()
            )
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
        """Return the spec of a module of PATCHES; None for every other, which Python then finds itself."""
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
