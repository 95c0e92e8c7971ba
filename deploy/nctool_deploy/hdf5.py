"""Open HDF5 files and take their members with care: types, sizes and links are checked before anything is read.

In: a path. Out: nodes, or errors that name the file, the key and the reason. Must not import torch or Lava.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EACCES, EAGAIN, ENOENT, ENOLCK, ENOSYS, ENOTDIR
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError, NctoolError, UnsupportedError, UsageError, first_line
from nctool.files import cannot_read, plain_file

DTypes = tuple[type[np.generic], ...]

MAX_TEXT_BYTES = 2**20
MAX_SIZE = 2**24 - 1
"""Longest axis of a population."""

FREE_BYTES = 2**27
"""Bytes that any file may unpack to, 32 million float32 weights; data that several links share counts for each link."""

GROWTH = 4
"""How many times its own size a larger file may unpack to: bytes become 32-bit integers."""

MAX_BYTES = 2**29
"""Bytes that no file may exceed, 128 million float32 weights: about as many synapses as a Loihi chip has."""


@contextmanager
def opened(path: Path, hint: str) -> Iterator[Node]:
    """Open an HDF5 file for reading; an error inside the `with` names the file.

    Args:
        hint: the way out of a bad file.

    Raises:
        UsageError: there is no file at `path`, or it may not be read.
        FormatError: the file is not sound.
    """
    if path.is_dir():
        raise UsageError(
            f"`{path}` is a folder, allowed: a netx file", hint=f"name a file in it, `{path}/model.net` perhaps"
        )
    try:
        with h5py.File(plain_file(path), "r") as file:
            yield Node(file, "", Budget(file.id.get_filesize()))
    except NctoolError as error:
        kind = type(error) if isinstance(error, (UnsupportedError, UsageError)) else FormatError
        way_out = None if kind is UsageError else hint
        raise kind(f"`{path}`: {error.message}", hint=error.hint or way_out) from error
    except OSError as error:
        raise _unreadable(path, error, hint) from error
    except (RuntimeError, ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise FormatError(f"`{path}`: not a sound HDF5 file ({first_line(error)})", hint=hint) from error


def _unreadable(path: Path, error: OSError, hint: str) -> UsageError | FormatError:
    """Describe a file that the system does not give, or that HDF5 does not understand: it then gives no number.

    Before HDF5 reads, it asks the system for a lock, which a writer does not share.
    """
    if error.errno is None:
        return FormatError(f"`{path}`: not a sound HDF5 file ({first_line(error)})", hint=hint)
    if error.errno in (ENOENT, ENOTDIR):
        return UsageError(f"no such file: `{path}`", hint="export one with `nctool export CHECKPOINT --target loihi`")
    if error.errno == EAGAIN:
        message = f"cannot read `{path}`: another program holds it open for writing"
        return UsageError(message, hint="close it there, or wait until it is written")
    if error.errno in (ENOLCK, ENOSYS):
        message = f"cannot read `{path}`: its file system has no locks"
        return UsageError(message, hint="set the environment variable HDF5_USE_FILE_LOCKING=FALSE, or copy the file")
    way_out = "give yourself the right to read it" if error.errno == EACCES else None
    return UsageError(cannot_read(path, error).message, way_out)


class Budget:
    """How many bytes may still be unpacked from a file, whatever its compression, shapes and links say.

    Args:
        file_size: in bytes.
    """

    def __init__(self, file_size: int) -> None:
        self.allowed = self.left = min(max(FREE_BYTES, GROWTH * file_size), MAX_BYTES)

    def take(self, n_bytes: int, where: str, hint: str | None = None) -> None:
        """Count what is about to be unpacked.

        Args:
            where: names the dataset.
            hint: the way out, in place of that of any bad file.

        Raises:
            FormatError: it is more than what is left.
        """
        if n_bytes > self.left:
            raise FormatError(f"{where} of {n_bytes} bytes: the file unpacks to more than {self.allowed}", hint=hint)
        self.left -= n_bytes


class Node:
    """A group of an HDF5 file whose members are checked when they are taken.

    Args:
        group: the open group.
        name: its path in the file, for messages.
        budget: of the file.
        taken: paths of the members that were taken anywhere in the file.
    """

    def __init__(self, group: h5py.Group, name: str, budget: Budget, taken: set[str] | None = None) -> None:
        self.group, self.name, self.budget = group, name, budget
        self.taken = set() if taken is None else taken

    def __contains__(self, key: str) -> bool:
        return key in self.group

    def __len__(self) -> int:
        return len(self.group)

    def child(self, key: str) -> Node:
        """Return the group `key`; a soft or external link, or a dataset, is refused."""
        member = self._member(key)
        if not isinstance(member, h5py.Group):
            raise FormatError(f"`{self.name}/{key}` is no group")
        return Node(member, f"{self.name}/{key}", self.budget, self.taken)

    def require_integers(self, values: Mapping[str, int]) -> None:
        """Refuse with a FormatError a member that is missing, no integer, or another than `values` says."""
        for key, expected in values.items():
            if self.integer(key) != expected:
                raise FormatError(f"`{self.name}/{key}` is {self.integer(key)}, allowed {expected}")

    def require_all_taken(self) -> None:
        """Refuse members that nobody took, and attributes: nothing checks what is not read.

        Raises:
            FormatError: there is one, in this group or in one below it.
        """
        _refuse_attributes(self.group, self.name or "/")
        for key in self.group:
            where = f"{self.name}/{key}"
            if where not in self.taken:
                raise FormatError(f"`{where}` is not written by `nctool export`")
            if isinstance(self.group[key], h5py.Group):
                self.child(key).require_all_taken()
            else:
                _refuse_attributes(self.group[key], where)

    def array(self, key: str, dtype: type[np.generic] | DTypes, n_axes: int | None = None) -> NDArray[Any]:
        """Return the dataset `key` if it has this type, or one of these, and number of axes and fits the file."""
        data, where = self._dataset(key), f"`{self.name}/{key}`"
        allowed = [np.dtype(kind) for kind in (dtype if isinstance(dtype, tuple) else (dtype,))]
        if data.dtype not in allowed:
            raise FormatError(f"{where} is {data.dtype}, allowed {', '.join(map(str, allowed))}")
        if n_axes is not None and data.ndim != n_axes:
            raise FormatError(f"{where} has {data.ndim} axes, allowed {n_axes}")
        return np.asarray(data[()])

    def integer(self, key: str) -> int:
        """Return the scalar int64 dataset `key`."""
        return int(self.array(key, np.int64, 0))

    def text(self, key: str) -> str:
        """Return the scalar fixed-length string dataset `key`, at most 1 MiB long."""
        data, where = self._dataset(key), f"`{self.name}/{key}`"
        if data.shape != () or data.dtype.kind != "S" or data.dtype.itemsize > MAX_TEXT_BYTES:
            raise FormatError(f"{where} is no text of at most {MAX_TEXT_BYTES} bytes")
        try:
            return bytes(data[()]).decode()
        except UnicodeDecodeError:
            raise FormatError(f"{where} is no UTF-8 text") from None

    def _dataset(self, key: str) -> h5py.Dataset:
        """Return the dataset `key` if its bytes lie plainly in this file: its size is what reading it allocates."""
        data, where = self._member(key), f"`{self.name}/{key}`"
        if not isinstance(data, h5py.Dataset) or data.shape is None:
            raise FormatError(f"{where} holds no data")
        if data.chunks is not None or data.external or data.is_virtual:
            raise FormatError(f"{where} is chunked, external or virtual, allowed contiguous")
        held = min(data.id.get_storage_size(), data.file.id.get_filesize())
        if data.nbytes > held:
            raise FormatError(f"{where} says {data.nbytes} bytes, the file holds {held}")
        self.budget.take(data.nbytes, where)
        return data

    def _member(self, key: str) -> Any:
        link = self.group.get(key, getlink=True)
        if link is None:
            raise FormatError(f"`{self.name}/{key}` is missing")
        if not isinstance(link, h5py.HardLink):
            raise FormatError(f"`{self.name}/{key}` is a soft or external link, allowed plain data")
        self.taken.add(f"{self.name}/{key}")
        return self.group[key]


def _refuse_attributes(member: h5py.Group | h5py.Dataset, where: str) -> None:
    if len(member.attrs):
        raise FormatError(f"`{where}` has {len(member.attrs)} attributes, allowed none")
