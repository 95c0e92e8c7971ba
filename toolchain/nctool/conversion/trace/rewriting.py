"""Rewrite the graph of a torch module so that every activation and pooling is a module of its own.

An activation becomes an `nn.ReLU` for each of its uses, and functions become the modules that convert. Maximum pooling
stays, or becomes average pooling if that is wanted. What is not known here stays as it is: the conversion refuses it by
name.

In: a torch module. Out: an fx.GraphModule with the same parameters, the names of its activations, and the poolings
that were replaced.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion.trace.hints import unsupported
from nctool.conversion.trace.in_place import take_out_changes
from nctool.conversion.trace.maxima import MAXIMA, NO_PLACES, MaximumPooling
from nctool.conversion.trace.modules import pair
from nctool.errors import UnsupportedError

RELU_MODULES = (nn.ReLU, nn.ReLU6)
RELU_FUNCTIONS = (functional.relu, functional.relu_, functional.relu6, torch.relu, torch.relu_)
RELU_METHODS = ("relu", "relu_")
DROPOUTS = {functional.dropout: nn.Dropout, functional.dropout2d: nn.Dropout2d}
POOLINGS = (
    functional.max_pool2d,
    torch.max_pool2d,
    functional.adaptive_max_pool2d,
    functional.avg_pool2d,
    functional.adaptive_avg_pool2d,
)
VIEWS = ("view", "reshape")

Pooling = Literal["maximum", "average"]
"""What becomes of maximum pooling: it stays, or is the average over windows as large as its stride."""


@dataclass(frozen=True)
class Rewritten:
    """A network in which every activation and pooling is a module of its own.

    Args:
        module: shares its parameters with the original.
        activations: names of its ReLUs, some of which clip at 6.
        maxima: the maximum pooling that each average pooling replaces, by name.
    """

    module: fx.GraphModule
    activations: tuple[str, ...]
    maxima: dict[str, MaximumPooling]


def rewrite(model: nn.Module, graph: fx.Graph, pooling: Pooling = "maximum") -> Rewritten:
    """Return the rewritten model.

    Args:
        model: owner of the modules.
        graph: what was read from it; changed in place.
        pooling: what becomes of maximum pooling.

    Raises:
        UnsupportedError: the forward method changes a tensor behind the back of its readers.
    """
    return _Rewriter(model, graph, pooling).run()


class _Rewriter:
    """Replace one node after the other.

    Args:
        model: owner of the modules.
        graph: its forward method; changed in place.
        pooling: what becomes of maximum pooling.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, pooling: Pooling) -> None:
        self.graph, self.pooling = graph, pooling
        self.module = fx.GraphModule(model, graph, type(model).__name__)
        self.activations: list[str] = []
        self.pooled: list[fx.Node] = []
        self.maxima: dict[str, MaximumPooling] = {}
        self._put_names: set[str] = set()

    def run(self) -> Rewritten:
        take_out_changes(self.graph, self.module)
        for node in list(self.graph.nodes):
            if node.op == "call_module":
                self._rewrite_module(node)
            elif node.op in ("call_function", "call_method"):
                self._rewrite_function(node)
        self._activate_before_pooling()
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        self.module.delete_all_unused_submodules()
        called = {str(node.target) for node in self.graph.nodes if node.op == "call_module"}
        activations = tuple(name for name in self.activations if name in called)
        maxima = {name: pool for name, pool in self.maxima.items() if name in called}
        return Rewritten(self.module, activations, maxima)

    def _rewrite_module(self, node: fx.Node) -> None:
        name = str(node.target)
        module = self.module.get_submodule(name)
        if type(module) in RELU_MODULES:
            self._activate(node, self._unused(name, instead=name), type(module) is nn.ReLU6)
        elif type(module) in MAXIMA:
            self._maximum(node, self._unused(name, instead=name), module)
        elif type(module) in DROPOUTS.values() and module.inplace:
            self._put(node, name, type(module)(module.p))

    def _rewrite_function(self, node: fx.Node) -> None:
        if node.target in (*RELU_FUNCTIONS, *RELU_METHODS):
            self._activate(node, self._unused(node.name), node.target is functional.relu6)
        elif node.target in (*POOLINGS, *DROPOUTS) and len(node.all_input_nodes) > 1:
            raise _varying(node)
        elif node.target is functional.max_pool2d or node.target is torch.max_pool2d:
            self._maximum(node, self._unused(node.name), _max_pool(node))
        elif node.target is functional.adaptive_max_pool2d:
            self._maximum(node, self._unused(node.name), nn.AdaptiveMaxPool2d(_argument(node, 1, "output_size", None)))
        elif node.target is functional.avg_pool2d:
            self._put(node, self._unused(node.name), _pool(node))
        elif node.target is functional.adaptive_avg_pool2d:
            self._put(node, self._unused(node.name), nn.AdaptiveAvgPool2d(_argument(node, 1, "output_size", None)))
        elif node.target in DROPOUTS:
            self._put(node, self._unused(node.name), DROPOUTS[node.target](_argument(node, 1, "p", 0.5)))
        elif _is_image_mean(node):
            self._mean(node)
        elif node.target in VIEWS and _keeps_batch(node):
            self._put(node, self._unused(node.name), nn.Flatten())

    def _activate(self, node: fx.Node, name: str, is_clipped: bool) -> None:
        """Put a ReLU, or one that clips at 6: then its threshold from data is 6 at most."""
        self._put(node, name, nn.ReLU6() if is_clipped else nn.ReLU())
        self.activations.append(name)

    def _maximum(self, node: fx.Node, name: str, pool: MaximumPooling) -> None:
        """Put the pooling, or the average that replaces it; `same_shapes` sees whether its windows are as many."""
        if pool.return_indices:
            raise unsupported(f"module `{name}` ({type(pool).__name__} with return_indices=True)", NO_PLACES)
        self.pooled.append(node)
        if self.pooling == "maximum":
            self._put(node, name, pool)
            return
        is_adaptive = isinstance(pool, nn.AdaptiveMaxPool2d)
        self._put(
            node, name, nn.AdaptiveAvgPool2d(pool.output_size) if is_adaptive else nn.AvgPool2d(pair(pool.stride))
        )
        self.maxima[name] = pool

    def _activate_before_pooling(self) -> None:
        """Let an activation that follows maximum pooling come before it, where there are spikes to pool.

        The maximum of what an activation lets through is what it lets through of the maximum.
        """
        for node in reversed(self.pooled):
            after = next(iter(node.users)) if len(node.users) == 1 else node
            if after.target in self.activations:
                node.target, after.target = after.target, node.target

    def _put(self, node: fx.Node, name: str, module: nn.Module) -> None:
        """Let `node` call `module`, which gets `name`, with the tensor that it had."""
        self.module.add_submodule(name, module)
        self._put_names.add(name)
        node.op, node.target = "call_module", name
        node.args, node.kwargs = (node.all_input_nodes[0],), {}

    def _mean(self, node: fx.Node) -> None:
        """Average over the whole image: a pooling, flattened unless the axes are kept."""
        keeps = bool(_argument(node, 2, "keepdim", False))
        self._put(node, self._unused(node.name), nn.AdaptiveAvgPool2d(1))
        if keeps:
            return
        name = self._unused(f"{node.name}_flat")
        self.module.add_submodule(name, nn.Flatten())
        self._put_names.add(name)
        with self.graph.inserting_after(node):
            flat = self.graph.call_module(name, (node,))
        node.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)

    def _unused(self, name: str, instead: str | None = None) -> str:
        """Return `name`, or with a number where a module of this name is there already: each use has its own.

        Args:
            instead: name of the module that is replaced, which is free the first time.
        """
        while name in self._put_names or (name != instead and _has(self.module, name)):
            stem, _, number = name.rpartition("_")
            name = f"{stem}_{int(number) + 1}" if stem and number.isdecimal() else f"{name}_2"
        return name


