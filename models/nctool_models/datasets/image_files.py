"""Read image files into one array: RGB or grey, and brought to one size where a size is asked for.

In: paths, and perhaps the side of a square. Out: uint8 (N, channels, H, W), or an error that names the first bad file.
Pillow does the work. Everything is held in memory: what would not fit is refused before it is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nctool.errors import FormatError, NctoolError, RangeError
from nctool.files import cannot_read, plain_file

Size = tuple[int, int]
"""Height and width in pixels."""

RGB = 3
"""Channels of an image in colour; a grey one has 1."""

_EIGHT_BITS = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"))
"""Modes of Pillow whose values fit uint8; its conversion cuts off the others without a word."""
_GREY_MODES = frozenset(("1", "L", "LA"))
_GIB = 2**30
_SMALLER = "set data.image_size to {side} or less, or use fewer images: all of them are held in memory"


class ImageReader:
    """Reads image files as RGB or grey, all of one size.

    Args:
        side: of the square that images are brought to: the shorter side is resized to it, the middle cut out. None
            takes the images as they are, all of them of one size.
        channels: 3, or 1 for the luma of ITU-R BT.601, by which what is grey stays as it is. Source: `Image.convert`.
    """

    def __init__(self, side: int | None, channels: int = RGB) -> None:
        self._channels = channels
        self._size = None if side is None else (side, side)

    def read(self, *splits: Sequence[Path]) -> list[npt.NDArray[np.uint8]]:
        """Read several lists of files; the first file of all says the size where none was asked for.

        Returns:
            an array uint8 (N, channels, H, W) for each list.

        Raises:
            UsageError: a file cannot be opened.
            FormatError: a file is no image of 8 bits a channel, is truncated, or has another size than the first.
            RangeError: the images do not fit into memory, or one of them.
        """
        first = splits[0][0]
        _, height, width = self._open(first).shape
        require_memory(sum(len(split) for split in splits), (self._channels, height, width), _SMALLER)
        return [self._read_all(split, first, (height, width)) for split in splits]

    def _read_all(self, paths: Sequence[Path], first: Path, size: Size) -> npt.NDArray[np.uint8]:
        images = np.empty((len(paths), self._channels, *size), dtype=np.uint8)
        for number, path in enumerate(paths):
            image = self._open(path)
            _, height, width = image.shape
            if (height, width) != size:
                raise _other_size(path, (height, width), first, size)
            images[number] = image
        return images

    def _open(self, path: Path) -> npt.NDArray[np.uint8]:
        return open_image(path).pixels(self._channels, self._size)


@dataclass(frozen=True)
class OpenImage:
    """An image of 8 bits a channel, decoded.

    Attributes:
        image: RGB, as Pillow holds it.
        mode: of the file, by its name in Pillow: `L` is grey, `RGB`, `RGBA`, ...
        frames: how many the file holds, as of an animation or of pages; the image is the first.
    """

    image: Any
    mode: str
    frames: int = 1

    @property
    def size(self) -> Size:
        """Return height and width."""
        width, height = self.image.size
        return height, width

    def pixels(self, channels: int, size: Size | None) -> npt.NDArray[np.uint8]:
        """Return it as uint8 (channels, H, W), with 1 or 3 channels.

        Args:
            channels: 1 makes it grey.
            size: what it is brought to: it is resized until it covers this, and the middle cut out.
        """
        converted = self.image if channels == RGB else self.image.convert("L")
        pixels = np.asarray(converted if size is None else _fitted(converted, size), dtype=np.uint8)
        return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)


def _fitted(image: Any, size: Size) -> Any:
    """Return an image resized bilinearly and cut. Source: torchvision 0.18, `Resize` and `CenterCrop`."""
    from PIL.Image import Resampling

    (height, width), (old_width, old_height) = size, image.size
    if height * old_width >= width * old_height:  # it is too wide for its height
        resized = (height * old_width // old_height, height)
    else:
        resized = (width, width * old_height // old_width)
    left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
    if resized != image.size:
        image = image.resize(resized, Resampling.BILINEAR)
    return image.crop((left, top, left + width, top + height))


def open_image(path: Path) -> OpenImage:
    """Decode an image file.

    Raises:
        UsageError: it cannot be opened.
        FormatError: it is no image of 8 bits a channel, or truncated.
        RangeError: it does not fit into memory.
    """
    from PIL import Image

    try:
        with Image.open(plain_file(path)) as image:
            mode, frames, colours = image.mode, getattr(image, "n_frames", 1), image.convert("RGB")
    except Exception as error:  # every decoder of Pillow has errors of its own
        raise _unreadable(path, error) from error
    if mode not in _EIGHT_BITS:
        raise FormatError(f"`{path}`: got an image of mode {mode}, allowed: 8 bits a channel")
    return OpenImage(colours, mode, frames)


def is_grey(path: Path) -> bool:
    """Say whether an image file is grey; as `size_of`."""
    mode, _ = _header(path)
    return mode in _GREY_MODES


def size_of(path: Path) -> Size:
    """Return height and width of an image file, by its header.

    Raises:
        UsageError, FormatError, RangeError: as `open_image`.
    """
    _, size = _header(path)
    return size


def _header(path: Path) -> tuple[str, Size]:
    from PIL import Image

    try:
        with Image.open(plain_file(path)) as image:
            return image.mode, (image.height, image.width)
    except Exception as error:  # every decoder of Pillow has errors of its own
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> NctoolError:
    """Describe a file that the system does not give, that is too large, or that Pillow does not understand."""
    from PIL import Image

    if isinstance(error, MemoryError):
        return RangeError(f"`{path}` does not fit into memory", hint="use smaller images, or end other programs")
    if isinstance(error, Image.DecompressionBombError):
        return RangeError(f"`{path}`: too many pixels to be safe to decode", hint="make it smaller, or cut it")
    if isinstance(error, OSError) and error.errno is not None:
        return cannot_read(path, error)
    return FormatError(
        f"`{path}`: got a file that is truncated or no image", hint="move it out of there, or fetch it anew"
    )


def _other_size(path: Path, got: Size, first: Path, size: Size) -> FormatError:
    return FormatError(
        f"`{path}`: got an image of {got[0]}x{got[1]} (height x width), allowed: {size[0]}x{size[1]} as in `{first}`",
        hint=f"bring all images to one size: data.image_size = {min(size)}, for instance",
    )


def require_memory(n_images: int, shape: tuple[int, int, int], hint: str) -> None:
    """Refuse more bytes than half of the machine's memory: training splits off what is held out, in a copy.

    Args:
        n_images: how many images.
        shape: (channels, height, width) of each.
        hint: the way out; `{side}` in it stands for the side of the squares that would fit.
    """
    channels, height, width = shape
    needed = n_images * channels * height * width
    allowed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if needed > allowed:
        side = math.isqrt(allowed // (n_images * channels))
        raise RangeError(
            f"{n_images:,} images of {height}x{width} take {needed / _GIB:.1f} GiB, "
            f"allowed: {allowed / _GIB:.1f} GiB, half of the memory of this machine",
            hint=hint.format(side=side),
        )
