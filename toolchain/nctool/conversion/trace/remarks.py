"""What a caller of `prepare` is warned of: the network that it gets trains in another way than the one that it gave.

In: a module and what was read from it. Out: warnings of the category NctoolWarning.
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from torch import fx, nn

from nctool.activation.thresholds import fresh_norms
from nctool.conversion.trace.aliases import name_of
from nctool.conversion.trace.evaluation import restored
from nctool.conversion.trace.reading import WITHOUT_GRADIENTS, trace_calls
from nctool.conversion.trace.rewriting import DROPOUTS
from nctool.errors import NctoolWarning, UnsupportedError

_PACKAGE = str(Path(__file__).parents[2])


class Call(NamedTuple):
    """What a forward method calls: the name of its result, what is called, and with what."""

    name: str
    target: Any
    given: Any


def warn_of_training(model: nn.Module, graph: fx.Graph) -> None:
    """Warn where the forward method does something else in training than `graph`, that of evaluation mode."""
    frozen = [node.name for node in graph.nodes if node.meta.get(WITHOUT_GRADIENTS)]
    if frozen:
        _warn(
            f"model `{type(model).__name__}`: calls `{frozen[0]}` in torch.no_grad(), the prepared network trains it: "
            "freeze what shall not be trained with requires_grad_(False)"
        )
    difference = _in_training(model, graph)
    if difference:
        _warn(
            f"model `{type(model).__name__}`: in training its forward method {difference}; the network of evaluation "
            "mode is prepared"
        )


def warn_of_fresh_norms(model: nn.Module) -> None:
    """Warn where thresholds were measured on other statistics than those that the norms hold."""
    norms = list(fresh_norms(model))
    if norms:
        more = f" and {len(norms) - 1} more" if norms[1:] else ""
        _warn(
            f"batch norm `{norms[0]}`{more}: no data seen, so thresholds were measured with the statistics of the "
            "images; if the network is pretrained, load its weights first"
        )


def _warn(text: str) -> None:
    """Warn at the line that called nctool, whatever lies between."""
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_stack(inspect.currentframe()))
    inside = sum(1 for _ in takewhile(lambda file: file.startswith(_PACKAGE), files))
    warnings.warn(text, NctoolWarning, stacklevel=inside + 1)


def _in_training(model: nn.Module, graph: fx.Graph) -> str:
    """Return what is other in training mode, or nothing."""
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
    """Say how two lists of calls differ, of which the first ones do."""
    if there and there[0].target not in {call.target for call in here}:
        return f"does not call `{there[0].name}`"
    if here and here[0].target not in {call.target for call in there}:
        return f"calls `{here[0].name}`"
    return f"calls `{(here or there)[0].name}` otherwise"


def _calls(graph: fx.Graph) -> list[Call]:
    """Return every call but those for a size; dropout follows the mode, so only its input counts."""
    numbers = {node: f"%{number}" for number, node in enumerate(graph.nodes)}
    found = []
    for node in graph.nodes:
        if name_of(node) in ("getattr", "getitem", "size"):
            continue
        given = (node.args[:1], {}) if node.target in DROPOUTS else (node.args, node.kwargs)
        found.append(Call(node.name, node.target, fx.node.map_arg(given, numbers.__getitem__)))
    return found
