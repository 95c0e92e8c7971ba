"""What each operator of torch means as a layer: one handler an operator, for the files of torch.export and TorchScript.

The operators are those of the library `aten`, in the forms of torch 2.3 and of newer ones.

In: an operator's arguments by name. Out: values of the network that is built, or a `RefusedError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nctool.importing.builder import Builder
from nctool.importing.convolution import Windows, convolved, pooled
from nctool.importing.enlarging import repeated, shuffled, transposed
from nctool.importing.onnx_layers import clamped, scores, zero_padded
from nctool.importing.values import RefusedError, Value


@dataclass(frozen=True)
class Call:
    """A call of an operator.

    Args:
        name: of its module or result.
        kind: the operator, without the underscore of one that works in place.
        arguments: by name, in the order of the operator: values, tensors and numbers.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]

    def value(self) -> Value:
        """Return the first argument, which depends on the images."""
        found = next(iter(self.arguments.values()), None)
        if not isinstance(found, Value):
            raise RefusedError("is of constants")
        return found

    def weights(self, name: str) -> Tensor | None:
        """Return an argument of type float32, None if it is left out."""
        found = self.arguments.get(name)
        if isinstance(found, Value):
            raise RefusedError(f"{name} depends on the images")
        if found is not None and (not isinstance(found, Tensor) or found.dtype != torch.float32):
            raise RefusedError(f"{name} is {getattr(found, 'dtype', type(found).__name__)}, allowed torch.float32")
        return None if found is None else found.detach()

    def get(self, name: str, default: Any) -> Any:
        """Return an argument, or what the operator takes where it is left out."""
        found = self.arguments.get(name)
        return default if found is None else found


def _conv(call: Call, layers: Builder) -> Value:
    weight = call.weights("weight")
    if weight is None:
        raise RefusedError("has no weights")
    if call.get("transposed", False):
        return _conv_transpose(call, layers)
    n_axes = weight.ndim - 2
    kernel, dilations = list(weight.shape[2:]), _each(call.get("dilation", 1), n_axes)
    windows = Windows(kernel, _each(call.get("stride", 1), n_axes), _conv_pads(call, kernel, dilations), dilations)
    return convolved(layers, call.name, call.value(), weight, call.weights("bias"), windows, call.get("groups", 1))


def _conv_transpose(call: Call, layers: Builder) -> Value:
    weight = call.weights("weight")
    if weight is None:
        raise RefusedError("has no weights")
    n_axes, kernel = weight.ndim - 2, list(weight.shape[2:])
    strides, padding, more, dilations = (
        _each(call.get(name, default), n_axes)
        for name, default in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1))
    )
    windows = Windows(kernel, strides, [(pad, pad) for pad in padding], dilations)
    groups = call.get("groups", 1)
    return transposed(layers, call.name, call.value(), weight, call.weights("bias"), windows, more, groups)


def _upsample(call: Call, layers: Builder) -> Value:
    value, scales = call.value(), call.get("scale_factors", None)
    if not scales:
        sizes = call.arguments["output_size"]
        scales = [new / old for new, old in zip(sizes, value.seen[2:], strict=True)]
    return repeated(layers, call.name, value, dict(enumerate(scales, start=2)))


def _index(call: Call, layers: Builder) -> Value:
    """Take nearest neighbours that torch 2.3 wrote out: the place of what each row and each column repeats."""
    value, (*whole, last) = call.value(), call.arguments["indices"]
    rows = whole[2:]
    lines = [*(row[:, 0] for row in rows if row.ndim == 2 and row.shape[1] == 1), last]
    fits = whole[:2] == [None, None] and len(value.seen) == len(whole) + 1 == len(lines) + 2
    if not fits or any(not _repeats(line, size) for line, size in zip(lines, value.seen[2:], strict=False)):
        raise RefusedError("takes places of an image one by one", kind="getitem")
    factors = {axis: len(line) / value.seen[axis] for axis, line in enumerate(lines, start=2)}
    return repeated(layers, call.name, value, factors)


def _repeats(places: Tensor, size: int) -> bool:
    """Return whether places in an axis are all of it, in order, each as often."""
    factor, rest = divmod(len(places), size)
    return places.ndim == 1 and rest == 0 and torch.equal(places, torch.arange(len(places)) // max(factor, 1))


def _pixel_shuffle(call: Call, layers: Builder) -> Value:
    return shuffled(layers, call.name, call.value(), call.arguments["upscale_factor"])


def _conv_pads(call: Call, kernel: Sequence[int], dilations: Sequence[int]) -> list[tuple[int, int]]:
    padding = call.get("padding", 0)
    if padding == "same":
        totals = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(pad, pad) for pad in _each(0 if padding == "valid" else padding, len(kernel))]


def _each(number: int | Sequence[int], n_axes: int) -> list[int]:
    """Return one number for each axis."""
    numbers = [number] if isinstance(number, int) else list(number)
    return numbers * n_axes if len(numbers) == 1 else numbers


