"""Examine a network before anything is trained: what keeps it from being converted, and what would be changed.

In: a torch module and some of its input. Out: its rewriting and the populations that it would become, or obstacles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from nctool.activation.rectifier import Rectifier
from nctool.activation.thresholds import unfit_images
from nctool.conversion.float_network import FloatNetwork
from nctool.conversion.folding import fold_pooling
from nctool.conversion.trace.compare_runs import like, require_same_answers, require_same_calls
from nctool.conversion.trace.facts import run_facts
from nctool.conversion.trace.forward_graph import read_graph, require_type
from nctool.conversion.trace.hints import HINTS, WRAPPED, unsupported
from nctool.conversion.trace.modules import HANDLERS
from nctool.conversion.trace.obstacles import Obstacles
from nctool.conversion.trace.rewriting import rewrite
from nctool.conversion.trace.rewritten import (
    Pooling,
    Rewritten,
    maxima_in_place,
    note_shapes,
    set_modules,
)
from nctool.conversion.trace.tracing import trace_graph
from nctool.conversion.trace.training_mode import differences_in_training
from nctool.errors import UsageError

_REWRITTEN = ("ReLU", "ReLU6", "Hardtanh", "MaxPool1d", "Softmax", "LogSoftmax", *WRAPPED)
"""Modules that convert in some places, once they are rewritten."""


@dataclass(frozen=True)
class Examined:
    """A network that was rewritten and read, its thresholds still to be chosen.

    Args:
        rewritten: what `prepare` makes of it.
        network: the populations; where there are obstacles, with stand-ins.
        remarks: what is left out, or is otherwise in training.
    """

    rewritten: Rewritten
    network: FloatNetwork
    remarks: tuple[str, ...]


def examine(model: nn.Module, images: Tensor, obstacles: Obstacles, pooling: Pooling = "maximum") -> Examined | None:
    """Read, rewrite and trace a network.

    Args:
        model: left as it is.
        images: float (N, ...) of its input.
        obstacles: takes in all that keeps it from being converted.
        pooling: what becomes of maximum pooling.

    Returns:
        None where the forward method cannot be followed, or the network computes something else than it says.

    Raises:
        UsageError: the network is in a wrapper, or the images do not fit it.
    """
    graph = read_graph(model, obstacles)
    if not len(graph.nodes):
        _note_kinds(model, obstacles)
        return None
    with obstacles.noted():
        require_type(model, (torch.float32,))
    if not obstacles:
        with obstacles.noted():
            _require_fit(model, graph, images)
        if obstacles:
            return None
    otherwise = differences_in_training(model, graph)
    facts = run_facts(model, graph, like(model, images[:1]))
    rewritten = rewrite(model, graph, facts, obstacles, pooling)
    note_shapes(rewritten, facts, obstacles)
    with _activated(rewritten):
        network = trace_graph(rewritten.module, graph, tuple(images.shape[1:]), obstacles, facts)
    for synapse in (synapse for population in network.populations for synapse in population.synapses):
        with obstacles.noted():
            fold_pooling(synapse)
    if not obstacles:
        with obstacles.noted(), maxima_in_place(rewritten):
            require_same_answers(model, rewritten.whole, images)
    return Examined(rewritten, network, (*otherwise, *_left_out(model, rewritten)))


def _left_out(model: nn.Module, rewritten: Rewritten) -> tuple[str, ...]:
    """Say that a softmax is left out."""
    if rewritten.dropped is None:
        return ()
    kind = type(rewritten.dropped).__name__
    return (
        f"model `{type(model).__name__}`: the {kind} behind the logits is left out: it keeps their order; train with "
        "functional.cross_entropy, which takes logits",
    )


def _require_fit(model: nn.Module, graph: fx.Graph, images: Tensor) -> None:
    """Compare `graph` with the model on some of the images; where they do not fit, tell the shape of all."""
    try:
        require_same_calls(model, graph, images)
    except UsageError as error:
        said = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise unfit_images(images, said, channels=_first_channels(model, graph)) from said


def _first_channels(model: nn.Module, graph: fx.Graph) -> int | None:
    """Return the channels of the input, where a convolution is the first that reads it."""
    _, first, *_ = graph.nodes
    layer = model.get_submodule(str(first.target)) if first.op == "call_module" else None
    return layer.in_channels if isinstance(layer, nn.Conv2d) else None


def _note_kinds(model: nn.Module, obstacles: Obstacles) -> None:
    """Note modules that have no form wherever they stand, of a network whose order is not known."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in HINTS and kind not in _REWRITTEN and type(module) not in HANDLERS:
            obstacles.add(unsupported(f"module `{name}` ({kind})", HINTS[kind]))


@contextmanager
def _activated(rewritten: Rewritten) -> Iterator[None]:
    """Let every activation be one of ours, with its upper bound, while the block runs."""
    before = {name: rewritten.module.get_submodule(name) for name in rewritten.activations}
    set_modules(rewritten.module, {name: Rectifier(rewritten.bounds.get(name, math.inf)) for name in before})
    try:
        yield
    finally:
        set_modules(rewritten.module, before)
