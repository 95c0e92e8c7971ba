"""Read an ONNX file: its bytes, the files of its weights, and what it takes and gives.

Nothing of the file is run. Weights outside of it are read from plain files in its own folder only.

In: a path. Out: an `OnnxModel`, or a UsageError, FormatError or UnsupportedError that names the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from nctool.errors import FormatError, UnsupportedError, UsageError, first_line
from nctool.files import cannot_read, plain_file
from nctool.importing.values import BATCH, Sizes

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 7
"""Since then sums extend their terms as NumPy does, and batch norm means that of inference."""

CURRENT_OPSET = 13
"""What older files are brought to."""

TAIL = ("ArgMax", "ArrayFeatureExtractor", "Cast", "Identity", "LabelEncoder", "Reshape", "Squeeze", "ZipMap")
"""What a classifier makes of its scores at the end: the number, the name or the table of classes."""

PIP = 'pip install "nctool[onnx]"'


@dataclass(frozen=True)
class OnnxModel:
    """A file that was read.

    Args:
        proto: with all weights in it.
        opset: version of the operations.
        image_name: of its input.
        sizes: of its input, the first is `BATCH`.
        batch: number of images that it takes, None for any.
        output: name of the scores of the classes.
    """

    proto: onnx.ModelProto
    opset: int
    image_name: str
    sizes: Sizes
    batch: int | None
    output: str


def require_onnx() -> None:
    """Say how to install what ONNX files need, if it is missing.

    Raises:
        UsageError: onnx or onnxruntime is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UsageError(f"ONNX files need the package `{error.name}`, which is not installed", hint=PIP) from error


def read_onnx(path: Path) -> OnnxModel:
    """Read an ONNX file.

    Raises:
        UsageError: it cannot be read, or onnx is not installed.
        FormatError: it is truncated, damaged or no ONNX file, or the files of its weights are.
        UnsupportedError: it takes something else than images of one fixed size, or its operations are newer than onnx.
    """
    require_onnx()
    model = _parsed(path)
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            _take_in(tensor, path)
    opset = _require_opset(model, path)
    _require_valid(model, path)
    model = _inlined(model, path)
    if opset < OLDEST_OPSET:
        model, opset = _newer(model, path), CURRENT_OPSET
    image_name, sizes, batch = _images(model, path)
    return OnnxModel(model, opset, image_name, sizes, batch, _scores(model, path))


def _parsed(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        content = plain_file(path).read_bytes()
    except OSError as error:
        raise cannot_read(path, error) from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise damaged(path, first_line(error)) from error
    if not model.graph.node or not model.opset_import:
        raise damaged(path, "it holds no graph of operations")
    return model


def damaged(path: Path, reason: str) -> FormatError:
    """Return the error that says so."""
    return FormatError(
        f"`{path}`: truncated, damaged or no ONNX file ({reason})", hint="export the network again, or copy it again"
    )


# --- weights in other files -----------------------------------------------------------------------------------------
def _tensors(model: Any) -> Iterator[Any]:
    """Yield every tensor of the file that is not in a graph inside of a node."""
    yield from model.graph.initializer
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _take_in(tensor: Any, path: Path) -> None:
    """Read the numbers of a tensor from the file beside `path` that it names."""
    from onnx import TensorProto, helper

    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _beside(path, entries.get("location", ""), tensor.name)
    try:
        offset = int(entries.get("offset") or 0)
        wanted = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        length = int(entries.get("length") or wanted)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, f"weights `{tensor.name}`: {first_line(error)}") from error
    if length != wanted or offset < 0 or file.stat().st_size < offset + length:
        raise FormatError(
            f"`{path}`: weights `{tensor.name}` take {wanted} bytes from {offset}, `{file.name}` has "
            f"{file.stat().st_size}",
            hint="copy both files again, from the folder that they were exported to",
        )
    with file.open("rb") as handle:
        handle.seek(offset)
        tensor.raw_data = handle.read(length)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _beside(path: Path, location: str, name: str) -> Path:
    """Return the file of weights, which must be a plain one inside the folder of `path`."""
    folder = path.parent.resolve()
    named = PurePosixPath(location)
    is_name = location not in ("", ".") and "\0" not in location
    file = (folder / location).resolve() if is_name else folder
    if not is_name or named.is_absolute() or ".." in named.parts or not file.is_relative_to(folder):
        raise FormatError(
            f"`{path}`: weights `{name}` are in `{first_line(ValueError(location))}`, allowed: a file in the folder of "
            "the network",
            hint="export again with all weights in one file, or in a file beside it",
        )
    try:
        return plain_file(file)
    except OSError as error:
        raise UsageError(
            f"cannot read `{file}`, which holds weights of `{path.name}`: {(error.strerror or str(error)).lower()}",
            hint="copy it beside the network: weights of this export are in a file of their own",
        ) from error


