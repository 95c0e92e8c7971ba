"""Convolutions and poolings as files have them: along one axis or two, padded before and behind in different ways.

A convolution takes uneven padding up in a larger kernel with zeros in it, a maximum in a window that reaches over the
edge. A signal (N, C, length) is an image of one row.

In: sizes for each axis that the file sees. Out: two-dimensional layers of torch that give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from nctool.conversion.trace.shapes import pair
from nctool.importing.builder import Builder, assigned
from nctool.importing.values import RefusedError, Sizes, Value

Pads = Sequence[tuple[int, int]]


LARGEST_WINDOW = 2**15
"""Of a kernel, a stride, a padding or a dilation: with numbers beyond 32 bits, torch ends the process."""


@dataclass(frozen=True)
class Windows:
    """Where the windows of a convolution or pooling lie, for each axis behind the channels.

    Args:
        kernel: numbers in a window.
        strides: from window to window.
        pads: numbers before and behind the image.
        dilations: from number to number in a window.
    """

    kernel: Sequence[int]
    strides: Sequence[int]
    pads: Pads
    dilations: Sequence[int]

    def along(self, places: Sequence[int]) -> Windows:
        """Return the windows for other axes: those at `places`, where the one behind the last has length 1."""
        more = Windows((*self.kernel, 1), (*self.strides, 1), (*self.pads, (0, 0)), (*self.dilations, 1))
        return Windows(
            tuple(more.kernel[k] for k in places),
            tuple(more.strides[k] for k in places),
            tuple(more.pads[k] for k in places),
            tuple(more.dilations[k] for k in places),
        )

    def require_valid(self, n_axes: int) -> None:
        """Refuse windows that are not for `n_axes` axes, or that no image has."""
        lengths = {len(self.kernel), len(self.strides), len(self.pads), len(self.dilations)}
        numbers = (*self.kernel, *self.strides, *self.dilations)
        if lengths != {n_axes} or n_axes not in (1, 2):
            raise RefusedError(f"has windows along {len(self.kernel)} axes of an image with {n_axes}, allowed 1 or 2")
        if min(numbers) < 1 or min(min(pad) for pad in self.pads) < 0:
            raise RefusedError(f"has windows {tuple(self.kernel)} padded by {tuple(self.pads)}")
        if max(*numbers, *(max(pad) for pad in self.pads)) > LARGEST_WINDOW:
            raise RefusedError(f"has windows {self}, allowed up to {LARGEST_WINDOW}")


def convolved(
    layers: Builder, name: str, value: Value, weight: Tensor, bias: Tensor | None, windows: Windows, groups: int
) -> Value:
    """Call a convolution; zeros that were padded before it become part of it.

    Args:
        layers: what is built.
        name: of the node.
        value: (N, C, H, W) or (N, C, length) as the file sees it.
        weight: float32 (out, in / groups, *kernel).
        bias: float32 (out,), or None.
        windows: along each axis of the kernel.
        groups: of channels.
    """
    windows.require_valid(len(value.axes) - 2)
    if groups < 1 or len(weight) % groups:
        raise RefusedError(f"has {groups} groups of {len(weight)} channels")
    image, places = image_and_places(layers, value)
    weight = weight.reshape(*weight.shape, *[1] * (4 - weight.ndim)).permute(0, 1, *(2 + k for k in places))
    windows = windows.along(places)
    before, pads = _with_padding_before(layers, image, windows.pads)
    weight, padding = _evenly_padded(weight, pads, windows.dilations)
    module = nn.utils.skip_init(
        nn.Conv2d,
        weight.shape[1] * groups,
        len(weight),
        tuple(weight.shape[2:]),
        stride=tuple(windows.strides),
        padding=padding,
        dilation=tuple(windows.dilations),
        groups=groups,
        bias=bias is not None,
    )
    return layers.along(name, assigned(module, weight=weight, bias=bias), before, image.axes[: len(value.axes)])


def image_and_places(layers: Builder, value: Value) -> tuple[Value, Sizes]:
    """Return an image, and for its height and its width which axis of the file's each is."""
    image = layers.images_of(value)
    return image, tuple(image.axes[2:].index(axis) for axis in (2, 3))


