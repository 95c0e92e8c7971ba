"""Trace a torch module into a FloatNetwork.

Supported: Conv1d/2d, Linear, BatchNorm1d/2d, AvgPool1d/2d, AdaptiveAvgPool1d/2d, MaxPool2d, AdaptiveMaxPool2d, zero
padding, ConvTranspose1d/2d, Upsample by whole factors, PixelShuffle, Flatten, Dropout, Identity and NoisyQuantReLU:
linear, optional batch norm, activation, optional pooling, ... What an activation gives may go to several layers,
branches may be added before an activation, and what activations give may be joined along the channels. Linear layers of
kernel 1 with no activation before them, and norms of spikes, are composed with their neighbours; a network may end in
spikes.

A sequence, (channels, length), is read as an image of height 1.

In: a torch module. Out: a FloatNetwork, or an UnsupportedError that names every module without a form and says what to
do.
"""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.activation.rectifier import Rectifier
from nctool.conversion.float_network import FloatNetwork, FloatPopulation
from nctool.conversion.trace.facts import Facts, run_facts
from nctool.conversion.trace.forward_graph import read_graph, unwrapped
from nctool.conversion.trace.hints import HINTS, unsupported
from nctool.conversion.trace.in_place import aliases, changed_by, later_readers, name_of
from nctool.conversion.trace.maxima import MAXIMA, maximum, require_maximum, window_of
from nctool.conversion.trace.modules import HANDLERS, Handler, flatten
from nctool.conversion.trace.obstacles import Obstacles
from nctool.conversion.trace.signals import Signal, StandIn, Value, as_image, each_part, join
from nctool.conversion.trace.weighing import add, identity, require_drive
from nctool.errors import UnsupportedError
from nctool.ir.network import INPUT_NAME, Shape

ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
"""How fx writes a sum: functions, and names of methods."""

JOINS = (torch.cat, torch.concat, torch.concatenate)
"""How fx writes a concatenation."""

SAME = ("contiguous", "float", "clone", "stochastic_depth")
"""What gives the numbers that it gets, in evaluation mode; `float` of what is float32."""

SENDERS = (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d, nn.ConvTranspose1d, nn.Linear, NoisyQuantReLU)
"""What gives a value of its own kind, whatever it reads."""

LOGITS = "logits"
"""What the readout of a network that ends in spikes is called: it hands them on, pooled where the network pools."""

ONE_ARGUMENT = "call it with what it reads alone; nn.ConvTranspose2d takes output_padding instead of output_size"
"""The way out of a module that is given more than one value."""

READS_TENSOR = "let a module of torch hold it and use it: nn.Conv2d, nn.Linear, nn.BatchNorm2d"
"""The way out of weights that no module uses."""


def trace(model: nn.Module, input_shape: Shape) -> FloatNetwork:
    """Read `model` as populations joined by synapses.

    Args:
        model: of the modules above; wrappers such as nn.DataParallel are taken off.
        input_shape: shape of one sample, (channels, height, width), (channels, length) or (features,).

    Returns:
        The network; a sequence is an image of height 1.

    Raises:
        UnsupportedError: modules or functions have no integrate-and-fire form, or stand at the wrong place; all of
            them are named.
        RangeError: a parameter is not finite.
    """
    model, obstacles = unwrapped(model), Obstacles()
    network = trace_graph(model, read_graph(model, obstacles), input_shape, obstacles)
    obstacles.raise_all()
    return network


def trace_graph(
    model: nn.Module, graph: fx.Graph, input_shape: Shape, obstacles: Obstacles, facts: Facts | None = None
) -> FloatNetwork:
    """Read a graph as populations joined by synapses; where there are obstacles, with stand-ins in their places.

    Args:
        model: owner of the modules.
        graph: what it calls.
        input_shape: shape of one sample.
        obstacles: takes in what cannot be converted; nodes in it are not looked at again.
        facts: of the graph; where there are obstacles, it runs for them if they are not given.
    """
    return _Builder(model, input_shape, obstacles, facts).build(graph)


