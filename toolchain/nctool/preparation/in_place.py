"""Take changes in place out of a graph: what reads a tensor after it was changed reads what changed it.

torch.fx records `y.add_(x)` as a call whose result need not be read: the change would be lost with the dead code.

In: a torch.fx graph and the modules that it calls. Out: the same graph, in which no node relies on such a change.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx, nn

from nctool.conversion.tracing import ALIASES
from nctool.conversion.values import unsupported

_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    "add_": operator.add,
}
"""What changes its first argument, and what does not but gives the same."""

_INPLACE_POSITIONS = {"relu": 1, "relu6": 1, "dropout": 3, "dropout2d": 3}
"""Where the argument `inplace` of a function stands."""

_RESHAPES = ("view", "view_as", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")
_VIEWS = (*_RESHAPES, "transpose", "permute", "getitem")
"""Functions and methods whose result may lie in the memory of their argument."""

_SIZES = ("size", "getattr", "dim")
"""What reads no values of a tensor."""


def take_out_changes(graph: fx.Graph, model: nn.Module) -> None:
    """Let every reader of a tensor that was changed in place read the node that changed it; `graph` is changed.

    Raises:
        UnsupportedError: a tensor is changed of which a view is read later, or the other way round.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        changed = _changed(node, model)
        if changed is None:
            continue
        _refuse_views(node, changed, model, order)
        for reader in [user for user in changed.users if order[user] > order[node]]:
            reader.replace_input_with(changed, node)
        _make_plain(node)


def _changed(node: fx.Node, model: nn.Module) -> fx.Node | None:
    """Return the tensor that a node changes, or None."""
    inputs: list[fx.Node] = node.all_input_nodes
    written = [each for each in inputs if each is node.kwargs.get("out")]
    if written:
        return written[0]
    if node.op == "call_module":
        in_place = bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    else:
        in_place = node.op in ("call_function", "call_method") and _is_in_place(node)
    return inputs[0] if in_place and inputs else None


def _is_in_place(node: fx.Node) -> bool:
    name = _name(node)
    position = _INPLACE_POSITIONS.get(name)
    given: Any = node.kwargs.get("inplace", False)
    if position is not None and len(node.args) > position:
        given = node.args[position]
    return node.target in _OPERATORS or bool(given) or (name.endswith("_") and not name.endswith("__"))


def _make_plain(node: fx.Node) -> None:
    """Let a node give what it gave without changing anything; activations and dropout become modules elsewhere."""
    node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
    if node.target in _OPERATORS and not node.kwargs and len(node.args) == 2:
        node.op, node.target = "call_function", _OPERATORS[node.target]


def _refuse_views(node: fx.Node, changed: fx.Node, model: nn.Module, order: dict[fx.Node, int]) -> None:
    """Refuse a change that a later node sees without having the changed tensor as an argument."""
    sources = changed.all_input_nodes[:1] if _is_view(changed, model) else []
    views = [user for user in changed.users if _is_view(user, model) and order[user] < order[node]]
    readers = (user for shared in (*sources, *views) for user in shared.users if _name(user) not in _SIZES)
    if any(order[user] > order[node] for user in readers):
        raise unsupported(f"function `{node.name}` (in place, of a tensor with views)", "write y = y + x instead")


def _is_view(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), ALIASES)
    return _name(node) in _VIEWS


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