def _varying(node: fx.Node) -> UnsupportedError:
    """Say that a pooling, or a dropout, takes its windows or its rate from the image."""
    what, instead = "rates", "nn.Dropout(p)"
    if node.target in POOLINGS:
        what, instead = "windows", f"nn.Adaptive{'Max' if 'max' in node.name else 'Avg'}Pool2d(1)"
    return unsupported(f"function `{node.name}` (of {what} that depend on the image)", f"use {instead}")


def _has(module: nn.Module, name: str) -> bool:
    return any(taken == name for taken, _ in module.named_modules())


def _max_pool(node: fx.Node) -> nn.MaxPool2d:
    names = (("kernel_size", None), ("stride", None), ("padding", 0), ("dilation", 1), ("ceil_mode", False))
    options = {
        name: _argument(node, position, name, default) for position, (name, default) in enumerate(names, start=1)
    }
    return nn.MaxPool2d(**options)


def _pool(node: fx.Node) -> nn.AvgPool2d:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    defaults = (None, None, 0, False, True, None)
    options = (_argument(node, k, name, defaults[k - 1]) for k, name in enumerate(names, start=1))
    return nn.AvgPool2d(*options)


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _is_image_mean(node: fx.Node) -> bool:
    if node.target is not torch.mean and node.target != "mean":
        return False
    axes = _argument(node, 1, "dim", ())
    if not isinstance(axes, (list, tuple)) or not all(isinstance(axis, int) for axis in axes):
        return False
    return sorted(axis % 4 for axis in axes) == [2, 3]


