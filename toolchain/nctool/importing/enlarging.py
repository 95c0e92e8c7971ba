"""Layers of files that enlarge images: transposed convolutions, nearest neighbours, channels that become pixels.

In: sizes for each axis that the file sees; nodes of ONNX. Out: two-dimensional layers of torch that give the same
numbers, or a `RefusedError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nctool.importing.builder import Builder, assigned
from nctool.importing.convolution import LARGEST_WINDOW, Windows, image_and_places
from nctool.importing.onnx_layers import Node
from nctool.importing.values import RefusedError, Value

Places = NDArray[np.float64]

CURRENT_RESIZE = 11
"""Since this opset, `Resize` says how it counts places; before, place p is p / factor, rounded down."""


def transposed(
    layers: Builder,
    name: str,
    value: Value,
    weight: Tensor,
    bias: Tensor | None,
    windows: Windows,
    more: Sequence[int],
    groups: int,
) -> Value:
    """Call a transposed convolution.

    Args:
        layers: what is built.
        name: of the node.
        value: (N, C, H, W) or (N, C, length) as the file sees it.
        weight: float32 (in, out / groups, *kernel).
        bias: float32 (out,), or None.
        windows: along each axis of the kernel; its pads are cut off the result.
        more: numbers that are added behind, along each axis.
        groups: of channels.
    """
    windows.require_valid(len(value.axes) - 2)
    if groups < 1 or len(weight) % groups:
        raise RefusedError(f"has {groups} groups of {len(weight)} channels")
    image, places = image_and_places(layers, value)
    weight = weight.reshape(*weight.shape, *[1] * (4 - weight.ndim)).permute(0, 1, *(2 + k for k in places))
    windows, more = windows.along(places), tuple((*more, 0)[k] for k in places)
    weight, padding, added = _evenly_cut(weight, windows, more)
    module = nn.utils.skip_init(
        nn.ConvTranspose2d,
        len(weight),
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        stride=tuple(windows.strides),
        padding=tuple(padding),
        output_padding=tuple(added),
        dilation=tuple(windows.dilations),
        groups=groups,
        bias=bias is not None,
    )
    return layers.along(name, assigned(module, weight=weight, bias=bias), image, image.axes[: len(value.axes)])


def _evenly_cut(weight: Tensor, windows: Windows, more: Sequence[int]) -> tuple[Tensor, list[int], list[int]]:
    """Return a kernel, what is cut off on both sides, and what is added behind.

    Where more is cut off behind, zeros in front of the kernel move the result, so that as much is cut off in front.
    Zeros behind the kernel make it longer, where torch does not add so much.
    """
    zeros: list[int] = []
    padding, added = [], []
    for (before, behind), own, stride, dilation in zip(
        windows.pads, more, windows.strides, windows.dilations, strict=True
    ):
        longer = before - behind + own
        is_added = 0 <= longer < max(stride, dilation)
        if not is_added and longer % dilation:
            raise RefusedError(f"cuts off {tuple(windows.pads)} and adds {tuple(more)}, allowed as much on both sides")
        taps = 0 if is_added else longer // dilation
        zeros = [max(0, -taps), max(0, taps), *zeros]
        padding.append(before + max(0, -longer))
        added.append(longer if is_added else 0)
    return functional.pad(weight, zeros), padding, added


def repeated(layers: Builder, name: str, value: Value, factors: Mapping[int, float]) -> Value:
    """Repeat each number of an image along its height and width.

    Args:
        layers: what is built.
        name: of the node.
        value: what is enlarged.
        factors: by axis that the file sees; the others stay as they are.
    """
    value = layers.taken(value)
    by_axis = {value.axes[axis]: factor for axis, factor in factors.items() if factor != 1}
    if len(value.sizes) != 4 or not set(by_axis) <= {2, 3}:
        raise RefusedError("enlarges something else than the height and width of images")
    if not all(map(_is_whole, by_axis.values())):
        raise RefusedError(f"enlarges {tuple(by_axis.values())} times, allowed whole numbers up to {LARGEST_WINDOW}")
    scale = (float(by_axis.get(2, 1)), float(by_axis.get(3, 1)))
    return layers.along(name, nn.Upsample(scale_factor=scale, mode="nearest"), value, value.axes)


def _is_whole(factor: float) -> bool:
    return float(factor).is_integer() and 1 <= factor <= LARGEST_WINDOW


def shuffled(layers: Builder, name: str, value: Value, factor: int) -> Value:
    """Put channels side by side as pixels, in the order of `nn.PixelShuffle`."""
    image = layers.images_of(value)
    if image.axes != (0, 1, 2, 3):
        raise RefusedError("makes pixels of channels in another order of axes")
    return layers.along(name, nn.PixelShuffle(factor), image, image.axes)


# --- nodes of ONNX --------------------------------------------------------------------------------------------------
def _conv_transpose(node: Node, layers: Builder) -> Value:
    value, weight = node.value(), node.weights(1)
    if weight is None or weight.ndim < 3:
        raise RefusedError("has no weights")
    kernel = list(weight.shape[2:])
    more = list(node.attributes.get("output_padding") or [0] * len(kernel))
    windows, groups = _windows(node, value, kernel, more), node.attributes.get("group", 1)
    return transposed(layers, node.name, value, weight, node.weights(2), windows, more, groups)


def _windows(node: Node, value: Value, kernel: Sequence[int], more: Sequence[int]) -> Windows:
    ones = [1] * len(kernel)
    strides, dilations = (list(node.attributes.get(name) or ones) for name in ("strides", "dilations"))
    kind, wanted = node.attributes.get("auto_pad", "NOTSET"), node.attributes.get("output_shape")
    if kind in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = [size * stride for size, stride in zip(value.seen[2:], strides, strict=True)]
    if wanted:
        axes = zip(value.seen[2:], kernel, strides, dilations, more, wanted[-len(kernel) :], strict=True)
        pads = [_cut_off(*axis, upper=kind == "SAME_UPPER") for axis in axes]
    else:
        flat = node.attributes.get("pads") or [0] * 2 * len(kernel)
        pads = list(zip(flat[: len(flat) // 2], flat[len(flat) // 2 :], strict=True))
    return Windows(kernel, strides, pads, dilations)


def _cut_off(
    size: int, kernel: int, stride: int, dilation: int, more: int, wanted: int, *, upper: bool
) -> tuple[int, int]:
    """Return what is cut off before and behind, so that a result has the size that is wanted."""
    total = max(0, stride * (size - 1) + dilation * (kernel - 1) + 1 + more - wanted)
    less = total // 2
    return (less, total - less) if upper else (total - less, less)


def _resize(node: Node, layers: Builder) -> Value:
    value, mode = node.value(), node.attributes.get("mode", "nearest")
    if mode != "nearest":
        raise RefusedError(f"has mode {mode}, allowed nearest")
    factors = _factors(node, value)
    is_new = node.kind == "Resize" and node.opset >= CURRENT_RESIZE
    counting = node.attributes.get("coordinate_transformation_mode", "half_pixel") if is_new else "asymmetric"
    rounding = node.attributes.get("nearest_mode", "round_prefer_floor") if is_new else "floor"
    for axis, factor in factors.items():
        if _is_whole(factor) and not _repeats(value.seen[axis], int(factor), counting, rounding):
            raise RefusedError(f"counts places by {counting} and {rounding}, which repeats some more often than others")
    return repeated(layers, node.name, value, factors)


def _factors(node: Node, value: Value) -> dict[int, float]:
    """Return how many times each axis becomes as long, by axis."""
    scales = node.option("scales", 2 if node.kind == "Resize" and node.opset >= CURRENT_RESIZE else 1)
    sizes = None if scales else node.option("sizes", 3)
    if not scales and not sizes:
        raise RefusedError("does not say how large its result is")
    axes = node.attributes.get("axes") or range(len(scales or sizes or ()))
    given = dict(zip((axis % len(value.axes) for axis in axes), scales or sizes or (), strict=True))
    if scales:
        return given
    return {axis: 1 if axis == 0 else size / value.seen[axis] for axis, size in given.items()}


def _repeats(size: int, factor: int, counting: str, rounding: str) -> bool:
    """Return whether each place is repeated as often as any other."""
    places = np.arange(size * factor)
    if counting in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        found = (places + 0.5) / factor - 0.5
    elif counting == "tf_half_pixel_for_nn":
        found = (places + 0.5) / factor
    elif counting == "asymmetric":
        found = places / factor
    else:
        return factor == 1
    rounded: dict[str, Callable[[Places], Places]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda at: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    }
    if rounding not in rounded:
        return factor == 1
    return np.array_equal(np.clip(rounded[rounding](found), 0, size - 1), places // factor)


def _depth_to_space(node: Node, layers: Builder) -> Value:
    value, mode, factor = node.value(), node.attributes.get("mode", "DCR"), int(node.attributes["blocksize"])
    if mode != "CRD" and value.seen[1] != factor**2:
        raise RefusedError(f"has mode {mode}, allowed CRD, which keeps the channels of a pixel side by side")
    return shuffled(layers, node.name, value, factor)


ENLARGING: dict[str, Callable[[Node, Builder], Value]] = {
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "DepthToSpace": _depth_to_space,
}
"""Handlers of ONNX, beside those of `onnx_layers`."""
