"""Run an ONNX file with onnxruntime, as it is.

In: an `OnnxModel` and images in the order of axes of the network. Out: the scores of the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nctool.errors import FormatError, NctoolError, first_line
from nctool.importing.onnx_file import OnnxModel

_ONLY_ERRORS = 3


def runner(model: OnnxModel, to_file: Callable[[Tensor], Tensor], path: Path) -> Callable[[Tensor], Tensor]:
    """Return what runs a file.

    Args:
        model: the file.
        to_file: brings images of the network into the order of axes of the file.
        path: what messages call the file.

    Raises:
        FormatError: by what is returned, where onnxruntime refuses the file or the images.
    """
    session = cache(lambda: _session(model, path))  # made when it is first needed

    def run(images: Tensor) -> Tensor:
        try:
            (scores,) = session().run([model.output], {model.image_name: to_file(images).numpy()})
        except NctoolError:
            raise
        except Exception as error:  # its errors have no common class
            raise _not_run(path, error) from error
        return torch.from_numpy(scores)

    return run


def _session(model: OnnxModel, path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(_only_scores(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the same
        raise _not_run(path, error) from error


def _not_run(path: Path, error: Exception) -> FormatError:
    return FormatError(f"`{path}`: onnxruntime does not run it ({first_line(error)})")


def _only_scores(model: OnnxModel) -> bytes:
    """Return the file with the scores as its only output."""
    from onnx import ModelProto, TensorProto, helper

    copy = ModelProto()
    copy.CopyFrom(model.proto)
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info(model.output, TensorProto.FLOAT, None))
    content: bytes = copy.SerializeToString()
    return content
