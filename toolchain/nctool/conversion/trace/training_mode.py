"""Compare what a forward method does in training with what it does in evaluation mode, which is what converts.

In: a torch module, and the graph of evaluation mode. Out: a text for each difference.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, NamedTuple

from torch import fx, nn

from nctool.conversion.trace.forward_graph import WITHOUT_GRADIENTS, trace_calls
from nctool.conversion.trace.functions import DROPOUTS, is_function
from nctool.conversion.trace.in_place import name_of
from nctool.conversion.trace.restoring import restored
from nctool.errors import UnsupportedError


class Call(NamedTuple):
    """What a forward method calls: the name of its result, what is called, and with what."""

    name: str
    target: Any
    arguments: Any


def differences_in_training(model: nn.Module, graph: fx.Graph) -> tuple[str, ...]:
    """Say what the forward method does in training that is not in `graph`, that of evaluation mode."""
    texts = []
    frozen = [node.name for node in graph.nodes if node.meta.get(WITHOUT_GRADIENTS)]
    if frozen:
        texts.append(
            f"model `{type(model).__name__}`: calls `{frozen[0]}` in torch.no_grad(), the prepared network trains it: "
            "freeze what shall not be trained with requires_grad_(False)"
        )
    difference = _in_training(model, graph)
    if difference:
        texts.append(
            f"model `{type(model).__name__}`: in training its forward method {difference}; the network of evaluation "
            "mode is prepared"
        )
    return tuple(texts)


def _in_training(model: nn.Module, graph: fx.Graph) -> str:
    """Return how the forward method differs in training mode, or an empty text."""
    with restored(model) as before:
        model.train()
        try:
            trained = trace_calls(model)
        except UnsupportedError as error:
            return f"is another ({error.message})"
        if before.drew():
            return "draws random numbers"
    here, there = _calls(trained), _calls(graph)
    first = next((k for k, pair in enumerate(zip_longest(here, there)) if pair[0] != pair[1]), None)
    return "" if first is None else _difference(here[first:], there[first:])


def _difference(here: list[Call], there: list[Call]) -> str:
    """Say how two lists of calls differ, which do so in their first calls."""
    if there and there[0].target not in {call.target for call in here}:
        return f"does not call `{there[0].name}`"
    if here and here[0].target not in {call.target for call in there}:
        return f"calls `{here[0].name}`"
    return f"calls `{(here or there)[0].name}` otherwise"


def _calls(graph: fx.Graph) -> list[Call]:
    """Return every call but those for a size; dropout follows the mode, so only its input counts."""
    numbers = {node: f"%{number}" for number, node in enumerate(graph.nodes)}
    calls = []
    for node in graph.nodes:
        if name_of(node) in ("getattr", "getitem", "size"):
            continue
        arguments = (node.args[:1], {}) if is_function(node, DROPOUTS) else (node.args, node.kwargs)
        calls.append(Call(node.name, node.target, fx.node.map_arg(arguments, numbers.__getitem__)))
    return calls
