"""What each operation of ONNX means as a layer of torch: one handler an operation.

Handlers read the attributes and inputs of every opset since 7; where an opset gives an argument as an input and another
as an attribute, both are read.

In: a node of the file. Out: values of the network that is built, or a `RefusedError`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nctool.importing.builder import Builder
from nctool.importing.convolution import Windows, convolved, pooled
from nctool.importing.values import RefusedError, Value

Array = NDArray[Any]
Given = Value | Array | None


@dataclass(frozen=True)
class Node:
    """A node of the file.

    Args:
        name: of the node, or of what it gives.
        kind: its operation.
        given: its inputs: values, constants, None for one that is left out.
        attributes: as Python objects.
        opset: version of the operations.
    """

    name: str
    kind: str
    given: Sequence[Given]
    attributes: Mapping[str, Any]
    opset: int

    def value(self, place: int = 0) -> Value:
        """Return an input that depends on the images."""
        found = self.given[place] if len(self.given) > place else None
        if not isinstance(found, Value):
            raise RefusedError(f"input {place} is a constant")
        return found

    def constant(self, place: int) -> Array | None:
        """Return an input that is the same for all images, None if it is left out."""
        found = self.given[place] if len(self.given) > place else None
        if isinstance(found, Value):
            raise RefusedError(f"input {place} depends on the images")
        return found

    def weights(self, place: int) -> Tensor | None:
        """Return a constant of type float32, None if it is left out."""
        found = self.constant(place)
        if found is not None and found.dtype != np.float32:
            raise RefusedError(f"its weights are {found.dtype}, allowed float32")
        return None if found is None else torch.from_numpy(np.array(found))

    def option(self, name: str, place: int) -> list[Any] | None:
        """Return numbers that are an attribute in some opsets and an input in others."""
        found = self.attributes.get(name)
        found = self.constant(place) if found is None else found
        return None if found is None else np.reshape(found, -1).tolist()


# --- layers with weights --------------------------------------------------------------------------------------------
def _conv(node: Node, layers: Builder) -> Value:
    value, weight = node.value(), node.weights(1)
    if weight is None or weight.ndim < 3:
        raise RefusedError("has no weights")
    windows = _windows(node, value, list(weight.shape[2:]))
    return convolved(layers, node.name, value, weight, node.weights(2), windows, node.attributes.get("group", 1))


def _windows(node: Node, value: Value, kernel: Sequence[int]) -> Windows:
    ones = [1] * len(kernel)
    strides, dilations = (list(node.attributes.get(name) or ones) for name in ("strides", "dilations"))
    kind = node.attributes.get("auto_pad", "NOTSET")
    if kind == "NOTSET":
        flat = node.attributes.get("pads") or [0] * 2 * len(kernel)
        pads = list(zip(flat[: len(flat) // 2], flat[len(flat) // 2 :], strict=True))
    elif kind == "VALID":
        pads = [(0, 0)] * len(kernel)
    else:
        sizes = zip(value.seen[2:], kernel, strides, dilations, strict=True)
        pads = [_same_pad(*axis, upper=kind == "SAME_UPPER") for axis in sizes]
    return Windows(kernel, strides, pads, dilations)


def _same_pad(size: int, kernel: int, stride: int, dilation: int, *, upper: bool) -> tuple[int, int]:
    """Return the padding by which there are as many windows as strides in the image."""
    total = max(0, (math.ceil(size / stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
    less, more = total // 2, total - total // 2
    return (less, more) if upper else (more, less)


def _gemm(node: Node, layers: Builder) -> Value:
    weight, bias = node.weights(1), node.weights(2)
    if weight is None or node.attributes.get("transA", 0):
        raise RefusedError("is a product of transposed images")
    weight = weight if node.attributes.get("transB", 0) else weight.T
    weight = weight * float(node.attributes.get("alpha", 1.0))
    if bias is not None:
        bias = bias.reshape(-1).expand(len(weight)) * float(node.attributes.get("beta", 1.0))
    return layers.linear(node.name, node.value(), weight, bias)


def _matmul(node: Node, layers: Builder) -> Value:
    weight = node.weights(1)
    if weight is None or weight.ndim != 2:
        raise RefusedError(f"multiplies by a tensor of {0 if weight is None else weight.ndim} axes, allowed a matrix")
    return layers.linear(node.name, node.value(), weight.T, None)


def _norm(node: Node, layers: Builder) -> Value:
    if node.attributes.get("training_mode", 0):
        raise RefusedError("is in training mode")
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {name: node.weights(place) for place, name in enumerate(names, start=1)}
    return layers.norm(node.name, node.value(), tensors, float(node.attributes.get("epsilon", 1e-5)))


# --- activations ----------------------------------------------------------------------------------------------------
def _relu(node: Node, layers: Builder) -> Value:
    return layers.each(node.name, nn.ReLU(), node.value())


def _clip(node: Node, layers: Builder) -> Value:
    low, high = (node.option(name, place) for place, name in ((1, "min"), (2, "max")))
    return clamped(layers, node.name, node.value(), low[0] if low else None, high[0] if high else None)


def clamped(layers: Builder, name: str, value: Value, low: float | None, high: float | None) -> Value:
    """Clip numbers: a ReLU, or one that ends at a number."""
    if low is None:
        raise RefusedError("has no lower limit")
    if high is None or math.isinf(high) or high >= float(np.finfo(np.float32).max):
        if low != 0:
            raise RefusedError(f"begins at {low:g}, allowed 0")
        return layers.each(name, nn.ReLU(), value)
    if low >= high:
        raise RefusedError(f"clips to {low:g}..{high:g}")
    return layers.each(name, nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high), value)


def _softmax(node: Node, layers: Builder) -> Value:
    value = node.value()
    axis = node.attributes.get("axis", -1 if node.opset >= CURRENT_SOFTMAX else 1)
    return scores(layers, node.name, value, axis, logarithms=node.kind == "LogSoftmax")


CURRENT_SOFTMAX = 13
"""Since this opset softmax runs along one axis, the last by default."""


def scores(layers: Builder, name: str, value: Value, axis: int, *, logarithms: bool) -> Value:
    """Take the softmax of each sample's features."""
    if len(value.seen) != 2 or axis not in (1, -1):
        raise RefusedError(f"runs along axis {axis} of {value.seen[1:]}, allowed along the classes")
    return layers.each(name, (nn.LogSoftmax if logarithms else nn.Softmax)(dim=1), value)


