"""Views and reductions of samples: what is the same numbers in the same order, and what a pooling can do instead.

People write the step from images to features in many ways: `x.view(x.size(0), -1)`, `x.mean(3).mean(2)`,
`x.squeeze(-1).squeeze(-1)`, `x[:, :, 0, 0]`. What each does is read from the shapes in a run, not from how it is
written.

In: nodes of a graph, and Facts of them. Out: nodes, windows.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx, nn

from nctool.conversion.trace.facts import Facts
from nctool.conversion.trace.in_place import name_of
from nctool.ir.geometry import Pair, Shape

_VIEWS = ("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "contiguous")
_VIEW_MODULES = (nn.Flatten, nn.Unflatten)


class Views:
    """Which node a view is of: it gives the same numbers in the same order, sample by sample.

    Args:
        model: owner of the modules.
        facts: of the graph.
    """

    def __init__(self, model: nn.Module, facts: Facts) -> None:
        self._model, self._facts = model, facts
        self._roots: dict[fx.Node, fx.Node] = {}

    def root(self, node: fx.Node) -> fx.Node:
        """Return the node that `node` is a view of, or itself."""
        return self._roots.get(node, node)

    def note(self, node: fx.Node, root: fx.Node) -> None:
        """Take in that `node` is a view of `root`."""
        self._roots[node] = self.root(root)

    def is_view(self, node: fx.Node) -> bool:
        """Return whether a node gives the numbers of its first argument in their order."""
        if not self._may_be_view(node):
            return False
        before, after = (self._facts.shape(at) for at in (node.all_input_nodes[0], node))
        return before is not None and after is not None and math.prod(before) == math.prod(after)

    def _may_be_view(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return type(self._model.get_submodule(str(node.target))) in _VIEW_MODULES
        if node.target is operator.getitem:
            index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
            return all(part is None or part is Ellipsis or isinstance(part, int | slice) for part in index)
        is_known = node.op in ("call_function", "call_method") and name_of(node) in _VIEWS
        return is_known and not any(isinstance(part, torch.dtype) for part in (*node.args, *node.kwargs.values()))


def reduced_axes(node: fx.Node, n_axes: int) -> tuple[int, ...] | None:
    """Return the axes that a mean, a sum or a maximum is taken over, counted from 0; None where that is not known."""
    known = {"dim", "axis", "keepdim"}
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", ()))
    axes = (axes,) if isinstance(axes, int) else axes
    if not isinstance(axes, list | tuple) or not axes or not all(isinstance(axis, int) for axis in axes):
        return None
    return tuple(axis % n_axes for axis in axes) if set(node.kwargs) <= known else None


def window(image: Shape, view: Shape, axes: tuple[int, ...]) -> Pair | None:
    """Return the window of an image, (height, width), that a reduction of a view of it is taken over.

    Args:
        image: shape of a sample, (channels, height, width).
        view: shape of a sample of the view.
        axes: that are reduced, those of the view behind the axis of the batch.
    """
    wanted = _spans(view, [axis - 1 for axis in axes])
    for inside in ((1, 2), (2,), (1,)):
        if min(axes) > 0 and _spans(image, inside) == wanted:
            return (image[1] if 1 in inside else 1, image[2] if 2 in inside else 1)
    return None


def _spans(shape: Shape, axes: Any) -> list[tuple[int, int]]:
    """Return size and stride of what some axes run over, axes that lie behind each other as one."""
    spans: list[tuple[int, int]] = []
    for axis in sorted(axes):
        size, stride = shape[axis], math.prod(shape[axis + 1 :])
        if spans and spans[-1][1] == size * stride:
            spans[-1] = (spans[-1][0] * size, stride)
        elif size > 1:
            spans.append((size, stride))
    return spans