def _with_padding_before(layers: Builder, value: Value, pads: Pads) -> tuple[Value, Pads]:
    """Return what the padding before a convolution pads, and the padding of both."""
    found = layers.padded(value)
    if found is None:
        return value, pads
    before, (left, right, top, bottom) = found
    added = [(top, bottom), (left, right)]
    return before, [(a + c, b + d) for (a, b), (c, d) in zip(pads, added, strict=True)]


def _evenly_padded(weight: Tensor, pads: Pads, dilations: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """Return a kernel with zeros at its edge, and one padding for both sides of each axis."""
    zeros: list[int] = []
    for (before, behind), dilation in zip(reversed(pads), reversed(dilations), strict=True):
        if (behind - before) % dilation:
            raise RefusedError(f"pads {tuple(pads)} with dilation {tuple(dilations)}, allowed the same on both sides")
        zeros += [max(0, behind - before) // dilation, max(0, before - behind) // dilation]
    return functional.pad(weight, zeros), tuple(max(pad) for pad in pads)


def pooled(
    layers: Builder,
    name: str,
    value: Value,
    windows: Windows,
    *,
    maximum: bool,
    ceil_mode: bool = False,
    counts_padding: bool = True,
    divisor: int | None = None,
) -> Value:
    """Call a maximum or average pooling.

    Args:
        layers: what is built.
        name: of the node.
        value: (N, C, H, W) or (N, C, length) as the file sees it.
        windows: along each axis behind the channels.
        maximum: False for the average.
        ceil_mode: a window may reach over the edge.
        counts_padding: an average counts the zeros that are padded.
        divisor: what an average divides by, its numbers by default.
    """
    windows.require_valid(len(value.axes) - 2)
    image, places = image_and_places(layers, value)
    seen_at, windows = image.axes[: len(value.axes)], windows.along(places)
    if not maximum and not ceil_mode and (counts_padding or not any(map(any, windows.pads))):
        image, windows, counts_padding = _average_with_padding_before(layers, image, windows, counts_padding)
    uneven = any(before != behind for before, behind in windows.pads)
    if uneven and (not maximum or ceil_mode or not _reaches_over(image, windows)):
        raise RefusedError(f"pads {tuple(windows.pads)}, allowed the same on both sides")
    if not maximum and set(windows.dilations) != {1}:
        raise RefusedError("averages over windows with gaps")
    padding = [before for before, _ in windows.pads]
    kernel, stride, padded, dilation = map(pair, (windows.kernel, windows.strides, padding, windows.dilations))
    if maximum:
        module: nn.Module = nn.MaxPool2d(kernel, stride, padded, dilation, ceil_mode=ceil_mode or uneven)
    else:
        module = nn.AvgPool2d(kernel, stride, padded, ceil_mode, counts_padding, divisor)
    return layers.along(name, module, image, seen_at)


def _average_with_padding_before(
    layers: Builder, image: Value, windows: Windows, counts_padding: bool
) -> tuple[Value, Windows, bool]:
    """Return what the zeros before an average pad, and windows that count them, where torch has such windows."""
    before, pads = _with_padding_before(layers, image, windows.pads)
    even = all(one == other and 2 * one <= size for (one, other), size in zip(pads, windows.kernel, strict=True))
    return (before, replace(windows, pads=pads), True) if even else (image, windows, counts_padding)


def _reaches_over(image: Value, windows: Windows) -> bool:
    """Return whether windows that reach over the far edge are those of padding behind it."""
    axes = zip(image.sizes[2:], windows.kernel, windows.strides, windows.pads, windows.dilations, strict=True)
    return all(_same_windows(*axis) for axis in axes)


def _same_windows(size: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> bool:
    before, behind = pad
    span = dilation * (kernel - 1) + 1
    wanted = (size + before + behind - span) // stride + 1
    counted = -((span - size - 2 * before) // stride) + 1
    if (counted - 1) * stride >= size + before:
        counted -= 1  # torch has no window that begins behind the edge
    return behind >= before and wanted == counted
