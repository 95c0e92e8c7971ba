"""Build a torch module layer by layer: an fx graph of the modules and functions that the conversion knows.

In: layers in the words of torch, with weights in the order of the file. Out: values, and at the end an fx.GraphModule
in evaluation mode whose images are (N, C, H, W) or (N, features).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call  # type: ignore[attr-defined]

from nctool.errors import first_line
from nctool.importing.values import Order, RefusedError, Sizes, Value, flat_order, permuted, resolved, reviewed

LARGEST_SAMPLE = 2**28
"""Numbers of one layer's output for one image: 1 GiB. A file that asks for more is wrong, or nothing for a chip."""

_MOST_COLOURS = 4
"""Channels of an image as people have them; a last axis of so few is that of the channels."""


class Builder:
    """Collect layers.

    Args:
        sizes: of the images as the file takes them, the first is `BATCH`.
        batch: number of images that the file was made for, None for any.
    """

    def __init__(self, sizes: Sizes, batch: int | None = None) -> None:
        require_size(sizes)
        if batch is not None and not 1 <= batch <= LARGEST_SAMPLE // math.prod(sizes[1:]):
            raise RefusedError(f"takes {batch} images of {sizes[1:]} at once, allowed any number, or one")
        self.root, self.graph, self.batch = nn.Module(), fx.Graph(), batch
        self.placeholder = self.graph.placeholder("images")
        grown = (*sizes, 1) if len(sizes) == 3 else sizes
        self.images = Value(None, grown, tuple(range(len(sizes))))
        self.image_axes: Sizes | None = None
        """For each axis of the network's images, that of the file's: the one behind the last stands for length 1."""

    def finish(self, output: Value) -> fx.GraphModule:
        """Return the network that gives `output`."""
        self.graph.output(self.taken(output).node)
        network: fx.GraphModule = fx.GraphModule(self.root, self.graph, "Network")
        network.graph.eliminate_dead_code()
        network.recompile()
        network.delete_all_unused_submodules()
        network.eval()
        return network

    @property
    def image_sizes(self) -> Sizes:
        """Return the sizes of one of the network's images."""
        return tuple(self.images.sizes[axis] for axis in self._axes_of_images()[1:])

    def to_file(self, images: Tensor) -> Tensor:
        """Return images of the network in the order of axes of the file."""
        order = sorted(range(images.ndim), key=self._axes_of_images().__getitem__)
        return images.permute(order).reshape(len(images), *self.images.seen[1:]).contiguous()

    def _axes_of_images(self) -> Sizes:
        return self.image_axes or self.images.axes

    # --- images -----------------------------------------------------------------------------------------------------
    def taken(self, value: Value) -> Value:
        """Return a value to work on where the order of axes does not matter."""
        if value.node is not None:
            return value
        return self._settled(value, self.image_axes or _likely_axes(value))

    def images_of(self, value: Value) -> Value:
        """Return (N, C, H, W) as the file sees it; a signal (N, C, length) is an image of one row.

        Raises:
            RefusedError: the file sees no channels as the second axis.
        """
        is_signal = len(value.axes) == 3
        if value.node is None:
            value = self._settled(value, self.image_axes or ((0, 1, 3, 2) if is_signal else value.axes))
        hidden = [axis for axis in (2, 3) if axis not in value.axes]
        if len(value.sizes) != 4 or value.axes[:2] != (0, 1) or len(hidden) != is_signal:
            raise RefusedError("works on channels that are not the second axis")
        return Value(value.node, value.sizes, (*value.axes, *hidden))

    def _settled(self, value: Value, image_axes: Sizes) -> Value:
        """Decide the order of axes of the images, once, and return `value` in it."""
        self.image_axes = image_axes
        hidden = set(range(len(value.sizes))) - set(image_axes)
        if hidden & set(value.axes):
            raise RefusedError("sees the images otherwise than a layer before")
        sizes = tuple(value.sizes[axis] for axis in image_axes)
        return Value(self.placeholder, sizes, tuple(image_axes.index(axis) for axis in value.axes))

    # --- layers -----------------------------------------------------------------------------------------------------
    def each(self, name: str, module: nn.Module, value: Value) -> Value:
        """Call a module that takes every number on its own."""
        value = self.taken(value)
        called = self._call(name, module, value)
        return Value(called.node, called.sizes, value.axes, value.order)

    def along(self, name: str, module: nn.Module, value: Value, axes: Sizes) -> Value:
        """Call a module for images; the file sees its result at `axes`."""
        called = self._call(name, module, self.taken(value))
        return Value(called.node, called.sizes, axes)

    def padded(self, value: Value) -> tuple[Value, Sizes] | None:
        """Return what a zero padding pads, and by what (left, right, top, bottom), if `value` is what one gives."""
        node = value.node
        module = self.root.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None
        if not isinstance(module, nn.ZeroPad2d) or node is None:
            return None
        left, right, top, bottom = pads = tuple(module.padding)
        *outer, height, width = value.sizes
        sizes = (*outer, height - top - bottom, width - left - right)
        return Value(node.all_input_nodes[0], sizes, value.axes), pads

    def linear(self, name: str, value: Value, weight: Tensor, bias: Tensor | None) -> Value:
        """Call an nn.Linear; `weight` (out, features) in the order of the file."""
        value = self.taken(value)
        if len(value.seen) != 2:
            raise RefusedError(f"is a matrix product with a sample of {value.seen[1:]}, allowed (features,)")
        if len(value.sizes) != 2:
            value = self.flat(name, value)
        if value.seen[1] != weight.shape[1]:
            raise RefusedError(f"takes {weight.shape[1]} features and gets {value.seen[1]}")
        module = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
        assigned(module, weight=_ordered(weight, value.order, 1), bias=bias)
        return self._call(name, module, Value(value.node, value.sizes, (0, 1)))

    def norm(self, name: str, value: Value, tensors: dict[str, Tensor | None], eps: float) -> Value:
        """Call a batch norm with the `weight`, `bias`, `running_mean` and `running_var` of the file."""
        value = self.taken(value)
        kinds: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
        mean = tensors["running_mean"]
        if len(value.sizes) not in kinds or mean is None or value.sizes[1] != len(mean):
            raise RefusedError(f"normalises {'' if mean is None else len(mean)} channels of {value.sizes[1:]}")
        norm = kinds[len(value.sizes)](len(mean), eps=eps)
        assigned(norm, **{key: None if it is None else _ordered(it, value.order, 0) for key, it in tensors.items()})
        return self.each(name, norm.eval(), value)

    def affine(self, name: str, value: Value, gain: Tensor, shift: Tensor) -> Value:
        """Multiply each channel by `gain` and add `shift`: a batch norm that does nothing else.

        Args:
            name: of the module.
            value: what is changed.
            gain, shift: float32, of sizes that extend to those that the file sees.
        """
        value = self.taken(value)
        if 1 not in value.axes:
            raise RefusedError("changes images of one channel")
        channels = value.axes.index(1)
        weight, bias = (_of_channels(numbers, value.seen, channels) for numbers in (gain, shift))
        ones, zeros = torch.ones_like(weight), torch.zeros_like(weight)
        tensors: dict[str, Tensor | None] = {"weight": weight, "bias": bias, "running_mean": zeros, "running_var": ones}
        return self.norm(name, value, tensors, 0.0)

    def add(self, first: Value, second: Value) -> Value:
        """Add two values of one shape."""
        first, second = self.taken(first), self.taken(second)
        _require_alike([first, second])
        if first.sizes != second.sizes:
            raise RefusedError(f"adds {first.seen[1:]} and {second.seen[1:]}, allowed two equal shapes")
        node = self.graph.call_function(operator.add, (first.node, second.node))
        return Value(node, first.sizes, first.axes, first.order)

    def concatenated(self, values: Sequence[Value], axis: int) -> Value:
        """Join values along an axis that the file sees."""
        values = [self.taken(value) for value in values]
        first = values[0]
        axis %= len(first.axes)
        if len(first.sizes) > 2:
            _require_alike(values)
        own = first.axes[axis]
        sizes = self._run(lambda *tensors: torch.cat(tensors, own), *values)
        node = self.graph.call_function(torch.cat, ([value.node for value in values], own))
        return Value(node, sizes, first.axes, _joined_order(values))

    def reshaped(self, name: str, value: Value, sizes: Sizes) -> Value:
        """Flatten, or add and take away axes of length 1; any other reshaping is refused."""
        sizes = resolved(value, sizes, self.batch)
        if len(sizes) == 2 and len(value.sizes) != 2:
            return self.flat(name, value)
        found = reviewed(value, sizes)
        if found is None:
            raise RefusedError(f"reshapes a sample of {value.seen[1:]} to {sizes[1:]}")
        return found

    def flat(self, name: str, value: Value) -> Value:
        """Flatten every sample."""
        value = self.taken(value)
        order = flat_order(value)
        flat = self._call(name, nn.Flatten(), value) if len(value.sizes) > 2 else value
        return Value(flat.node, flat.sizes, (0, 1), order)

    def image_pool(self, name: str, value: Value, axes: Sequence[int], *, keeps: bool, maximum: bool = False) -> Value:
        """Average over the height and width that the file sees at `axes`, or take the maximum; `keeps` these axes."""
        value = self.taken(value)
        over = {value.axes[axis] for axis in axes}
        if len(value.sizes) != 4 or not {axis for axis in (2, 3) if value.sizes[axis] != 1} <= over <= {2, 3}:
            raise RefusedError(f"pools over axes {tuple(axes)}, allowed the height and width of images")
        pooled = self._call(name, nn.AdaptiveMaxPool2d(1) if maximum else nn.AdaptiveAvgPool2d(1), value)
        pooled = Value(pooled.node, pooled.sizes, value.axes)
        return pooled if keeps else self.flat(f"{name}_flat", pooled)

    def permuted(self, value: Value, permutation: Sequence[int]) -> Value:
        """Exchange axes: noted, not done."""
        rank = len(value.axes)
        return permuted(value, tuple(axis % rank for axis in permutation))

    # --- nodes ------------------------------------------------------------------------------------------------------
    def _call(self, name: str, module: nn.Module, value: Value) -> Value:
        sizes = self._run(lambda tensor: _on_meta(module, tensor), value)
        name = self._unused(name)
        self.root.add_module(name, module.eval())
        return Value(self.graph.call_module(name, (value.node,)), sizes, tuple(range(len(sizes))))

    def _run(self, function: Callable[..., Tensor], *values: Value) -> Sizes:
        """Return the sizes of what `function` gives; nothing is computed."""
        try:
            result = function(*(torch.empty(value.sizes, device="meta") for value in values))
        except (RuntimeError, ValueError, IndexError) as error:
            raise RefusedError(f"does not fit: {first_line(error)}") from error
        sizes = tuple(result.shape)
        require_size(sizes)
        return sizes

    def _unused(self, name: str) -> str:
        stem = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "layer"
        stem = f"_{stem}" if stem[0].isdecimal() else stem
        taken = {*self.root._modules, *dir(nn.Module)}
        return next(each for k in range(len(taken) + 1) if (each := f"{stem}_{k}" if k else stem) not in taken)


