"""Round the weights of a model to the grid of the chip's integers, with gradients as if they were not rounded.

In: a model, the signed width of a weight. Out: rounded weights by parameter name.

A hidden layer has a grid for each output channel: thresholds and batch normalisation take up its scale. The last layer
has one grid, because logits are compared with each other. Where channels that are read have thresholds of their own,
the grid is that of the weights times their ratios: conversion rounds the products. Source of straight-through rounding:
Jacob et al., arXiv 1712.05877; of grids that clip the largest weights where that is more exact: Banner et al., arXiv
1810.05723.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations

_CLIPPED = tuple(1.0 - 0.05 * step for step in range(15))
"""Parts of the largest weight, 1 to 0.3, that are tried as the largest value of a grid."""


class WeightGrid:
    """Rounds the weights of every Conv2d and Linear of a model.

    Args:
        model: its weights are read anew at every call.
        images: a float batch that the model takes; it shows which layer is the last.
        bits: signed width of a weight, 2..8; integers are −(2^(bits−1) − 1)..2^(bits−1) − 1.
    """

    def __init__(self, model: nn.Module, images: Tensor, bits: int) -> None:
        self._model = model
        self._largest = 2 ** (bits - 1) - 1
        self._names = _weights_in_order(model, images)
        self._ratios = _ratios_read(model, images)
        self._steps: dict[str, Tensor] = {}
        self.fit()

    def fit(self) -> None:
        """Choose the step of every grid: the one of least mean square error of the weights."""
        with torch.no_grad():
            for name in self._names:
                weight: Tensor = self._model.get_parameter(name)
                if name in self._ratios:
                    weight = weight * self._ratios[name]
                rows = weight.reshape(1 if name == self._names[-1] else len(weight), -1)
                self._steps[name] = _best_step(rows, self._largest).view(-1, *[1] * (weight.ndim - 1))

    def weights(self) -> dict[str, Tensor]:
        """Return the rounded weights by parameter name; gradients go straight through to the parameters."""
        return {name: self._rounded(name) for name in self._names}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the rounded weights into the model while the block runs; gradients may not flow there."""
        kept = {name: self._model.get_parameter(name).data for name in self._names}
        try:
            with torch.no_grad():
                for name, rounded in self.weights().items():
                    self._model.get_parameter(name).data = rounded
            yield
        finally:
            for name, weight in kept.items():
                self._model.get_parameter(name).data = weight

    def _rounded(self, name: str) -> Tensor:
        weight, step = self._model.get_parameter(name), self._steps[name]
        if name in self._ratios:
            step = step / self._ratios[name]
        return cast(Tensor, _Round.apply(weight, step, self._largest))  # type: ignore[no-untyped-call]


class _Round(torch.autograd.Function):
    """The nearest point of a grid; the gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, largest: int) -> Tensor:  # noqa: ARG004 - nothing to keep
        return (weight / step).round_().clamp_(-largest, largest).mul_(step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: ARG004
        return grad, None, None


def _best_step(rows: Tensor, largest: int) -> Tensor:
    """Return the step for each row, (rows, 1); 1 for a row of zeros."""
    top = rows.abs().amax(dim=1, keepdim=True)
    top = torch.where(top > 0, top, torch.full_like(top, float(largest)))
    best, least = top / largest, torch.full_like(top, float("inf"))
    for part in _CLIPPED:
        step = top * (part / largest)
        error = (rows / step).round_().clamp_(-largest, largest).mul_(step).sub_(rows).square_().sum(1, keepdim=True)
        best, least = torch.where(error < least, step, best), torch.minimum(error, least)
    return best


def _ratios_read(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return by what thresholds the signals differ that a weight reads, to broadcast over it, by name.

    The model runs on images of ones, and its activations give their ratios. Empty where none has any.
    """
    read: dict[str, Tensor] = {}
    if all(layer.ratios is None for layer in activations(model).values()):
        return read

    def note(name: str, layer: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        ratios = _of_inputs(layer, inputs[0])
        read[name] = torch.where(ratios > 0, ratios, 1.0)

    giving = [layer.register_forward_hook(_give_ratios) for layer in activations(model).values()]
    try:
        _run_linear(model, torch.ones_like(images), note)
    finally:
        for handle in giving:
            handle.remove()
    return read


def _give_ratios(layer: NoisyQuantReLU, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
    ones = torch.ones_like(output)
    return ones / layer.in_units_of_theta(ones)


def _of_inputs(layer: nn.Conv2d | nn.Linear, signal: Tensor) -> Tensor:
    """Return the number of each input of a linear layer, to broadcast over its weight (outputs, inputs, …).

    Padding that was pooled lowers some pixels of a channel: the largest counts.
    """
    if isinstance(layer, nn.Linear):
        return signal[0].flatten()
    of_groups = signal[0].flatten(1).amax(1).reshape(layer.groups, -1)
    return of_groups.repeat_interleave(layer.out_channels // layer.groups, 0)[:, :, None, None]


def _weights_in_order(model: nn.Module, images: Tensor) -> list[str]:
    """Return the names of the weights of linear layers in order of execution; a shared one where it is last."""
    names: list[str] = []
    _run_linear(model, images, lambda name, *_: names.append(name))
    last = {id(model.get_parameter(name)): position for position, name in enumerate(names)}
    return [names[position] for position in sorted(last.values())]


def _run_linear(model: nn.Module, images: Tensor, note: Callable[..., None]) -> None:
    """Run a model in evaluation mode; `note` gets the name of each weight, its layer, inputs and output."""
    handles = [
        layer.register_forward_hook(partial(note, f"{name}.weight"))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    training_before = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    finally:
        model.train(training_before)
        for handle in handles:
            handle.remove()
