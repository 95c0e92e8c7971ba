"""One float integrate-and-fire network in SpikingJelly, snnTorch and sinabs, written as each documents it.

All start at potential 0, fire at most once a step and reset by subtraction. snnTorch fires at v > θ, the others at
v ≥ θ. The first convolution sees a constant image, so each weighs it once for all steps. In: layers. Out: for each
library a list of ways to run them, of which the benchmark takes the fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import sinabs
import snntorch
import torch
from sinabs.activation import SingleSpike
from sinabs.layers import IAFSqueeze
from snntorch import utils as snntorch_utils
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based import layer as jelly
from torch import Tensor, nn

LIBRARIES = ("spikingjelly", "snntorch", "sinabs")


@dataclass(frozen=True)
class Layer:
    """A convolution or a dense layer.

    Args:
        weight: float32 (out, in, kernel, kernel) or (out, in).
        bias: float32 (out,).
        threshold: θ of its neurons; None for the readout.
        pooled: 2x2 average pooling follows.
        padding: of a convolution.
    """

    weight: Tensor
    bias: Tensor
    threshold: float | None
    pooled: bool = False
    padding: int = 0


@dataclass(frozen=True)
class Peer:
    """A network in one library.

    Args:
        option: what distinguishes it from others in the same library.
        modules: the layers in order.
        run: float32 images (N, C, H, W) to logits (N, classes), summed over the window.
    """

    library: str
    option: str
    modules: nn.Sequential
    run: Callable[[Tensor], Tensor]

    @property
    def neurons(self) -> list[nn.Module]:
        """Return the spiking layers in order."""
        return [module for module in self.modules if isinstance(module, neuron.IFNode | snntorch.Leaky | IAFSqueeze)]


def all_peers(layers: list[Layer], n_steps: int) -> list[Peer]:
    """Build the network in every library and option."""
    return [
        make(layers, n_steps, layout)
        for make in (_jelly_multi_step, _jelly_single_step, _snntorch, partial(_snntorch, bare=True), _sinabs)
        for layout in (torch.contiguous_format, torch.channels_last)
    ]


def _jelly_multi_step(layers: list[Layer], n_steps: int, layout: torch.memory_format) -> Peer:
    modules = _jelly_modules(layers, layout, "m")

    def run(images: Tensor) -> Tensor:
        functional.reset_net(modules)
        drive = modules[0](images.unsqueeze(0)).repeat(n_steps, 1, 1, 1, 1)
        return modules[1:](drive).sum(0)

    return _peer("spikingjelly", "step_mode m", layout, modules, run)


def _jelly_single_step(layers: list[Layer], n_steps: int, layout: torch.memory_format) -> Peer:
    modules = _jelly_modules(layers, layout, "s")
    run = _loop(modules, n_steps, functional.reset_net)
    return _peer("spikingjelly", "step_mode s", layout, modules, run)


def _jelly_modules(layers: list[Layer], layout: torch.memory_format, step_mode: str) -> nn.Sequential:
    def fire(threshold: float) -> nn.Module:
        return neuron.IFNode(v_threshold=threshold, v_reset=None)  # None: reset by subtraction

    modules = _modules(layers, layout, fire, jelly)
    functional.set_step_mode(modules, step_mode)
    return modules


def _snntorch(layers: list[Layer], n_steps: int, layout: torch.memory_format, bare: bool = False) -> Peer:
    def fire(threshold: float) -> nn.Module:
        return snntorch.Leaky(
            beta=1.0, threshold=threshold, reset_mechanism="subtract", init_hidden=True, surrogate_disable=bare
        )

    modules = _modules(layers, layout, fire, nn)
    run = _loop(modules, n_steps, snntorch_utils.reset)
    return _peer("snntorch", "no surrogate" if bare else "default surrogate", layout, modules, run)


def _sinabs(layers: list[Layer], n_steps: int, layout: torch.memory_format) -> Peer:
    def fire(threshold: float) -> nn.Module:
        return IAFSqueeze(num_timesteps=n_steps, spike_threshold=torch.tensor(threshold), spike_fn=SingleSpike)

    modules = _modules(layers, layout, fire, nn)

    def run(images: Tensor) -> Tensor:
        sinabs.reset_states(modules)
        drive = modules[0](images).repeat_interleave(n_steps, dim=0)
        return modules[1:](drive).unflatten(0, (-1, n_steps)).sum(1)

    return _peer("sinabs", "IAFSqueeze", layout, modules, run)


def _loop(modules: nn.Sequential, n_steps: int, reset: Callable[[nn.Module], None]) -> Callable[[Tensor], Tensor]:
    """Return a run that calls the network once a step and adds up the logits."""

    def run(images: Tensor) -> Tensor:
        reset(modules)
        drive, rest = modules[0](images), modules[1:]
        return torch.stack([rest(drive) for _ in range(n_steps)]).sum(0)

    return run


def _modules(layers, layout, fire, library) -> nn.Sequential:
    """Put the layers together out of `Conv2d`, `AvgPool2d`, `Flatten` and `Linear` of `library`."""
    modules: list[nn.Module] = []
    for layer in layers:
        outputs, inputs = layer.weight.shape[:2]
        if layer.weight.ndim == 4:
            weighing = library.Conv2d(inputs, outputs, layer.weight.shape[2], padding=layer.padding)
        else:
            if not any(isinstance(module, nn.Linear) for module in modules):
                modules.append(library.Flatten())
            weighing = library.Linear(inputs, outputs)
        weighing.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        modules.append(weighing)
        if layer.threshold is not None:
            modules.append(fire(layer.threshold))
        if layer.pooled:
            modules.append(library.AvgPool2d(2))
    return nn.Sequential(*modules).to(memory_format=layout).eval()


def _peer(library: str, option: str, layout: torch.memory_format, modules: nn.Sequential, run) -> Peer:
    in_layout = "channels-last" if layout is torch.channels_last else "contiguous"

    def run_in_layout(images: Tensor) -> Tensor:
        return run(images.contiguous(memory_format=layout))

    return Peer(library, f"{option}, {in_layout}", modules, run_in_layout)
