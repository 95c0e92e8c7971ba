"""Network files of other tools for the tests: exported by torch, or built node by node."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

FILES = Path(__file__).parents[1] / "importing" / "files"


def to_onnx(model: nn.Module, images: Tensor, path: Path, *, any_batch: bool = True, **options: Any) -> Path:
    """Export by the exporter that every torch has; the input is called `images`, its first axis `batch`."""
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False
    if any_batch:
        options["dynamic_axes"] = {"images": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (images,), str(path), input_names=["images"], **options)
    return path


def to_exported(model: nn.Module, images: Tensor, path: Path, *, any_batch: bool = True) -> Path:
    """Save by torch.export."""
    sizes = ({0: torch.export.Dim("batch")},) if any_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(model.eval(), (images,), dynamic_shapes=sizes), path)
    return path


def to_script(model: nn.Module, images: Tensor, path: Path, *, traced: bool = True) -> Path:
    """Save by torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(model.eval(), images) if traced else torch.jit.script(model.eval())
        module.save(str(path))
    return path


def graph(
    nodes: Sequence[onnx.NodeProto],
    sizes: Sequence[int | str],
    path: Path,
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    outputs: Sequence[str] = ("scores",),
    elem_type: int = TensorProto.FLOAT,
) -> Path:
    """Write an ONNX file of these nodes; they read `images`, float32 (batch, *sizes)."""
    images = helper.make_tensor_value_info("images", elem_type, ["batch", *sizes])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", name]) for name in outputs]
    held = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    proto = helper.make_graph(list(nodes), "network", [images], results, held)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    path.write_bytes(helper.make_model(proto, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def node(kind: str, *inputs: str, to: str = "", **attributes: Any) -> onnx.NodeProto:
    """Return a node that gives the value named `to`, its operation in small letters by default."""
    domain = attributes.pop("domain", "")
    return helper.make_node(kind, list(inputs), [to or kind.lower()], name=f"the_{kind}", domain=domain, **attributes)
