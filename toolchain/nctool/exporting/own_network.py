"""A trained network of the user's own, ready to be converted: its ReLUs are rectifiers, its images pixels.

In: a torch module, calibration images. Out: a Source.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nctool.conversion.trace.compare_runs import sequences_as_images
from nctool.conversion.trace.prepare import rectify
from nctool.conversion.trace.signals import as_image
from nctool.exporting.calibration_images import CalibrationImages
from nctool.exporting.convert import Source
from nctool.exporting.named_network import is_code, named_network
from nctool.importing.open_file import read_network

AT_ONCE = 64
"""Images that the network computes at once."""


def opened(name: str, images: CalibrationImages) -> tuple[nn.Module, CalibrationImages]:
    """Return the network of a file, which gives on the images what the file gives, or that which code builds.

    The images come back as it takes them: signals are images of height 1 for the network of a file.

    Args:
        name: path of an ONNX, torch.export or TorchScript file, or `file.py:function`.

    Raises:
        UsageError, FormatError, UnsupportedError: as `nctool.importing.open_network`, `require_same_as_file` and
            `nctool.exporting.named_network`.
    """
    some = images.normalised(images.pixels[:AT_ONCE])
    if is_code(name):
        return named_network(name, tuple(some.shape[1:]))[0].eval(), images
    file = read_network(Path(name), tuple(some.shape[1:]))
    file.require_same(some, f"`{name}`")
    return file.network, replace(images, pixels=sequences_as_images(images.pixels))


def of_module(model: nn.Module, images: CalibrationImages) -> Source:
    """Return a trained network as conversion takes it.

    Raises:
        UsageError, UnsupportedError: as `nctool.conversion.trace.prepare.rectify`.
    """
    rectified = rectify(model, images.normalised(images.pixels[:AT_ONCE]))

    def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.no_grad():
            parts = [rectified(images.normalised(part)) for part in _parts(pixels)]
        return np.asarray(torch.cat(parts), np.float64)

    return Source(
        model=rectified.eval(),
        input_shape=as_image(images.pixels.shape[1:]),
        mean=images.mean,
        std=images.std,
        pixels=sequences_as_images(images.pixels),
        logits=logits,
        notes=images.notes,
    )


def _parts(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE)]