def _keeps_batch(node: fx.Node) -> bool:
    """Return True for x.view(x.size(0), -1), x.view(-1, 320) and their kin: what flattens each sample.

    With a number of features that is not that of a sample, the linear layer behind it does not fit.
    """
    shape: list[Any] = list(node.args[1:])
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = list(shape[0])
    size, rest = shape if len(shape) == 2 else (None, None)
    if size == -1:
        return isinstance(rest, int) and rest > 0
    return isinstance(size, fx.Node) and _is_batch_size(size) and isinstance(rest, int)


def _is_batch_size(size: fx.Node) -> bool:
    """Return True for x.size(0), x.size()[0] and x.shape[0]: no layer changes the number of samples."""
    if size.target == "size":
        return bool(size.args[1:] == (0,))
    if size.target is not operator.getitem or size.args[1] != 0:
        return False
    shape = size.args[0]
    return isinstance(shape, fx.Node) and (shape.target == "size" or shape.args[1:] == ("shape",))


Activation = Callable[[float], NoisyQuantReLU]


def replace_activations(module: fx.GraphModule, thresholds: dict[str, float], make: Activation) -> None:
    """Put what `make` returns for the threshold of an activation in its place."""
    _set_modules(module, {name: make(threshold) for name, threshold in thresholds.items()})


@contextmanager
def maxima_in_place(rewritten: Rewritten) -> Iterator[None]:
    """Let the network compute the maxima that its averages replace: then it gives what it was rewritten from gives."""
    averages = {name: rewritten.module.get_submodule(name) for name in rewritten.maxima}
    try:
        _set_modules(rewritten.module, rewritten.maxima)
        yield
    finally:
        _set_modules(rewritten.module, averages)


def _set_modules(module: nn.Module, named: Mapping[str, nn.Module]) -> None:
    for name, replacement in named.items():
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, replacement)


@contextmanager
def same_shapes(module: nn.Module, maxima: Mapping[str, MaximumPooling]) -> Iterator[None]:
    """Compare, whenever `module` runs inside, each average pooling with the maximum that it replaces, by name.

    Raises:
        UnsupportedError: on the images at hand they have different shapes.
    """
    handles = [
        module.get_submodule(name).register_forward_hook(partial(_compare, name, maximum))
        for name, maximum in maxima.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compare(name: str, maximum: MaximumPooling, _: nn.Module, arguments: tuple[Any, ...], average: Tensor) -> None:
    maxima = maximum(arguments[0])
    if maxima.shape != average.shape:
        kernel, stride, padding = (pair(getattr(maximum, key)) for key in ("kernel_size", "stride", "padding"))
        raise UnsupportedError(
            f"pooling `{name}` (kernel {kernel}, stride {stride}, padding {padding}) of {_size(arguments[0])} gives "
            f"{_size(maxima)}, but the average over its stride {_size(average)}",
            hint='keep the maximum: pooling="maximum", or use windows as large as the stride, without padding',
        )


def _size(image: Tensor) -> str:
    return "x".join(map(str, image.shape[-2:]))