class _Builder:
    """Walk a graph in order and collect populations.

    Args:
        model: owner of the modules.
        input_shape: shape of one sample.
        obstacles: takes in what cannot be converted.
        facts: of the graph, if they are known.
    """

    def __init__(self, model: nn.Module, input_shape: Shape, obstacles: Obstacles, facts: Facts | None) -> None:
        self.model, self.input_shape = model, input_shape
        self.obstacles, self.facts = obstacles, facts
        self.values: dict[fx.Node, Value] = {}
        self.populations: list[FloatPopulation] = []

    def build(self, graph: fx.Graph) -> FloatNetwork:
        """Visit every node and return what was collected."""
        for node in graph.nodes:
            if node not in self.obstacles.nodes:
                with self.obstacles.noted(node):
                    self.values[node] = self._visit(node)
            if node not in self.values:
                self.values[node] = self._stand_in(node)
        return FloatNetwork(as_image(self.input_shape), tuple(self.populations))

    def _visit(self, node: fx.Node) -> Value:
        if node.op == "placeholder":
            shape = as_image(self.input_shape)
            return Signal(INPUT_NAME, shape, shape)
        if node.op == "call_module":
            return self._call_module(node)
        if self._is_hidden(node):
            return self._stand_in(node)
        if node.op == "output":
            return self._finish(self._value(node.args[0]))
        return self._call_function(node)

    def _call_function(self, node: fx.Node) -> Value:
        if node.op in ("call_function", "call_method") and name_of(node) in SAME:
            return self._argument(node)
        if _is_flatten(node):
            return flatten(self._argument(node), node.name, _flatten_axes(node))
        if _is_add(node):
            return self._add(node)
        if node.op == "call_function" and node.target in JOINS:
            parts, axis = _parts(node)
            return join([self._value(part) for part in parts], axis, node.name)
        if node.op == "get_attr":
            raise unsupported(f"tensor `{node.target}` (read by the forward method)", READS_TENSOR)
        name = name_of(node) or node.name
        raise unsupported(f"function `{name}`", HINTS.get(name))

    def _is_hidden(self, node: fx.Node) -> bool:
        """Return whether an error at a node only follows from an obstacle: before it, or at all that reads it."""
        beside = [source for user in node.users for source in user.all_input_nodes if node.op == "get_attr"]
        sources = [self.values[source] for source in (*node.all_input_nodes, *beside) if source in self.values]
        return StandIn(None) in sources or self._is_of_obstacles(node)

    def _is_of_obstacles(self, node: fx.Node) -> bool:
        """Return whether a number is read only where an obstacle is."""
        if not self.obstacles.nodes or not node.users or self._stand_in(node).shape is not None:
            return False
        return all(user in self.obstacles.nodes or self._is_of_obstacles(user) for user in node.users)

    def _stand_in(self, node: fx.Node) -> StandIn:
        """Return what stands for the value of a node; of a tensor that the forward method reads, nothing is known."""
        if self.facts is None:
            sample = torch.zeros(1, *self.input_shape).to(next(self.model.parameters(), torch.zeros(())))
            self.facts = run_facts(self.model, node.graph, sample)
        shape = None if node.op == "get_attr" else self.facts.shape(node)
        return StandIn(None if shape is None else as_image(shape))

    def _value(self, node: Any) -> Value:
        if not isinstance(node, fx.Node) or node not in self.values:
            kind = type(node).__name__.removeprefix("immutable_")
            raise UnsupportedError(
                f"model: returns {kind}, allowed one tensor of logits",
                hint="let the forward method return the logits alone, or give the part of the network that does",
            )
        return self.values[node]

    def _argument(self, node: fx.Node) -> Value:
        return self._value(node.args[0] if node.args else next(iter(node.kwargs.values()), None))

    def _call_module(self, node: fx.Node) -> Value:
        name = str(node.target)
        module, value = self.model.get_submodule(name), self._argument(node)
        handlers: dict[type[nn.Module], Handler] = {
            **HANDLERS,
            **dict.fromkeys(MAXIMA, self._maximum),
            **dict.fromkeys((NoisyQuantReLU, Rectifier), self._activate),
        }
        handler = handlers.get(type(module))
        if handler is None:
            kind = type(module).__name__
            raise unsupported(f"module `{name}` ({kind})", HINTS.get(kind))
        if len(node.args) + len(node.kwargs) > 1:
            given = ", ".join(node.kwargs) or "several arguments"
            raise unsupported(f"module `{name}` ({type(module).__name__} called with {given})", ONE_ARGUMENT)
        if self._is_hidden(node):
            return self._stand_in(node)
        result = handler(module, value, name)
        return StandIn(result.shape) if isinstance(value, StandIn) and not isinstance(module, SENDERS) else result

    def _add(self, node: fx.Node) -> Value:
        first, second = _terms(node)
        changed = changed_by(node, self.model)
        if changed is not None and any(later_readers(alias, node) for alias in aliases(changed, node, self.model)):
            raise unsupported(f"function `{node.name}` (in place, of what is read later)", "write y = x + branch")
        return add(self._value(first), self._value(second), node.name)

    def _activate(self, module: NoisyQuantReLU | Rectifier, value: Value, name: str) -> Signal:
        drive = require_drive(value, name)
        channels = drive.shape[0]
        if isinstance(module, NoisyQuantReLU):
            shifts = module.channel_shifts(channels)
            neurons: dict[str, Any] = {
                "threshold": module.channel_thresholds(channels).numpy(),
                "levels": module.levels,
            }
            neurons["shift"] = None if shifts is None else shifts.numpy()
        else:
            neurons = {"threshold": np.full(channels, math.inf), "ceiling": module.ceiling}
        return self._sent(replace(drive, name=self._unique(drive.name), **neurons))

    def _maximum(self, module: Any, value: Value, name: str) -> Value:
        spikes = require_maximum(value, name)
        window = window_of(module, spikes, name)
        if window is None:
            return value
        thresholds = {population.name: population.threshold for population in self.populations}
        return each_part(
            spikes, lambda part: self._sent(maximum(part, window, self._unique(name), thresholds.get(part.source)))
        )

    def _sent(self, population: FloatPopulation) -> Signal:
        """Append a population, and return what it sends."""
        self.populations.append(population)
        return Signal(population.name, population.shape, population.shape)

    def _finish(self, value: Value) -> Value:
        if isinstance(value, StandIn):
            return value
        if len(value.shape) != 1:
            where = f"module `{value.name}`" if isinstance(value, FloatPopulation) else "model"
            raise UnsupportedError(
                f"{where}: the output has shape {value.shape}, allowed (classes,)",
                hint="pool and flatten before the last nn.Linear",
            )
        if not isinstance(value, FloatPopulation):
            value = FloatPopulation(LOGITS, value.shape, identity(value, LOGITS))
        self.populations.append(replace(value, name=self._unique(value.name)))
        return value

    def _unique(self, name: str) -> str:
        taken = {population.name for population in self.populations} | {INPUT_NAME}
        candidates = (name if k == 1 else f"{name}_{k}" for k in range(1, len(taken) + 2))
        return next(candidate for candidate in candidates if candidate not in taken)


