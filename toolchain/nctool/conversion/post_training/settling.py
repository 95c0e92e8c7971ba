"""Give batch norms the statistics of what the spiking network sends, with the same output in evaluation mode.

In training, a batch norm takes the statistics of its batch. Those of spikes are others than those of the activations
that it was trained on: without this, the first batch of fine-tuning would run another network than was converted.

In: a module of `NoisyQuantReLU` activations, images. Out: the same module, its norms changed.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import torch
from torch import Tensor, fx, nn

from nctool.activation.noisy_quant import in_mode
from nctool.activation.thresholds import BatchNorm
from nctool.fast.engine import exact_arithmetic


class _Moments:
    """Sums over all that a batch norm reads, by channel."""

    def __init__(self) -> None:
        self.number, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Take the values of a batch, (N, channels, ...)."""
        by_channel = values.double().transpose(0, 1).flatten(1)
        self.number += by_channel.shape[1]
        self.total = self.total + by_channel.sum(1)
        self.squares = self.squares + by_channel.square().sum(1)

    @property
    def mean(self) -> Tensor:
        """Return the mean of each channel, float64."""
        return self.total / self.number

    @property
    def variance(self) -> Tensor:
        """Return the variance of each channel, float64."""
        return (self.squares / self.number - self.mean.square()).clamp(min=0.0)


def settle_norms(module: fx.GraphModule, images: Tensor, n_steps: int, at_once: int) -> None:
    """Measure what each batch norm reads in a window, make it its statistics, and let weight and bias make up for that.

    Norms without weight and bias, and those that are used more than once, stay as they are.

    Args:
        module: on the CPU, in evaluation mode.
        images: float (N, ...) of its input.
        n_steps: the window.
        at_once: images that run at once.
    """
    calls = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_module")
    norms = [norm for name, norm in module.named_modules() if isinstance(norm, BatchNorm) and calls[name] == 1]
    seen = {norm: _Moments() for norm in norms if norm.affine and norm.running_mean is not None}
    hooks = [norm.register_forward_pre_hook(partial(_note, moments)) for norm, moments in seen.items()]
    try:
        with torch.no_grad(), exact_arithmetic(), in_mode(module, "window", n_steps):
            for part in images.split(at_once):
                module(part.repeat(n_steps, *[1] * (part.ndim - 1)))
    finally:
        for hook in hooks:
            hook.remove()
    for norm, moments in seen.items():
        _settle(norm, moments)


def _note(moments: _Moments, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    moments.add(inputs[0])


def _settle(norm: BatchNorm, seen: _Moments) -> None:
    """Set mean and variance to what was seen: weight · (x − mean) / deviation + bias stays the same."""
    if norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        deviation, wanted = ((of.double() + norm.eps).sqrt() for of in (norm.running_var, seen.variance))
        gain = norm.weight.double() / deviation
        norm.bias.copy_(norm.bias.double() + gain * (seen.mean - norm.running_mean.double()))
        norm.weight.copy_(gain * wanted)
        norm.running_mean.copy_(seen.mean)
        norm.running_var.copy_(seen.variance)
