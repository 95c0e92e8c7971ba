"""Nodes of files that other tools wrote: any number type and storage, but still integers, bounded and plain.

In: an open HDF5 group. Out: int32 arrays and words. Must not import torch or Lava.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError
from nctool.ir.network import Shape
from nctool_deploy.hdf5 import MAX_BYTES, MAX_SIZE, Node

MAX_WORD_LENGTH = 256
LARGEST = 2**31 - 1
NUMBER_BYTES = 4
"""Bytes of an integer that is read."""


class ForeignNode(Node):
    """A group of a netx file as slayer and others write it."""

    def child(self, key: str) -> ForeignNode:
        """Return the group `key`; a soft or external link, or a dataset, is refused."""
        return ForeignNode(super().child(key).group, f"{self.name}/{key}", self.budget, self.taken)

    def is_dataset(self, key: str) -> bool:
        """Return True when `key` is data and no group."""
        return isinstance(self._member(key), h5py.Dataset)

    def word(self, key: str) -> str:
        """Return a string dataset of any kind, or the first of several strings.

        Raises:
            FormatError: it is missing, no text, too long, or holds what cannot be printed on one line.
        """
        data, where = self._plain(key), f"`{self.name}/{key}`"
        is_text = data.dtype.kind == "S" or h5py.check_string_dtype(data.dtype) is not None
        if not is_text or max(data.size, data.dtype.itemsize) > MAX_WORD_LENGTH or data.size == 0:
            raise FormatError(f"{where} is {data.dtype} {data.shape}, allowed a short text")
        value = np.ravel(data[()])[0]
        text = value.decode("ascii", errors="replace") if isinstance(value, bytes) else str(value)
        if len(text) > MAX_WORD_LENGTH or not text.isprintable():
            raise FormatError(f"{where} is a text of {len(text)} characters, allowed {MAX_WORD_LENGTH} printable ones")
        return text

    def numbers(self, key: str) -> NDArray[np.int32]:
        """Return a dataset of whole numbers, stored as any number type, as int32.

        Raises:
            FormatError: it is missing, no plain numbers, too large, or holds a fraction, a NaN or 2**31 and more.
        """
        data, where = self._plain(key), f"`{self.name}/{key}`"
        if data.dtype.kind not in "biuf":
            raise FormatError(f"{where} is {data.dtype}, allowed numbers")
        if data.size == 0:
            raise FormatError(f"{where} is empty")
        values = np.asarray(data[()])
        low, high = values.min(), values.max()
        if not (float(low) >= -LARGEST and float(high) <= LARGEST):
            raise FormatError(f"{where} reaches from {low} to {high}, allowed -{LARGEST}..{LARGEST}")
        whole = values.astype(np.int32)
        fractions = whole != values
        if fractions.any():
            raise FormatError(
                f"{where} holds {values[fractions].flat[0]}, allowed whole numbers",
                hint="Lava would cut it off without a word; quantise the network before the export",
            )
        return whole

    def few(self, key: str, counts: tuple[int, ...]) -> tuple[int, ...]:
        """Return a dataset of some whole numbers.

        Args:
            counts: how many there may be.
        """
        values = self.numbers(key)
        if values.size not in counts:
            allowed = " or ".join(map(str, counts))
            raise FormatError(f"`{self.name}/{key}` holds {values.size} numbers, allowed {allowed}")
        return tuple(values.reshape(-1).tolist())

    def number(self, key: str, default: int | None = None) -> int:
        """Return a dataset of one whole number, or `default` where there is none."""
        return default if default is not None and key not in self else self.few(key, (1,))[0]

    def shape(self, n_axes: tuple[int, ...]) -> Shape:
        """Return the sizes of a population, as the dataset `shape` says them.

        Args:
            n_axes: how many axes there may be.
        """
        sizes = self.few("shape", n_axes)
        if min(sizes) < 1 or math.prod(sizes) > MAX_SIZE:
            raise FormatError(f"`{self.name}/shape` is {listed(sizes)}, allowed sizes >= 1, up to {MAX_SIZE} neurons")
        return sizes

    def _plain(self, key: str) -> h5py.Dataset:
        """Return the dataset `key` if its bytes lie in this file; count what they unpack to, in whole chunks."""
        data, where = self._member(key), f"`{self.name}/{key}`"
        if not isinstance(data, h5py.Dataset) or data.shape is None:
            raise FormatError(f"{where} holds no data")
        if data.external or data.is_virtual:
            raise FormatError(f"{where} is external or virtual, allowed data in this file")
        chunk = data.chunks or (1,) * data.ndim
        n_items = math.prod(-(-size // step) * step for size, step in zip(data.shape, chunk, strict=True))
        hint = f"up to {MAX_BYTES} bytes are read where the data is stored without compression"
        self.budget.take(n_items * max(data.dtype.itemsize, NUMBER_BYTES), where, hint)
        return data


def listed(values: Any) -> str:
    """Return some numbers of an array as text, for messages."""
    return "x".join(str(int(value)) for value in values)