def _linear(call: Call, layers: Builder) -> Value:
    return layers.linear(call.name, call.value(), _matrix(call.weights("weight")), call.weights("bias"))


def _matrix(weight: Tensor | None) -> Tensor:
    if weight is None or weight.ndim != 2:
        raise RefusedError("multiplies by no matrix")
    return weight


def _product(call: Call, layers: Builder) -> Value:
    other = "mat2" if call.kind == "mm" else "other"
    return layers.linear(call.name, call.value(), _matrix(call.weights(other)).T, None)


def _addmm(call: Call, layers: Builder) -> Value:
    value, bias = call.arguments.get("mat1"), call.weights("self")
    if not isinstance(value, Value) or call.get("beta", 1) != 1 or call.get("alpha", 1) != 1:
        raise RefusedError("is another sum of products than that of nn.Linear")
    return layers.linear(call.name, value, _matrix(call.weights("mat2")).T, bias)


def _norm(call: Call, layers: Builder) -> Value:
    if call.get("training", False) or call.get("use_input_stats", False):
        raise RefusedError("is in training mode: export the network after .eval()")
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {name: call.weights(name) for name in names}
    return layers.norm(call.name, call.value(), tensors, float(call.get("eps", 1e-5)))


def _relu(call: Call, layers: Builder) -> Value:
    return layers.each(call.name, nn.ReLU(), call.value())


def _relu6(call: Call, layers: Builder) -> Value:
    return layers.each(call.name, nn.ReLU6(), call.value())


def _hardtanh(call: Call, layers: Builder) -> Value:
    return clamped(layers, call.name, call.value(), call.get("min_val", -1.0), call.get("max_val", 1.0))


def _clamp(call: Call, layers: Builder) -> Value:
    return clamped(layers, call.name, call.value(), _number(call, "min"), _number(call, "max"))


def _number(call: Call, name: str) -> float | None:
    found = call.arguments.get(name)
    if not isinstance(found, float | int | None):
        raise RefusedError(f"{name} is a tensor")
    return found


def _softmax(call: Call, layers: Builder) -> Value:
    return scores(layers, call.name, call.value(), int(call.get("dim", -1)), logarithms="log" in call.kind)


def _pool(call: Call, layers: Builder) -> Value:
    value = call.value()
    n_axes = len(value.axes) - 2
    kernel = _each(call.arguments["kernel_size"], n_axes)
    pads = [(pad, pad) for pad in _each(call.get("padding", 0), n_axes)]
    strides, dilations = _each(call.get("stride", ()) or kernel, n_axes), _each(call.get("dilation", 1), n_axes)
    return pooled(
        layers,
        call.name,
        value,
        Windows(kernel, strides, pads, dilations),
        maximum=call.kind.startswith("max"),
        ceil_mode=bool(call.get("ceil_mode", False)),
        counts_padding=bool(call.get("count_include_pad", True)),
        divisor=call.arguments.get("divisor_override"),
    )


def _adaptive_pool(call: Call, layers: Builder) -> Value:
    value = call.value()
    n_axes = len(value.axes) - 2
    wanted = _each(call.arguments["output_size"], n_axes)
    if set(wanted) == {1}:
        axes, maximum = range(2, len(value.axes)), "max" in call.kind
        return layers.image_pool(call.name, value, axes, keeps=True, maximum=maximum)
    image = layers.images_of(value)
    if "max" in call.kind or n_axes != 2 or image.axes != (0, 1, 2, 3):
        raise RefusedError(f"pools to {wanted}, allowed 1")
    return layers.along(call.name, nn.AdaptiveAvgPool2d((wanted[0], wanted[1])), image, image.axes)


def _reduce(call: Call, layers: Builder) -> Value:
    value, axes = call.value(), call.get("dim", ())
    axes = [axes] if isinstance(axes, int) else axes
    axes = [axis % len(value.axes) for axis in axes]
    keeps, maximum = bool(call.get("keepdim", False)), call.kind == "amax"
    return layers.image_pool(call.name, value, axes, keeps=keeps, maximum=maximum)


def _sum(call: Call, layers: Builder) -> Value:
    first, second, alpha = call.arguments["self"], call.arguments["other"], call.get("alpha", 1)
    if isinstance(first, Value) and isinstance(second, Value):
        if alpha != 1 or call.kind != "add":
            raise RefusedError("subtracts what depends on the images, or scales it", kind="sub")
        return layers.add(first, second)
    value, constant = (first, second) if isinstance(first, Value) else (second, first)
    sign = {"add": (1, 1), "sub": (1, -1), "rsub": (-1, 1)}[call.kind]
    if not isinstance(first, Value):
        sign = (sign[0] * sign[1] * alpha, 1) if call.kind != "add" else (alpha, 1)
        alpha = 1
    gain, shift = torch.tensor(float(sign[0])), sign[1] * alpha * _constant(constant)
    return layers.affine(call.name, value, gain, shift)


def _constant(number: Any) -> Tensor:
    if isinstance(number, Tensor):
        return number.detach().float()
    return torch.tensor(float(number))


