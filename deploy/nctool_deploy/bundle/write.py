"""Write the bundle of an exported file: the file, a runner without nctool, the encoding of its input, known answers.

In: the path and the content of an exported file, and a folder. Out: files. Must not import torch or Lava.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import UnsupportedError, UsageError
from nctool.files import make_directory, write_atomically
from nctool.ir.network import RateEncoding, Readout
from nctool_deploy.backends.stock import StockPopulation, StockZeroReset
from nctool_deploy.bundle.registers import registers
from nctool_deploy.lava.compatibility import KNOWN_VERSIONS
from nctool_deploy.lowering import lower
from nctool_deploy.netx import NetxFile

MODEL, FACTS, README, NETWORK, REGISTERS = "model.net", "network.json", "README.md", "network.py", "registers.npz"
COPIED = ("run.py", "encoding.py")
"""Programs of the bundle that are the same in each."""

NAMES = frozenset((MODEL, FACTS, README, NETWORK, REGISTERS, *COPIED, "encoding.npz", "known_answers.npz"))
NETX = (StockPopulation.name, StockZeroReset.name)
"""Backends whose files the netx loader of an unmodified Lava runs; others are built of its processes."""

_FILES = Path(__file__).parent / "files"
_GRADED_BITS = 8


def require_pixels(content: NetxFile, name: str) -> None:
    """Refuse with an UnsupportedError a network that takes no pixels."""
    if content.provenance is not None and content.provenance.samples == "numbers":
        raise UnsupportedError(
            f"`{name}`: takes real numbers, a bundle encodes pixels",
            hint="convert it on uint8 pixels, with --mean and --std",
        )


def require_folder(folder: Path) -> None:
    """Refuse with a UsageError a folder that holds anything but an older bundle."""
    if folder.is_dir():
        others = sorted(each.name for each in folder.iterdir() if each.name not in NAMES)
        if others:
            raise UsageError(f"-o: `{folder}` holds `{others[0]}`, which is of no bundle", hint="give a new folder")


def write_bundle(model: Path, content: NetxFile, folder: Path, name: str) -> dict[str, str]:
    """Write the files, and return the SHA-256 of each by its name.

    The same file gives the same bytes.

    Args:
        model: the exported file.
        content: what it holds.
        folder: made where it is not there.
        name: of the network, for the README.

    Raises:
        UnsupportedError: as `require_pixels` and `registers`.
        UsageError: as `require_folder`, or the folder cannot be written.
    """
    require_pixels(content, name)
    require_folder(folder)
    image, facts = model.read_bytes(), _facts(content)
    files = {MODEL: image}
    if content.metadata.backend in NETX:
        files[NETWORK] = (_FILES / "netx_network.py").read_bytes()
    else:
        more, arrays = registers(lower(content.network, content.metadata.chip, content.metadata.backend, chips=None))
        facts |= more
        files |= {NETWORK: (_FILES / "process_network.py").read_bytes(), REGISTERS: _arrays(arrays)}
    files |= {
        FACTS: (json.dumps(facts, indent=1) + "\n").encode(),
        README: _readme(content, name, sha256(image).hexdigest()).encode(errors="backslashreplace"),
        "encoding.npz": _arrays(_encoding(content)),
        "known_answers.npz": _arrays(_answers(content)),
        **{each: (_FILES / each).read_bytes() for each in COPIED},
    }
    make_directory(folder)
    for each, data in files.items():
        write_atomically(folder / each, data)
    for left in NAMES - files.keys():  # of an older bundle of another backend
        (folder / left).unlink(missing_ok=True)
    return {each: sha256(data).hexdigest() for each, data in sorted(files.items())}


def _facts(content: NetxFile) -> dict[str, Any]:
    network, metadata = content.network, content.metadata
    return {
        "backend": metadata.backend,
        "keeps_potential": metadata.backend == StockZeroReset.name,
        "steps": network.n_steps,
        "target": metadata.target,
        "labels": list(labels(content)),
        "input_bits": 0 if network.has_binary_input else _GRADED_BITS,
    }


def labels(content: NetxFile) -> tuple[str, ...]:
    """Return the name of each class: its number where the file has no names."""
    n_classes = content.network.readout.n_neurons
    known = () if content.provenance is None else content.provenance.classes
    return known if len(known) == n_classes else tuple(map(str, range(n_classes)))


def _encoding(content: NetxFile) -> dict[str, NDArray[Any]]:
    encoding = content.network.pixel_input
    threshold = encoding.threshold if isinstance(encoding, RateEncoding) else 0
    return {
        "table": encoding.table.astype(np.int32),
        "threshold": np.array(threshold),
        "steps": np.array(content.network.n_steps),
        "shape": np.array(encoding.sample_shape),
    }


def _answers(content: NetxFile) -> dict[str, NDArray[Any]]:
    known = content.known_answers
    return {"pixels": known.pixels, "logits": known.trace.logits[:, -1]}


def _arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _readme(content: NetxFile, name: str, digest: str) -> str:
    network, metadata, neuron = content.network, content.metadata, content.network.readout.neuron
    is_netx = metadata.backend in NETX
    packages = ("lava-nc", "lava-dl") if is_netx else ("lava-nc",)
    facts = {
        "name": name,
        "version": metadata.tool_version,
        "known_answers": len(content.known_answers.pixels),
        "shape": ", ".join(map(str, network.pixel_input.sample_shape)),
        "sha256": digest,
        "backend": metadata.backend,
        "steps": network.n_steps,
        "neurons": sum(each.n_neurons for each in network.populations),
        "layers": len(network.populations),
        "target": metadata.target,
        "origin": _origin(content),
        "packages": " ".join(f"{each}=={KNOWN_VERSIONS[each]}" for each in packages),
        "network": _NETWORKS[is_netx],
        "scale": neuron.scale if isinstance(neuron, Readout) else 1.0,
    }
    return (_FILES / README).read_text(encoding="utf-8").format(**facts)


_NETWORKS = {
    True: "`network.py` | streams samples through `lava.lib.dl.netx.hdf5.Network`, which reads `model.net`",
    False: "`network.py`, `registers.npz` | the same of stock Lava processes, for no netx loader knows its neurons",
}
"""The row of the README that says what runs, by whether the netx loader does."""


def _origin(content: NetxFile) -> str:
    known = content.provenance
    if known is None:
        return ""
    parts = {"recipe": known.recipe, "seed": known.seed, "data set": known.dataset, "converted from": known.model}
    return " " + ", ".join(f"{what} `{value}`" for what, value in parts.items() if value is not None) + "."