def require_size(sizes: Sizes) -> None:
    """Refuse an output that no memory should be asked for."""
    if min(sizes) < 1 or math.prod(sizes[1:]) > LARGEST_SAMPLE:
        raise RefusedError(f"gives {sizes[1:]} for each image, allowed 1 to {LARGEST_SAMPLE} numbers")


def _on_meta(module: nn.Module, tensor: Tensor) -> Tensor:
    tensors = {name: it.to("meta") for name, it in (*module.named_parameters(), *module.named_buffers())}
    result: Tensor = functional_call(module.eval(), tensors, (tensor,))
    return result


def assigned(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """Give a module its numbers, and return it."""
    for name, tensor in tensors.items():
        own = getattr(module, name)
        if tensor is not None and own.shape != tensor.shape:
            raise RefusedError(f"has {name} of {tuple(tensor.shape)}, allowed {tuple(own.shape)}")
        if name in module._buffers and tensor is not None:
            module._buffers[name] = tensor.clone()
        elif tensor is not None:
            module.register_parameter(name, nn.Parameter(tensor.clone()))
    return module


def _ordered(tensor: Tensor, order: Order | None, axis: int) -> Tensor:
    """Return numbers of features in the order of the tensor, from that of the file."""
    if order is None:
        return tensor
    return tensor.index_select(axis, torch.from_numpy(np.argsort(order)))


def _of_channels(numbers: Tensor, seen: Sizes, axis: int) -> Tensor:
    """Return one number for each channel, if `numbers` are the same for all that a channel holds."""
    sizes = [1] * (len(seen) - numbers.ndim) + list(numbers.shape)
    if len(sizes) > len(seen) or any(size != 1 for place, size in enumerate(sizes) if place != axis):
        raise RefusedError(f"takes constants of {tuple(numbers.shape)}, allowed one for each channel")
    if sizes[axis] not in (1, seen[axis]):
        raise RefusedError(f"takes {sizes[axis]} constants for {seen[axis]} channels")
    return numbers.reshape(-1).expand(seen[axis]).clone()


def _require_alike(values: Sequence[Value]) -> None:
    """Refuse values whose axes or features the file sees in different orders."""
    first = values[0]
    for value in values[1:]:
        same = first.order is value.order or np.array_equal(first.order, value.order)  # type: ignore[arg-type]
        if value.axes != first.axes or not same:
            raise RefusedError("takes values whose axes are in different orders")


def _joined_order(values: Sequence[Value]) -> Order | None:
    """Return the order of features that are joined."""
    if all(value.order is None for value in values):
        return None
    starts = np.cumsum([0, *(value.sizes[1] for value in values)])
    orders = (np.arange(value.sizes[1]) if value.order is None else value.order for value in values)
    joined: Order = np.concatenate([order + start for order, start in zip(orders, starts, strict=False)])
    return joined


def _likely_axes(value: Value) -> Sizes:
    """Return the order of images that no layer of torch reads: channels last where these are few, else as they are."""
    if len(value.sizes) != 4:
        return tuple(range(len(value.sizes)))
    first, *_, last = value.sizes[1:]
    return (0, 3, 1, 2) if last <= _MOST_COLOURS < first else (0, 1, 2, 3)