# --- the model ------------------------------------------------------------------------------------------------------
def _require_opset(model: Any, path: Path) -> int:
    from onnx import defs

    opset = max((it.version for it in model.opset_import if it.domain in ("", "ai.onnx")), default=0)
    if opset > defs.onnx_opset_version():
        raise UnsupportedError(
            f"`{path}`: written with opset {opset}, allowed up to {defs.onnx_opset_version()}, which onnx knows here",
            hint="pip install --upgrade onnx, or export with an older opset",
        )
    return int(opset)


def _require_valid(model: Any, path: Path) -> None:
    from onnx import checker

    try:
        checker.check_model(model)
    except (checker.ValidationError, ValueError) as error:
        raise damaged(path, first_line(error)) from error


def _inlined(model: Any, path: Path) -> Any:
    """Return the model with its own functions written out."""
    from onnx import inliner

    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise damaged(path, first_line(error)) from error


def _newer(model: Any, path: Path) -> Any:
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, CURRENT_OPSET)
    except (RuntimeError, ValueError) as error:
        raise UnsupportedError(
            f"`{path}`: written with an opset before {OLDEST_OPSET}, and onnx cannot bring it to a newer one "
            f"({first_line(error)})",
            hint=f"export with opset {CURRENT_OPSET} or newer",
        ) from error


def _images(model: Any, path: Path) -> tuple[str, Sizes, int | None]:
    """Return name and sizes of the input, and how many images it takes."""
    from onnx import TensorProto

    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [it for it in model.graph.input if it.name not in given]
    if len(inputs) != 1:
        names = ", ".join(f"`{it.name}`" for it in inputs)
        raise UnsupportedError(f"`{path}`: has {len(inputs)} inputs ({names}), allowed one: the images")
    (images,) = inputs
    kind = images.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind.elem_type) if kind.elem_type else "no tensor"
        raise UnsupportedError(
            f"`{path}`: input `{images.name}` is {name}, allowed FLOAT", hint="export the network in float32"
        )
    dims = list(kind.shape.dim)
    rest = dims[1:]
    for axis, dim in enumerate(rest, start=1):
        _require_fixed(dim, axis, images.name, path)
    if not rest:
        raise UnsupportedError(f"`{path}`: input `{images.name}` has no axis beside that of the images")
    sizes = tuple(dim.dim_value for dim in rest)
    return images.name, (BATCH, *sizes), dims[0].dim_value or None


def _require_fixed(dim: Any, axis: int, name: str, path: Path) -> None:
    if dim.dim_value < 1:
        called = f" (`{dim.dim_param}`)" if dim.dim_param else ""
        raise UnsupportedError(
            f"`{path}`: axis {axis}{called} of input `{name}` has no fixed size",
            hint="export with fixed sizes: only the first axis, that of the images, may be dynamic",
        )


def _scores(model: Any, path: Path) -> str:
    """Return the name of what the outputs are made of: one value, the scores of the classes."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {output.name for output in model.graph.output}
    if len(found) > 1:
        found = {_before_tail(name, makers) for name in found}
    if len(found) != 1:
        names = ", ".join(f"`{output.name}`" for output in model.graph.output)
        raise UnsupportedError(
            f"`{path}`: has {len(model.graph.output)} outputs ({names}), allowed one: the scores of the classes",
            hint="export the network with the logits as its only output",
        )
    return str(found.pop())


def _before_tail(name: str, makers: dict[str, Any]) -> str:
    while name in makers and makers[name].op_type in TAIL:
        node = makers[name]
        name = node.input[-1] if node.op_type == "ArrayFeatureExtractor" else node.input[0]
    return name