# --- pooling --------------------------------------------------------------------------------------------------------
def _pool(node: Node, layers: Builder) -> Value:
    value = node.value()
    return pooled(
        layers,
        node.name,
        value,
        _windows(node, value, list(node.attributes["kernel_shape"])),
        maximum=node.kind == "MaxPool",
        ceil_mode=bool(node.attributes.get("ceil_mode", 0)),
        counts_padding=bool(node.attributes.get("count_include_pad", 0)),
    )


def _global_pool(node: Node, layers: Builder) -> Value:
    value, maximum = node.value(), node.kind == "GlobalMaxPool"
    return layers.image_pool(node.name, value, range(2, len(value.axes)), keeps=True, maximum=maximum)


def _reduce(node: Node, layers: Builder) -> Value:
    value, axes = node.value(), node.option("axes", 1) or []
    keeps = bool(node.attributes.get("keepdims", 1))
    axes = [axis % len(value.axes) for axis in axes]
    return layers.image_pool(node.name, value, axes, keeps=keeps, maximum=node.kind == "ReduceMax")


# --- sums, and constants that come into them ------------------------------------------------------------------------
def _arithmetic(node: Node, layers: Builder) -> Value:
    first, second = node.given
    if isinstance(first, Value) and isinstance(second, Value):
        if node.kind != "Add":
            raise RefusedError("is of two values that depend on the images", kind="mul")
        return layers.add(first, second)
    gain, shift = torch.ones(()), torch.zeros(())
    if isinstance(first, Value):
        constant = _required(node.weights(1))
        by = {"Add": (gain, constant), "Sub": (gain, -constant), "Mul": (constant, shift), "Div": (1 / constant, shift)}
        return layers.affine(node.name, first, *by[node.kind])
    constant = _required(node.weights(0))
    by = {"Add": (gain, constant), "Sub": (-gain, constant), "Mul": (constant, shift)}
    if node.kind not in by:
        raise RefusedError("divides a constant by what depends on the images")
    return layers.affine(node.name, node.value(1), *by[node.kind])


def _scaler(node: Node, layers: Builder) -> Value:
    """Take off the mean of each feature, and divide by its deviation: of scikit-learn's StandardScaler."""
    offset, scale = (torch.tensor(node.attributes[name], dtype=torch.float32) for name in ("offset", "scale"))
    return layers.affine(node.name, node.value(), scale, -offset * scale)


