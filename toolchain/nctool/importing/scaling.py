"""Take scalings and shifts of single channels into the layers beside them.

A file may scale its images before the first layer, which has no spiking form, and adds a bias behind a matrix product.

In: a network. Out: the same in place, with fewer layers; or a `RefusedError` where the images are shifted before
padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from nctool.importing.values import RefusedError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BIASED = (*_WEIGHTED, nn.ConvTranspose2d)


def fold_scaling(network: fx.GraphModule) -> None:
    """Fold what scales the images into the layers that read them, and a shift behind a layer into it.

    Raises:
        RefusedError: the images are scaled or shifted, and what reads them cannot take it up.
    """
    for node in list(network.graph.nodes):
        module = _module(network, node)
        if not isinstance(module, _NORMS):
            continue
        source = node.all_input_nodes[0]
        before = _module(network, source)
        if source.op == "placeholder":
            _fold_forward(network, node, module)
        elif isinstance(before, _BIASED) and len(source.users) == 1 and _only_shifts(module):
            bias = module.bias.detach().clone()
            before.register_parameter(
                "bias", nn.Parameter(bias if before.bias is None else before.bias.detach() + bias)
            )
        else:
            continue
        node.replace_all_uses_with(source)
        network.graph.erase_node(node)
    network.recompile()
    network.delete_all_unused_submodules()


def _module(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _only_shifts(norm: Any) -> bool:
    ones = bool((norm.weight == 1).all()) and bool((norm.running_var == 1).all())
    return ones and norm.eps == 0 and not bool(norm.running_mean.any())


def _fold_forward(network: fx.GraphModule, node: fx.Node, norm: Any) -> None:
    """Let everything that reads a norm of the images compute it."""
    gain, shift = _gain_and_shift(norm)
    for user in node.users:
        module = _module(network, user)
        if isinstance(module, _NORMS):
            own_gain, own_shift = _gain_and_shift(module)
            _become(module, own_gain * gain, own_gain * shift + own_shift)
        elif isinstance(module, _WEIGHTED) and not (bool(shift.any()) and _pads(module)):
            _take_up(module, gain, shift)
        else:
            raise RefusedError("scales or shifts the images in the network", kind="div")


def _gain_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """Return what a norm multiplies by and adds, float64 (channels,)."""
    gain = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
    gain = gain if norm.weight is None else gain * norm.weight.detach().double()
    shift = -gain * norm.running_mean.double()
    return gain, shift if norm.bias is None else shift + norm.bias.detach().double()


def _become(norm: Any, gain: Tensor, shift: Tensor) -> None:
    norm.weight, norm.bias = nn.Parameter(gain.float()), nn.Parameter(shift.float())
    norm.running_mean, norm.running_var, norm.eps = torch.zeros(len(gain)), torch.ones(len(gain)), 0.0


def _pads(module: Any) -> bool:
    return not isinstance(module, nn.Linear) and any(module.padding)


def _take_up(module: Any, gain: Tensor, shift: Tensor) -> None:
    """Multiply the weights of each input by its gain, and put the sum of all shifts into the bias."""
    weight = module.weight.detach().double()
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    aligned = (len(weight), weight.shape[1], *[1] * (weight.ndim - 2))
    gains, shifts = (_by_output(numbers, groups, len(weight)).reshape(aligned) for numbers in (gain, shift))
    if bool(shift.any()):
        bias = (weight * shifts).flatten(1).sum(1)
        bias = bias if module.bias is None else bias + module.bias.detach().double()
        module.register_parameter("bias", nn.Parameter(bias.float()))
    module.register_parameter("weight", nn.Parameter((weight * gains).float()))


def _by_output(numbers: Tensor, groups: int, outputs: int) -> Tensor:
    """Return the numbers of the inputs that each output reads, (outputs, inputs of a group)."""
    return numbers.reshape(groups, -1).repeat_interleave(outputs // groups, 0)
