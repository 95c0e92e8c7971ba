"""Small images as PNG, and a text in a PNG. Source of the chunks: PNG specification (W3C, 2003), chapters 5 and 11.

In: pixels, or a PNG. Out: the bytes of a PNG. Imports nothing of nctool.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IHDR_END = len(_SIGNATURE) + 12 + 13
"""Where the first chunk ends: its length, kind and check sum take 12 bytes, its content 13."""
_GREY, _RGB = 0, 2


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels, uint8 (height, width) or (height, width, 3), as a PNG."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY if pixels.ndim == 2 else _RGB, 0, 0, 0)
    lines = pixels.reshape(height, -1)
    unfiltered = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(unfiltered, 9)), _chunk(b"IEND", b""))
    return _SIGNATURE + b"".join(chunks)


def address_of(png: bytes) -> str:
    """Return a PNG as an address that a page can show: nothing is fetched."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def with_text(png: bytes, text: str) -> bytes:
    """Return a PNG that also holds a text, in Latin-1, as its `Software`."""
    return png[:_IHDR_END] + _chunk(b"tEXt", b"Software\0" + text.encode("latin-1")) + png[_IHDR_END:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