def _is_add(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and node.target in ADDS


def _terms(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Return what a sum adds; a sum of anything but two tensors is refused."""
    arguments: dict[str, Any] = dict(zip(("input", "other", "alpha"), node.args, strict=False)) | node.kwargs
    first, second = arguments.pop("input", None), arguments.pop("other", None)
    if arguments:
        raise unsupported(
            f"function `{node.name}` (with {', '.join(arguments)})", "scale the weights of the branch instead"
        )
    if isinstance(first, fx.Node) and isinstance(second, fx.Node):
        return first, second
    constant = second if isinstance(first, fx.Node) else first
    raise unsupported(f"function `{node.name}` (of {constant})", "put a constant into the bias of a linear layer")


def _parts(node: fx.Node) -> tuple[list[Any], int]:
    """Return what a concatenation joins, which torch has checked to be a list of tensors, and along which axis."""
    arguments: dict[str, Any] = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
    return list(arguments["tensors"]), int(arguments.get("dim", arguments.get("axis", 0)))


def _is_flatten(node: fx.Node) -> bool:
    return node.target is torch.flatten or (node.op == "call_method" and node.target == "flatten")


def _flatten_axes(node: fx.Node) -> tuple[int, int]:
    arguments: dict[str, Any] = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
    return int(arguments.get("start_dim", 0)), int(arguments.get("end_dim", -1))
