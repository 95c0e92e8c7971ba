"""Read image files given as samples: one, or a folder of them, brought to what a network takes.

In: a path, and the shape of a sample. Out: pixels, the names of the files, and a note of every change: no image is made
smaller, larger or grey without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nctool.errors import FormatError, RangeError, UsageError
from nctool.files import cannot_read
from nctool.ir.network import Shape
from nctool.running.arrays import FOLDER_HINT, IMAGE_SUFFIXES, Source, path_of
from nctool_models.datasets.image_files import RGB, OpenImage, is_grey, open_image, require_memory, size_of

_GREY = 1
_MOST_NOTES = 5
"""Kinds of changes that are noted one by one."""
_PLAIN_MODES = {"L": _GREY, "RGB": RGB}
"""Modes of Pillow that are taken as they are, by the channels of the network."""


@dataclass(frozen=True)
class ImageSamples:
    """Image files as samples.

    Args:
        pixels: uint8 (samples, channels, height, width).
        files: their names, in order.
        notes: what was changed, a text for each kind of change.
    """

    pixels: NDArray[np.uint8]
    files: tuple[str, ...]
    notes: tuple[str, ...]


def are_images(source: Source | None) -> bool:
    """Return whether samples are given as an image file, by its name, or as a folder."""
    path = path_of(source)
    return path is not None and (path.suffix.lower() in IMAGE_SUFFIXES or path.is_dir())


def list_images(path: Path) -> list[Path]:
    """Return an image, or those of a folder in the order of their names; hidden files are left out.

    Raises:
        UsageError: the folder cannot be read, or holds folders.
        FormatError: it holds no image, or something else.
    """
    if not path.is_dir():
        return [path]
    found = _visible(path)
    for each in found:
        if each.is_dir():
            raise UsageError(f"`{each}` is a folder in a folder, allowed: image files", hint=FOLDER_HINT)
        if each.suffix.lower() not in IMAGE_SUFFIXES:
            allowed = ", ".join(sorted(IMAGE_SUFFIXES))
            raise FormatError(f"`{each}`: is no image, allowed: {allowed}", hint="move it out of there")
    if not found:
        raise FormatError(f"`{path}` holds no image")
    return found


def _visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, in the order of the names; hidden files are left out."""
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise cannot_read(folder, error) from error


def read_images(paths: Sequence[Path], shape: Shape) -> ImageSamples:
    """Read image files as samples of a network.

    Args:
        paths: at least one.
        shape: of a sample; images are made grey for one channel and RGB for three, resized until they cover it, and
            cut in the middle.

    Raises:
        UsageError: a file cannot be opened.
        FormatError: a file is no image of 8 bits a channel, or truncated.
        RangeError: the network takes no images, or they do not fit into memory.
    """
    if len(shape) != 3 or shape[0] not in (_GREY, RGB):
        raise RangeError(
            f"`{paths[0]}`: is an image, the network takes samples of shape ({', '.join(map(str, shape))})",
            hint="images have 1 or 3 channels, a height and a width; give other samples with --input X.npy",
        )
    channels, height, width = shape
    require_memory(len(paths), (channels, height, width), "use fewer images: all of them are held in memory")
    pixels = np.empty((len(paths), *shape), np.uint8)
    changes: dict[str, list[str]] = {}
    for number, path in enumerate(paths):
        image = open_image(path)
        pixels[number] = image.pixels(channels, (height, width))
        if change := _change(image, channels, (height, width)):
            changes.setdefault(change, []).append(path.name)
    return ImageSamples(pixels, tuple(path.name for path in paths), _notes(changes))


def read_images_alike(path: Path) -> ImageSamples:
    """Read an image file, or those of a folder, as they are: for a network whose input nothing but them tells.

    Args:
        path: an image, or a folder of images, or of folders of images, by the order of their names.

    Returns:
        samples of one channel where all images are grey, else of three, with a note of every change.

    Raises:
        UsageError: a file or folder cannot be read.
        FormatError: there is no image, a file is none of 8 bits a channel, or it has another size than the first.
        RangeError: they do not fit into memory.
    """
    paths = [image for folder in _folders(path) for image in list_images(folder)]
    channels = _GREY if all(is_grey(each) for each in paths) else RGB
    height, width = open_image(paths[0]).size
    for each in paths[1:]:
        if (other := size_of(each)) != (height, width):
            raise FormatError(
                f"`{each}`: got an image of {other[0]}x{other[1]} (height x width), allowed: {height}x{width} as in "
                f"`{paths[0]}`",
                hint="bring all images to the size that the network takes",
            )
    return read_images(paths, (channels, height, width))


def _folders(path: Path) -> list[Path]:
    """Return a path itself, or the folders in it where it holds nothing else."""
    if not path.is_dir():
        return [path]
    inner = _visible(path)
    return inner if inner and all(each.is_dir() for each in inner) else [path]


def _change(image: OpenImage, channels: int, size: tuple[int, int]) -> str:
    """Return what is done to an image, or nothing; sizes are width x height, as image viewers show them."""
    parts = [] if image.frames == 1 else [f"the first of {image.frames} frames taken"]
    if _PLAIN_MODES.get(image.mode) != channels:
        parts.append(f"made {'grey' if channels == _GREY else 'RGB'} from {image.mode}")
    (height, width), (old_height, old_width) = size, image.size
    if (old_height, old_width) != size:
        cut = "" if old_height * width == old_width * height else ", what stands over at the sides cut off"
        parts.append(f"resized from {old_width}x{old_height} to {width}x{height}{cut}")
    return "; ".join(parts)


def _notes(changes: dict[str, list[str]]) -> tuple[str, ...]:
    counts = Counter({change: len(names) for change, names in changes.items()})
    shown = [f"{_which(changes[change])}: {change}" for change, _ in counts.most_common(_MOST_NOTES)]
    rest = counts.total() - sum(count for _, count in counts.most_common(_MOST_NOTES))
    return (*shown, *((f"{rest} more images: made grey or RGB, or resized, in other ways",) if rest else ()))


def _which(names: list[str]) -> str:
    return f"image `{names[0]}`" if len(names) == 1 else f"{len(names)} images, `{names[0]}` the first"
