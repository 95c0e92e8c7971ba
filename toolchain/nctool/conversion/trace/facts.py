"""What is known of the values in a graph from running it: shapes, and numbers that are computed from shapes.

The graph runs with two numbers of samples: what differs between the runs depends on that number, all else is the same
for every batch. Its operations are in an order that no data changes.

In: a module, a graph of it, some samples. Out: Facts. What comes behind a node that fails is not known.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from nctool.conversion.trace.restoring import evaluation
from nctool.errors import UnsupportedError
from nctool.ir.geometry import Shape

N_SAMPLES = (2, 3)
"""Samples in the two runs: not 1, which a squeeze would take for an axis without use."""


@dataclass(frozen=True)
class Facts:
    """Shapes of tensors, and other values, in both runs.

    Args:
        values: by node: the `torch.Size` of a tensor, or the value itself.
    """

    values: dict[fx.Node, tuple[Any, Any]] = field(default_factory=dict)

    def shape(self, node: fx.Node) -> Shape | None:
        """Return the shape of a sample, without the axis of the batch; None for what has none."""
        here, there = self.values.get(node, (None, None))
        is_tensor = isinstance(here, torch.Size) and isinstance(there, torch.Size)
        if not is_tensor or (here[:1], there[:1]) != ((N_SAMPLES[0],), (N_SAMPLES[1],)) or here[1:] != there[1:]:
            return None
        return tuple(here[1:])

    def constant(self, value: Any) -> Any:
        """Return an argument with numbers in place of its nodes.

        Raises:
            LookupError: it depends on the images, or on their number.
        """
        return fx.node.map_arg(value, self._number)

    def _number(self, node: fx.Node) -> Any:
        here, there = self.values.get(node, (None, None))
        if not isinstance(here, int | float | tuple) or isinstance(here, torch.Size) or here != there:
            raise LookupError(node.name)
        return here

    def set_shape(self, node: fx.Node, shape: Shape) -> None:
        """Take in the shape of a sample of a node that was put into the graph."""
        here, there = N_SAMPLES
        self.values[node] = (torch.Size((here, *shape)), torch.Size((there, *shape)))


def run_facts(model: nn.Module, graph: fx.Graph, sample: Tensor) -> Facts:
    """Run `graph` in evaluation mode; every attribute of `model` is afterwards as before.

    Args:
        model: owner of the modules.
        sample: float, (1, ...) of its input.
    """
    runs = []
    for number in N_SAMPLES:
        run = _Run(model, graph)
        with suppress(UnsupportedError), evaluation(model):  # that it changes weights is told elsewhere
            run.start(sample.expand(number, *sample.shape[1:]).clone())
        runs.append(run.seen)
    first, second = runs
    return Facts({node: (first[node], second[node]) for node in first if node in second})


class _Run(fx.Interpreter):
    """Run a graph and keep the shapes; it ends at a node that fails."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.seen: dict[fx.Node, Any] = {}

    def start(self, images: Tensor) -> None:
        """Note what each node gives, shapes in place of tensors, and of tensors inside of it."""
        with suppress(Exception):  # whatever torch, or a module of the user, raises
            self.run(images)

    def run_node(self, n: fx.Node) -> Any:
        """Note what a node gives."""
        value = super().run_node(n)
        self.seen[n] = fx.node.map_aggregate(value, _shape)
        return value


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else value