def _scaled(call: Call, layers: Builder) -> Value:
    first, second = call.arguments["self"], call.arguments["other"]
    if isinstance(first, Value) and isinstance(second, Value):
        raise RefusedError("is of two values that depend on the images", kind="mul")
    if call.kind == "div" and not isinstance(first, Value):
        raise RefusedError("divides a constant by what depends on the images")
    value, constant = (first, second) if isinstance(first, Value) else (second, first)
    gain = _constant(constant)
    return layers.affine(call.name, value, 1 / gain if call.kind == "div" else gain, torch.zeros(()))


def _cat(call: Call, layers: Builder) -> Value:
    tensors = call.arguments["tensors"]
    if not all(isinstance(tensor, Value) for tensor in tensors):
        raise RefusedError("joins constants")
    return layers.concatenated(tensors, int(call.get("dim", 0)))


def _same(call: Call, layers: Builder) -> Value:
    del layers
    return call.value()


def _cast(call: Call, layers: Builder) -> Value:
    dtype = call.arguments.get("dtype")
    if dtype not in (None, torch.float32):
        raise RefusedError(f"makes {dtype} of numbers, allowed torch.float32")
    return _same(call, layers)


def _dropout(call: Call, layers: Builder) -> Value:
    if call.get("train", False):
        raise RefusedError("is in training mode: export the network after .eval()")
    return _same(call, layers)


def _flatten(call: Call, layers: Builder) -> Value:
    value = call.value()
    rank = len(value.axes)
    start, end = call.get("start_dim", 0) % rank, call.get("end_dim", -1) % rank
    sizes = (*value.seen[:start], math.prod(value.seen[start : end + 1]), *value.seen[end + 1 :])
    return layers.reshaped(call.name, value, sizes)


def _view(call: Call, layers: Builder) -> Value:
    sizes = call.arguments.get("size", call.arguments.get("shape"))
    if not isinstance(sizes, Sequence) or not all(isinstance(size, int) for size in sizes):
        raise RefusedError("reshapes to sizes that depend on the images")
    return layers.reshaped(call.name, call.value(), tuple(sizes))


def _squeeze(call: Call, layers: Builder) -> Value:
    value = call.value()
    axes = call.arguments.get("dim", range(len(value.axes)))
    away = {axis % len(value.axes) for axis in ([axes] if isinstance(axes, int) else axes)}
    kept = (size for axis, size in enumerate(value.seen) if axis not in away or size != 1)
    return layers.reshaped(call.name, value, tuple(kept))


def _unsqueeze(call: Call, layers: Builder) -> Value:
    value, axis = call.value(), call.arguments["dim"]
    axis %= len(value.axes) + 1
    return layers.reshaped(call.name, value, (*value.seen[:axis], 1, *value.seen[axis:]))


def _permute(call: Call, layers: Builder) -> Value:
    return layers.permuted(call.value(), call.arguments["dims"])


def _transpose(call: Call, layers: Builder) -> Value:
    value = call.value()
    axes = list(range(len(value.axes)))
    first, second = (call.arguments[name] for name in ("dim0", "dim1"))
    axes[first], axes[second] = axes[second], axes[first]
    return layers.permuted(value, axes)


def _pad(call: Call, layers: Builder) -> Value:
    value, pads = call.value(), call.arguments["pad"]
    if call.get("mode", "constant") != "constant" or call.get("value", 0) != 0:
        raise RefusedError("pads with something else than zeros")
    pairs = zip(pads[::2], pads[1::2], strict=True)
    return zero_padded(layers, call.name, value, {value.axes[-1 - k]: pair for k, pair in enumerate(pairs)})


HANDLERS: dict[str, Callable[[Call, Builder], Value]] = {
    **dict.fromkeys(("conv1d", "conv2d", "convolution", "_convolution", "_convolution_mode"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), _conv_transpose),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d"), _upsample),
    **dict.fromkeys(("_upsample_nearest_exact1d", "_upsample_nearest_exact2d"), _upsample),
    **dict.fromkeys(("index", "_unsafe_index"), _index),
    "pixel_shuffle": _pixel_shuffle,
    "linear": _linear,
    **dict.fromkeys(("mm", "matmul"), _product),
    "addmm": _addmm,
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm"), _norm),
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    **dict.fromkeys(("clamp", "clamp_min", "clip"), _clamp),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d"), _pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive_pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_pool),
    **dict.fromkeys(("mean", "amax"), _reduce),
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    **dict.fromkeys(("mul", "div"), _scaled),
    **dict.fromkeys(("cat", "concat"), _cat),
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "lift_fresh_copy"), _same),
    **dict.fromkeys(("to", "_to_copy"), _cast),
    **dict.fromkeys(("dropout", "feature_dropout", "dropout2d"), _dropout),
    "flatten": _flatten,
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _view),
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "permute": _permute,
    "transpose": _transpose,
    **dict.fromkeys(("constant_pad_nd", "pad"), _pad),
}
"""By operator. One that works in place has the same handler."""