def _required(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise RefusedError("leaves out an input")
    return tensor


def _sum(node: Node, layers: Builder) -> Value:
    total = node.value()
    for place in range(1, len(node.given)):
        total = layers.add(total, node.value(place))
    return total


def _concat(node: Node, layers: Builder) -> Value:
    return layers.concatenated([node.value(place) for place in range(len(node.given))], node.attributes["axis"])


# --- axes -----------------------------------------------------------------------------------------------------------
def _same(node: Node, layers: Builder) -> Value:
    del layers
    return node.value()


def _cast(node: Node, layers: Builder) -> Value:
    from onnx import TensorProto

    if node.attributes["to"] != TensorProto.FLOAT:
        raise RefusedError(f"makes {TensorProto.DataType.Name(node.attributes['to'])} of numbers, allowed FLOAT")
    return _same(node, layers)


def _dropout(node: Node, layers: Builder) -> Value:
    training = node.constant(2)
    if training is not None and bool(training):
        raise RefusedError("is in training mode")
    return _same(node, layers)


def _transpose(node: Node, layers: Builder) -> Value:
    value = node.value()
    return layers.permuted(value, node.attributes.get("perm") or list(reversed(range(len(value.axes)))))


def _flatten(node: Node, layers: Builder) -> Value:
    value = node.value()
    axis = node.attributes.get("axis", 1)
    if axis % (len(value.axes) + 1) != 1:
        raise RefusedError(f"begins at axis {axis}, allowed 1")
    return layers.reshaped(node.name, value, (-1, math.prod(value.seen[1:])))


def _reshape(node: Node, layers: Builder) -> Value:
    value, sizes = node.value(), node.option("shape", 1) or []
    if not node.attributes.get("allowzero", 0):
        kept = itertools.zip_longest(sizes, value.seen[: len(sizes)])
        sizes = [old if size == 0 else size for size, old in kept]
    return layers.reshaped(node.name, value, tuple(size or 0 for size in sizes))


def _squeeze(node: Node, layers: Builder) -> Value:
    value, axes = node.value(), node.option("axes", 1)
    rank = len(value.axes)
    away = {axis % rank for axis in axes} if axes else {k for k, size in enumerate(value.seen) if size == 1}
    if any(value.seen[axis] != 1 for axis in away):
        raise RefusedError(f"takes away axes {sorted(away)} of {value.seen[1:]}")
    return layers.reshaped(node.name, value, tuple(size for axis, size in enumerate(value.seen) if axis not in away))


def _unsqueeze(node: Node, layers: Builder) -> Value:
    value, axes = node.value(), node.option("axes", 1) or []
    rank = len(value.axes) + len(axes)
    new, old = {axis % rank for axis in axes}, iter(value.seen)
    return layers.reshaped(node.name, value, tuple(1 if axis in new else next(old) for axis in range(rank)))


def _pad(node: Node, layers: Builder) -> Value:
    value, pads, filling = node.value(), node.option("pads", 1) or [], node.option("value", 2)
    axes = node.option("axes", 3) or list(range(len(pads) // 2))
    if node.attributes.get("mode", "constant") != "constant" or (filling and filling[0] != 0):
        raise RefusedError("pads with something else than zeros")
    by_axis = {
        value.axes[axis % len(value.axes)]: pad
        for axis, pad in zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True)
    }
    return zero_padded(layers, node.name, value, by_axis)


def zero_padded(layers: Builder, name: str, value: Value, by_axis: Mapping[int, tuple[int, int]]) -> Value:
    """Pad height and width with zeros.

    Args:
        layers: what is built.
        name: of the node.
        value: what is padded.
        by_axis: numbers before and behind, for each axis of the tensor.
    """
    value = layers.taken(value)
    wrong = [axis for axis, pad in by_axis.items() if any(pad) and axis not in (2, 3)]
    if len(value.sizes) != 4 or wrong or any(min(pad) < 0 for pad in by_axis.values()):
        raise RefusedError("pads something else than the height and width of images")
    top, left = by_axis.get(2, (0, 0)), by_axis.get(3, (0, 0))
    if not any((*top, *left)):
        return value
    return layers.along(name, nn.ZeroPad2d((*left, *top)), value, value.axes)


HANDLERS: dict[str, Callable[[Node, Builder], Value]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _norm,
    "Relu": _relu,
    "Clip": _clip,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "MaxPool": _pool,
    "AveragePool": _pool,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("ReduceMean", "ReduceMax"), _reduce),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "ai.onnx.ml.Scaler": _scaler,
    "Sum": _sum,
    "Concat": _concat,
    "Identity": _same,
    "Cast": _cast,
    "Dropout": _dropout,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Pad": _pad,
}
