"""Build the torch module of an ONNX file, node by node; what does not depend on the images is computed on the way.

In: an `OnnxModel`. Out: a `NetworkFile`, or an UnsupportedError that names every
node that cannot be brought into it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nctool.errors import first_line
from nctool.importing.builder import Builder
from nctool.importing.ends import finished, started
from nctool.importing.enlarging import ENLARGING
from nctool.importing.network_file import NetworkFile
from nctool.importing.onnx_file import OnnxModel, damaged
from nctool.importing.onnx_layers import HANDLERS, Node
from nctool.importing.onnx_run import runner
from nctool.importing.problems import Problems
from nctool.importing.values import MISFITS, RefusedError, Sizes, Value

READ = HANDLERS | ENLARGING
"""Handlers of all operations that become layers."""

FOLDED = frozenset(
    {"Add", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Flatten", "Floor"}
    | {"Gather", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal", "ReduceProd", "ReduceSum", "Reshape"}
    | {"Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"}
)
"""Operations on constants that are computed here: none of them loops."""

LARGEST_CONSTANT = 2**28
"""Numbers of a constant that is computed."""

Array = NDArray[Any]


class Unread:
    """What a node gives that was refused: whoever reads it is not to blame."""


Known = Value | Array | Unread


def build(model: OnnxModel, path: Path) -> NetworkFile:
    """Return the network of a file.

    Raises:
        UnsupportedError: there are nodes that cannot be brought into it; all are named.
    """
    problems = Problems(f"`{path}`")
    layers = started(model.image_name, model.sizes, model.batch, problems)
    known = _constants(model, path)
    known[model.image_name] = layers.images
    for proto in _needed(model):
        try:
            _read(proto, known, layers, model.opset)
            continue
        except RefusedError as refused:
            problems.add(_name(proto), _kind(proto), refused)
        except MISFITS as error:
            problems.add(_name(proto), _kind(proto), RefusedError(f"does not fit: {first_line(error)}"))
        known |= {name: Unread() for name in proto.output}
    problems.raise_if_any()
    network = finished(layers, known[model.output], problems)
    return NetworkFile(
        network,
        layers.image_sizes,
        layers.images.seen[1:],
        model.batch,
        runner(model, layers.to_file, path),
        "onnxruntime",
    )


def _constants(model: OnnxModel, path: Path) -> dict[str, Known]:
    from onnx import numpy_helper

    known: dict[str, Known] = {}
    for tensor in model.proto.graph.initializer:
        try:
            known[tensor.name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(path, f"weights `{tensor.name}`: {first_line(error)}") from error
    return known


def _needed(model: OnnxModel) -> list[Any]:
    """Return the nodes that the output depends on, in order."""
    wanted, nodes = {model.output}, []
    for node in reversed(model.proto.graph.node):
        if wanted & set(node.output):
            wanted.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def _read(proto: Any, known: dict[str, Known], layers: Builder, opset: int) -> None:
    given = [known[name] if name else None for name in proto.input]
    kind = _kind(proto)
    if any(isinstance(it, Unread) for it in given):
        if kind not in READ and kind not in FOLDED:
            raise RefusedError
        known |= {name: Unread() for name in proto.output}
        return
    if kind == "Shape" and isinstance(given[0], Value):
        known[proto.output[0]] = _sizes(proto, given[0])
    elif any(isinstance(it, Value) for it in given):
        if kind not in READ:
            raise RefusedError
        node = Node(_name(proto), kind, given, _attributes(proto), opset)  # type: ignore[arg-type]  # no Unread here
        known[proto.output[0]] = READ[kind](node, layers)
    else:
        known |= _folded(proto, given, opset)


def _sizes(proto: Any, value: Value) -> Array:
    attributes = _attributes(proto)
    return np.array(value.seen[attributes.get("start", 0) : attributes.get("end")], np.int64)


def _folded(proto: Any, given: list[Any], opset: int) -> dict[str, Array]:
    """Return what a node computes from constants."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    if _kind(proto) not in FOLDED:
        raise RefusedError
    _require_size(proto, given)
    feeds = {name: array for name, array in zip(proto.input, given, strict=True) if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    names = [name for name in proto.output if name]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
    graph = helper.make_graph([proto], "node", inputs, outputs)
    try:
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
        results = evaluator.run(None, feeds)
    except Exception as error:  # whatever an operation says of constants that do not fit
        raise RefusedError(f"does not fit: {first_line(error)}") from error
    return dict(zip(names, map(np.asarray, results), strict=True))


def _require_size(proto: Any, given: list[Any]) -> None:
    """Refuse a constant that no memory should be asked for."""
    sizes = {"ConstantOfShape": 0, "Expand": 1}.get(_kind(proto))
    asked = [] if sizes is None else [given[sizes]]
    numbers = [math.prod(map(int, array.reshape(-1))) for array in asked]
    broadcast = math.prod(max(axis) for axis in _aligned([it.shape for it in given if it is not None]))
    if max((*numbers, 0 if _kind(proto) == "Concat" else broadcast)) > LARGEST_CONSTANT:
        raise RefusedError(f"makes a constant of more than {LARGEST_CONSTANT} numbers")


def _aligned(shapes: list[Sizes]) -> list[Sizes]:
    rank = max(map(len, shapes), default=0)
    return list(zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True))


def _kind(proto: Any) -> str:
    domain = "" if proto.domain in ("", "ai.onnx") else f"{proto.domain}."
    return f"{domain}{proto.op_type}"


def _name(proto: Any) -> str:
    return str(proto.name or next(filter(None, proto.output), proto.op_type))


def _attributes(proto: Any) -> dict[str, Any]:
    from onnx import helper

    found = {it.name: helper.get_attribute_value(it) for it in proto.attribute if not it.ref_attr_name}
    return {name: it.decode("utf-8", "replace") if isinstance(it, bytes) else it for name, it in found.items()}
