"""The verified Lava: its versions, and the files of it that newer Pythons and numpy 2 cannot run as they are.

docs/LAVA.md has the reason of each change. None changes what Lava computes.

In: nothing. Out: constants. Must not import Lava.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path

from nctool.errors import EngineError

KNOWN_VERSIONS = {"lava-nc": "0.10.0", "lava-dl": "0.6.0"}
LOOSE_INSTALL = "pip install --no-deps --ignore-requires-python " + " ".join(
    f"{package}=={known}" for package, known in KNOWN_VERSIONS.items()
)
"""What installs Lava on a newer Python than its own; the extra `lava` has the libraries that it imports."""

WITHOUT_LAVA = (
    "without Lava: `nctool run-sim MODEL.net --engine fast`, `nctool verify MODEL.net --engines reference,fast`"
)
"""The way out that is always there."""


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
        found = sha256(source).hexdigest()
        if found != self.sha256:
            raise self._refusal(f"has SHA-256 {found[:12]}, allowed {self.sha256[:12]}")
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
