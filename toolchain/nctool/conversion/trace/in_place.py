"""Take changes in place out of a graph: what reads a tensor after it was changed reads what changed it.

torch.fx records `y.add_(x)` as a call whose result need not be read: the change would be lost with the dead code.

In: a torch.fx graph and the modules that it calls. Out: the same graph, in which no node relies on such a change.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from nctool.conversion.trace.aliases import IN_PLACE_OPERATORS, aliases, changed_by, later_readers
from nctool.conversion.trace.values import unsupported

_PLAIN: dict[Any, Callable[[Any, Any], Any]] = {**IN_PLACE_OPERATORS, "add_": operator.add}


def take_out_changes(graph: fx.Graph, model: nn.Module) -> None:
    """Let every reader of a tensor that was changed in place read the node that changed it; `graph` is changed.

    Raises:
        UnsupportedError: a tensor is changed that later nodes may read under another name.
    """
    for node in graph.nodes:
        changed = changed_by(node, model)
        if changed is None:
            continue
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
