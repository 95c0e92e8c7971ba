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

from nctool.activation.thresholds import fresh_norms
from nctool.conversion.fidelity import WORK
from nctool.conversion.trace.compare_runs import sequences_as_images
from nctool.conversion.trace.prepare import rectify
from nctool.conversion.trace.signals import as_image
from nctool.exporting.calibration_images import CalibrationImages
from nctool.exporting.convert import Source
from nctool.exporting.named_network import named_network
from nctool.exporting.network_names import is_code, require_trained
from nctool.importing.open_file import read_network
from nctool.running.samples import unknown_label

COMPARED = 10
"""Of a conversion, so many times the work of an export is spent on the comparison: it has no other measure."""

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
    require_trained(name)
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
    return of_rectified(rectify(model, images.normalised(images.pixels[:AT_ONCE])), images)


def of_rectified(rectified: nn.Module, images: CalibrationImages) -> Source:
    """Return a network of rectifiers as conversion takes it."""

    def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.no_grad():
            parts = [rectified(images.normalised(part)) for part in _parts(pixels)]
        return np.asarray(torch.cat(parts), np.float64)

    return Source(
        model=rectified.eval(),
        input_shape=as_image(images.pixels.shape[1:]),
        mean=images.mean,
        std=images.std,
        pixels=sequences_as_images(images.fitted),
        compared=sequences_as_images(images.compared),
        work=COMPARED * WORK,
        labels=images.compared_labels,
        logits=logits,
        notes=(*images.notes, *_notes(rectified)),
    )


def require_labels(source: Source, name: str, labels: NDArray[np.int64]) -> None:
    """Refuse labels that no class of the network has.

    Args:
        source: the network.
        name: of the labels, for the message.
        labels: int64 (samples,).

    Raises:
        RangeError: one is beyond the last class.
    """
    n_classes = source.logits(source.compared[:1]).shape[1]
    if labels.max() >= n_classes:
        raise unknown_label(f"`{name}`", labels, n_classes)


def _notes(network: nn.Module) -> tuple[str, ...]:
    """Return a note on batch norms whose statistics were never measured: this is no trained network."""
    norms = list(fresh_norms(network))
    if not norms:
        return ()
    more = f" and {len(norms) - 1} more" if norms[1:] else ""
    return (f"batch norm `{norms[0]}`{more}: no data seen, so this network is not trained: load its weights first",)


def _parts(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE)]
