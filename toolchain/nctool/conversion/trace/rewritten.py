"""A rewritten network: what became of its activations and poolings, and what is put in their places.

In: a network whose activations and poolings are modules of their own. Out: the same with other modules, or an
UnsupportedError where an average has another shape than the maximum that it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion.trace.facts import Facts
from nctool.conversion.trace.maxima import MaximumPooling
from nctool.conversion.trace.obstacles import Obstacles
from nctool.conversion.trace.shapes import pair
from nctool.errors import UnsupportedError

Pooling = Literal["maximum", "average"]
"""What becomes of maximum pooling: it stays, or is the average over windows as large as its stride."""


@dataclass(frozen=True)
class Replacement:
    """What a part of a network became.

    Args:
        where: its name in the network, or that which torch.fx gives to the result of a function.
        before: class of a module, name of a function.
        after: class of the module in its place; empty where it was left out.
    """

    where: str
    before: str
    after: str


@dataclass(frozen=True)
class Rewritten:
    """A network in which every activation and pooling is a module of its own.

    Args:
        module: shares its parameters with the original.
        activations: names of its ReLUs.
        maxima: the maximum pooling that each average pooling replaces, by name.
        bounds: what an activation lets through at most, by name, of those that have such a bound.
        dropped: the softmax that stood behind the logits, if any.
        replacements: what was changed, in order.
    """

    module: fx.GraphModule
    activations: tuple[str, ...]
    maxima: dict[str, MaximumPooling]
    bounds: dict[str, float] = field(default_factory=dict)
    dropped: nn.Module | None = None
    replacements: tuple[Replacement, ...] = ()

    @property
    def whole(self) -> nn.Module:
        """Return what gives the answers of the original: the network, and the softmax behind its logits."""
        return self.module if self.dropped is None else nn.Sequential(self.module, self.dropped)


Activation = Callable[[float], NoisyQuantReLU]


def replace_activations(module: fx.GraphModule, thresholds: dict[str, float], make: Activation) -> None:
    """Put what `make` returns for the threshold of an activation in its place."""
    set_modules(module, {name: make(threshold) for name, threshold in thresholds.items()})


@contextmanager
def maxima_in_place(rewritten: Rewritten) -> Iterator[None]:
    """Let the network compute the maxima that its averages replace: then it gives what it was rewritten from gives."""
    averages = {name: rewritten.module.get_submodule(name) for name in rewritten.maxima}
    try:
        set_modules(rewritten.module, rewritten.maxima)
        yield
    finally:
        set_modules(rewritten.module, averages)


def set_modules(module: nn.Module, named: Mapping[str, nn.Module]) -> None:
    """Put modules at names that are there."""
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


def note_shapes(rewritten: Rewritten, facts: Facts, obstacles: Obstacles) -> None:
    """Note each average pooling that gives another shape than the maximum that it replaces."""
    for node in rewritten.module.graph.nodes:
        shape = facts.shape(node.all_input_nodes[0]) if node.target in rewritten.maxima else None
        if shape is not None:
            name, images = str(node.target), torch.empty((1, *shape), device="meta")
            average = rewritten.module.get_submodule(name)
            with obstacles.noted(node):
                _compare(name, rewritten.maxima[name], average, (images,), average(images))


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
