"""Take changes in place out of a graph: a node that reads a changed tensor reads the node that changed it.

torch.fx records `y.add_(x)` as a call whose result need not be read: the change would be lost with the dead code. A
graph says which nodes read a result, not whose memory it lies in: a result counts as a view of its inputs unless it is
known to have memory of its own.

In: a torch.fx graph and the modules that it calls. Out: the same graph, in which no node relies on such a change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from torch import fx, nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion.trace.hints import unsupported
from nctool.conversion.trace.obstacles import Obstacles

IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
}
"""What changes its first argument, and what does not but gives the same."""

_INPLACE_POSITIONS = {"relu": 1, "relu6": 1, "dropout": 3, "dropout2d": 3}
"""Where the argument `inplace` of a function stands."""

_NEW_MODULES = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    NoisyQuantReLU,
)
_ARITHMETIC = ("add", "sub", "mul", "truediv", "neg", "cat", "concat", "concatenate", "mean", "sum", "relu", "relu6")
_POOLINGS = ("max_pool2d", "adaptive_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
_NEW_FUNCTIONS = (*_ARITHMETIC, *_POOLINGS, "conv2d", "linear", "batch_norm")
"""What gives a tensor of its own, unless it is in place."""

_SIZES = ("shape", "ndim", "dtype", "device")


def changed_by(node: fx.Node, model: nn.Module) -> fx.Node | None:
    """Return the tensor that a node changes in place, or None."""
    inputs: list[fx.Node] = node.all_input_nodes
    written = [tensor for tensor in inputs if tensor is node.kwargs.get("out")]
    if written:
        return written[0]
    if node.op == "call_module":
        in_place = bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    else:
        in_place = node.op in ("call_function", "call_method") and _is_in_place(node)
    return inputs[0] if in_place and inputs else None


def aliases(changed: fx.Node, node: fx.Node, model: nn.Module) -> list[fx.Node]:
    """Return what may lie in the memory of `changed` when `node` changes it; `changed` is the first."""
    before = set(takewhile(lambda earlier: earlier is not node, node.graph.nodes))
    known = [changed]
    for alias in known:
        sources = alias.all_input_nodes if _may_share(alias, model) else []
        near = (*sources, *(user for user in alias.users if _may_share(user, model)))
        known += [node for node in dict.fromkeys(near) if node in before and node not in known]
    return known


def later_readers(read: fx.Node, node: fx.Node) -> list[fx.Node]:
    """Return the nodes behind `node` that read the values of `read`."""
    until = set(takewhile(lambda earlier: earlier is not node, node.graph.nodes)) | {node}
    return [user for user in read.users if user not in until and not _reads_size(user)]


def name_of(node: fx.Node) -> str:
    """Return what a function, method or module is called."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _is_in_place(node: fx.Node) -> bool:
    name = name_of(node)
    position = _INPLACE_POSITIONS.get(name)
    in_place: Any = node.kwargs.get("inplace", False)
    if position is not None and len(node.args) > position:
        in_place = node.args[position]
    return node.target in IN_PLACE_OPERATORS or bool(in_place) or (name.endswith("_") and not name.endswith("__"))


def _may_share(node: fx.Node, model: nn.Module) -> bool:
    """Return whether a result may lie in the memory of an argument."""
    if changed_by(node, model) is not None:
        return True
    if node.op == "call_module":
        return not isinstance(model.get_submodule(str(node.target)), _NEW_MODULES)
    return node.op in ("call_function", "call_method") and not _reads_size(node) and name_of(node) not in _NEW_FUNCTIONS


def _reads_size(node: fx.Node) -> bool:
    return name_of(node) in ("size", "dim", "numel") or (name_of(node) == "getattr" and node.args[1] in _SIZES)


_PLAIN: dict[Any, Callable[[Any, Any], Any]] = {**IN_PLACE_OPERATORS, "add_": operator.add}


def take_out_changes(graph: fx.Graph, model: nn.Module, obstacles: Obstacles) -> None:
    """Let every reader of a tensor that was changed in place read the node that changed it; `graph` is changed.

    Args:
        graph: of `model`.
        model: owner of the modules.
        obstacles: takes in tensors that are changed and that later nodes may read under another name.
    """
    for node in graph.nodes:
        changed = changed_by(node, model)
        if changed is None:
            continue
        with obstacles.noted(node):
            _require_no_other_names(changed, node, model)
            for reader in later_readers(changed, node):
                reader.replace_input_with(changed, node)
            _make_plain(node)


def _require_no_other_names(changed: fx.Node, node: fx.Node, model: nn.Module) -> None:
    if any(later_readers(alias, node) for alias in aliases(changed, node, model)[1:]):
        raise unsupported(
            f"function `{node.name}` (in place, of a tensor with views)",
            "use what changes nothing: y = y + x instead of y += x, relu instead of relu_",
        )


def _make_plain(node: fx.Node) -> None:
    """Let a node give what it gave without changing anything; activations and dropout become modules elsewhere."""
    node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    if node.target in _PLAIN and not node.kwargs and len(node.args) == 2:
        node.op, node.target = "call_function", _PLAIN[node.target]
