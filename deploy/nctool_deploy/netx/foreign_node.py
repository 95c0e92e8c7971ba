"""Nodes of files that other tools wrote: any number type and storage, but still integers, bounded and plain.

In: an open HDF5 group. Out: int64 arrays and words. Must not import torch or Lava.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from nctool.errors import FormatError
from nctool.network import IntArray
from nctool_deploy.netx.node import Node

MAX_BYTES = 2**29
"""Largest dataset that is unpacked: 128 million float32 weights."""

MAX_RATIO = 1040
"""Largest growth on unpacking. Source: deflate reaches 1032 to 1."""

MAX_WORD_BYTES = 256
LARGEST = 2**31 - 1


class ForeignNode(Node):
    """A group of a netx file as slayer and others write it."""

    def child(self, key: str) -> ForeignNode:
        """Return the group `key`; a soft or external link, or a dataset, is refused."""
        return ForeignNode(super().child(key).group, f"{self.name}/{key}")

    def is_dataset(self, key: str) -> bool:
        """Return True when `key` is data and no group."""
        return isinstance(self._member(key), h5py.Dataset)

    def word(self, key: str) -> str:
        """Return a string dataset of any kind, or the first of several strings."""
        data, where = self._plain(key), f"`{self.name}/{key}`"
        is_text = data.dtype.kind == "S" or h5py.check_string_dtype(data.dtype) is not None
        if not is_text or data.size < 1 or data.size > MAX_WORD_BYTES or data.dtype.itemsize > MAX_WORD_BYTES:
            raise FormatError(f"{where} is {data.dtype} {data.shape}, allowed a short text")
        value = np.ravel(data[()])[0]
        text = value.decode("ascii", errors="replace") if isinstance(value, bytes) else str(value)
        if len(text) > MAX_WORD_BYTES:
            raise FormatError(f"{where} is a text of {len(text)} characters, allowed {MAX_WORD_BYTES}")
        return text

    def numbers(self, key: str) -> IntArray:
        """Return a dataset of whole numbers, stored as any number type, as int64.

        Raises:
            FormatError: it is missing, no plain numbers, too large, or holds a fraction, a NaN or more than 2**31.
        """
        data, where = self._plain(key), f"`{self.name}/{key}`"
        if data.dtype.kind not in "biuf":
            raise FormatError(f"{where} is {data.dtype}, allowed numbers")
        values = np.asarray(data[()])
        if values.size == 0:
            raise FormatError(f"{where} is empty")
        outside = ~(np.abs(values) <= LARGEST) if values.dtype.kind in "iuf" else np.zeros(values.shape, bool)
        if outside.any():
            raise FormatError(f"{where} holds {values[outside].flat[0]}, allowed -{LARGEST}..{LARGEST}")
        whole = values.astype(np.int64)
        fractions = whole != values
        if fractions.any():
            raise FormatError(
                f"{where} holds {values[fractions].flat[0]}, allowed whole numbers",
                hint="Lava would cut it off without a word; quantise the network before the export",
            )
        return whole

    def number(self, key: str, default: int | None = None) -> int:
        """Return a dataset of one whole number, or `default` where there is none."""
        if default is not None and key not in self:
            return default
        values = self.numbers(key)
        if values.size != 1:
            raise FormatError(f"`{self.name}/{key}` holds {values.size} numbers, allowed 1")
        return int(values.reshape(-1)[0])

    def _plain(self, key: str) -> h5py.Dataset:
        """Return the dataset `key` if its bytes lie in this file and unpack to a bounded size."""
        data, where = self._member(key), f"`{self.name}/{key}`"
        if not isinstance(data, h5py.Dataset) or data.shape is None:
            raise FormatError(f"{where} holds no data")
        if data.external or data.is_virtual:
            raise FormatError(f"{where} is external or virtual, allowed data in this file")
        stored = min(data.id.get_storage_size(), data.file.id.get_filesize())
        allowed = min(MAX_BYTES, stored if data.chunks is None else MAX_RATIO * stored)
        if data.nbytes > allowed:
            raise FormatError(f"{where} says {data.nbytes} bytes, allowed {allowed} for the {stored} that are stored")
        return data


def listed(values: Any) -> str:
    """Return some numbers of an array as text, for messages."""
    return "x".join(str(int(value)) for value in values)
