"""Open the network file of another tool, known by its content: ONNX, torch.export or TorchScript.

In: a path. Out: a torch module for `nctool.prepare`, and the proof that it gives what the file gives.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from torch import Tensor, nn

from nctool.arguments import public
from nctool.errors import UnsupportedError, UsageError
from nctool.files import cannot_read, plain_file
from nctool.importing.archive import Archive, load_tensors
from nctool.importing.exported_file import GRAPHS, read_exported
from nctool.importing.network_file import NetworkFile
from nctool.importing.onnx_file import read_onnx
from nctool.importing.onnx_graph import build
from nctool.importing.script_file import read_script
from nctool.importing.values import Sizes

_ZIP = b"PK\x03\x04"
_HEAD = 16
IMAGE_AXES = 3
"""Axes of an image: channels, height, width."""

_WEIGHTS_HINT = "build the network in Python, load the weights into it and give the module; or export it to ONNX"


@public
def open_network(path: Path | str, *, shape: Sizes | None = None) -> nn.Module:
    """Return the network of a file as a torch module in evaluation mode.

    Its layers are plain ones: nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.Flatten, nn.Softmax, sums and torch.cat. It takes float32 images (N, C, H, W), also where
    the file takes (N, H, W, C) as those of Keras do; signals (N, C, 1, length) where it takes (N, C, length); or
    (N, features).

    Args:
        path: an ONNX file, or one of torch.export.save or torch.jit.save. Its content says which; nothing of it is run.
        shape: of one image, as the file takes it. Needed for files of torch.jit.save, which do not hold it.

    Raises:
        UsageError: it cannot be read, what reads it is not installed, or the shape is missing or another.
        FormatError: it is damaged, or no network file.
        UnsupportedError: it holds operations that cannot be converted, all of which are named; or it is a file of
            weights without a network, or one that runs code when it is loaded.
    """
    return read_network(path, shape).network


def require_same_as_file(network: nn.Module, path: Path | str, images: Tensor) -> None:
    """Compare a network that `open_network` gave with its file, run by onnxruntime or torch as it is.

    Args:
        network: as `open_network` gave it.
        path: the file.
        images: float32 (N, C, H, W), (N, C, length) or (N, features), normalised, channels first.

    Raises:
        UsageError: the images do not fit, or the file cannot be read.
        FormatError: the answers differ by more than some roundings of float32; the largest difference is named.
        UnsupportedError: as `open_network`.
    """
    read = read_network(path, tuple(images.shape[1:]))
    replace(read, network=network).require_same(images, f"`{path}`")


def read_network(path: Path | str, shape: Sizes | None = None, *, is_typed: bool = False) -> NetworkFile:
    """Read a file of any kind; arguments and errors are those of `open_network`.

    Args:
        path: of the file.
        shape: of one image.
        is_typed: the user gave the shape, and no images.
    """
    path, shape = Path(path), None if shape is None else tuple(shape)
    head = _head(path)
    found = _read_archive(path, shape) if head.startswith(_ZIP) else _read_plain(path, head)
    signal = found.sizes[:1] + found.sizes[2:]
    if shape is not None and shape not in (found.sizes, found.seen, signal if found.sizes[1:2] == (1,) else None):
        raise _other_shape(path, shape, found.sizes, is_typed)
    return found


def _other_shape(path: Path, shape: Sizes, taken: Sizes, is_typed: bool) -> UsageError:
    if is_typed:
        given, own = (",".join(map(str, sizes)) for sizes in (shape, taken))
        return UsageError(
            f"--shape {given}: the network of `{path}` takes another", f"leave it out, or give --shape {own}"
        )
    return UsageError(
        f"images: have shape {shape}, the network of `{path}` takes {taken}", hint=_shape_hint(shape, taken)
    )


def _shape_hint(shape: Sizes, taken: Sizes) -> str:
    """Return how images of a shape become such as the network takes."""
    if len(shape) == IMAGE_AXES and (shape[-1], *shape[:-1]) == taken:
        return "the channels stand last: give images.transpose(0, 3, 1, 2), of a tensor images.permute(0, 3, 1, 2)"
    if (1, *shape) == taken:
        return "the axis of the channels is missing: give images[:, None]"
    return "give images of the size that the network was trained with, channels first"


def _head(path: Path) -> bytes:
    try:
        with plain_file(path).open("rb") as handle:
            return handle.read(_HEAD)
    except OSError as error:
        raise cannot_read(path, error) from error


def _read_plain(path: Path, head: bytes) -> NetworkFile:
    if head.startswith(b"\x89HDF"):
        _refuse(path, "is an HDF5 file, as old versions of Keras save", "tf2onnx brings a Keras network to ONNX")
    if head[4:8] == b"TFL3":
        _refuse(path, "is a TensorFlow Lite file", "bring the network to ONNX before it is quantised: tf2onnx does")
    if head[8:9] == b"{":
        _refuse(path, "is a safetensors file: it holds weights, and no network", _WEIGHTS_HINT)
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        _refuse_pickle(path)
    return build(read_onnx(path), path)


def _read_archive(path: Path, shape: Sizes | None) -> NetworkFile:
    archive = Archive(path)
    if {"metadata.json", "config.json"} <= set(archive.names):
        _refuse(path, "is a Keras file", "tf2onnx brings a Keras network to ONNX")
    for ending in GRAPHS:
        graph = archive.find(ending)
        if graph is not None:
            return read_exported(path, archive, graph)
    if archive.find("constants.pkl") is None:
        _refuse_pickle(path)
    if shape is None:
        raise UsageError(
            f"`{path}`: TorchScript does not say what images it takes",
            hint="give their shape, for example --shape 3,32,32; or save the network with torch.export.save",
        )
    return read_script(path, shape)


def _refuse_pickle(path: Path) -> NoReturn:
    """Refuse what `torch.save` or pickle wrote; only tensors are looked at."""
    if load_tensors(path) is not None:
        _refuse(path, "is a state dict: it holds weights, and no network", _WEIGHTS_HINT)
    raise UnsupportedError(
        f"`{path}`: holds Python objects, and would run code when it is loaded",
        hint="load it yourself if you trust it, torch.load(path, weights_only=False), and give the module; "
        "or export the network to ONNX or with torch.export.save",
    )


def _refuse(path: Path, what: str, hint: str) -> NoReturn:
    raise UnsupportedError(f"`{path}`: {what}", hint=hint)
