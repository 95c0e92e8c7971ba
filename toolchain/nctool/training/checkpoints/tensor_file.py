"""Write safetensors files that are the same bytes for the same content, and read them.

In: named tensors and text metadata. Out: a file, or its content and hash. No pickle is read or written.
The library writes metadata in random order; here the header is written again with sorted keys.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from nctool.errors import FormatError
from nctool.files import cannot_read, plain_file, write_atomically

VERSION = 1
"""The version of both formats that nctool writes in safetensors."""
_LENGTH = struct.Struct("<Q")
"""The file starts with the byte length of its JSON header (safetensors format)."""
_ALIGNMENT = 8
"""The header is padded with spaces to a multiple of this many bytes."""
_METADATA = "__metadata__"


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        tensors: by name, on the CPU.
        metadata: the texts of the header, `format` and `version` included.
        sha256: hexadecimal digest of the whole file.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file atomically.

    Args:
        path: the file; its folder exists.
        kind: the format's name, kept as metadata `format` beside `version`.
        tensors: by name, on any device.
        metadata: further texts of the header.

    Raises:
        UsageError: the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = save(plain, {"format": kind, "version": str(VERSION), **metadata})
    write_atomically(path, _with_sorted_header(content))


def read_tensors(path: Path, kind: str) -> TensorFile:
    """Read a file written by `write_tensors` and check that it is of the kind asked for.

    Raises:
        UsageError: the file cannot be read.
        FormatError: it is no safetensors file, of another kind, or written by a newer version.
    """
    try:
        content = plain_file(path).read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise FormatError(f"`{path}` is truncated or no safetensors file") from error
    metadata = _header(content).get(_METADATA, {})
    if metadata.get("format") != kind:
        raise FormatError(f"`{path}` has format `{metadata.get('format', 'none')}`, allowed: {kind}")
    if metadata.get("version") != str(VERSION):
        raise FormatError(
            f"`{path}` has version `{metadata.get('version', 'none')}`, allowed: {VERSION}",
            hint="read it with the nctool that wrote it",
        )
    return TensorFile(tensors, metadata, hashlib.sha256(content).hexdigest())


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, by the rest of their names."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def first_mismatch(wanted: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> str | None:
    """Return the first difference in names or shapes as text, or None when all fits."""
    for name in sorted(wanted.keys() | actual.keys()):
        if name not in actual:
            return f"tensor `{name}` is missing"
        if name not in wanted:
            return f"tensor `{name}` is not wanted"
        if wanted[name].shape != actual[name].shape:
            return f"tensor `{name}` has shape {tuple(actual[name].shape)}, allowed: {tuple(wanted[name].shape)}"
    return None


def _header(content: bytes) -> dict[str, dict[str, str]]:
    (length,) = _LENGTH.unpack_from(content)
    header: dict[str, dict[str, str]] = json.loads(content[_LENGTH.size : _LENGTH.size + length])
    return header


def _with_sorted_header(content: bytes) -> bytes:
    (length,) = _LENGTH.unpack_from(content)
    text = json.dumps(_header(content), sort_keys=True, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _ALIGNMENT)
    return _LENGTH.pack(len(text)) + text + content[_LENGTH.size + length :]
