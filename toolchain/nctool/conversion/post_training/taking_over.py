"""Put the neurons, weights and biases that conversion chose into the torch module that they were chosen for.

A change of the weights has no place in a module where these are no parameter of their own: of a skip without weights, a
layer that is used twice, linear layers in a row, or behind overlapping average pooling. `fixed_modules` names them, so
that conversion keeps their weights.

In: a module of rectifiers, the populations that became of it. Out: the same module with neurons that train.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, fx, nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.activation.rectifier import Rectifier
from nctool.activation.thresholds import BatchNorm
from nctool.conversion.float_network import (
    FloatArray,
    FloatNetwork,
    FloatPopulation,
    FloatSynapse,
    Pool,
    map_synapses,
)
from nctool.conversion.folding import fold_batch_norm, fold_pooling
from nctool.conversion.trace.rewritten import set_modules

Linear = nn.Conv1d | nn.Conv2d | nn.Linear
Neurons = Callable[[float, Tensor, Tensor], NoisyQuantReLU]
"""Makes an activation of θ, and of ratios and shifts of its channels."""


def fixed_modules(module: fx.GraphModule, read: FloatNetwork) -> frozenset[str]:
    """Return the modules whose weights and biases conversion may not change, because they cannot be written back.

    Args:
        module: of rectifiers.
        read: what tracing reads from it.
    """
    fixed: set[str] = set()
    for place in _places(module, read):
        fixed.update(name for name in place.names if place.bias() is None or not place.has_weight(name))
    return frozenset(fixed)


def take_over(module: fx.GraphModule, read: FloatNetwork, chosen: FloatNetwork, make: Neurons) -> None:
    """Write what was chosen into a module.

    Args:
        module: of rectifiers; its parameters are changed in place.
        read: what tracing reads from it.
        chosen: the same populations, one neuron for each activation, as conversion chose them; its `fixed_modules` are
            as they were.
        make: an activation.
    """
    places = {place.before.name: place for place in _places(module, read)}
    for population in chosen.populations:
        if not population.maximum:
            places[population.name].write(population)
    spiking = [p for p in chosen.populations if p.threshold is not None and not p.maximum]
    rectifiers = [name for name, kind in _calls(module) if isinstance(kind, Rectifier)]
    set_modules(module, {name: _neurons(p, make) for name, p in zip(rectifiers, spiking, strict=True)})


def _neurons(population: FloatPopulation, make: Neurons) -> NoisyQuantReLU:
    """Return the activation of a population; θ is the threshold in the middle."""
    thresholds = np.asarray(population.threshold)
    shifts = np.zeros_like(thresholds) if population.shift is None else population.shift / thresholds
    middle = float(np.sort(thresholds)[len(thresholds) // 2])
    return make(middle, torch.from_numpy(thresholds / middle), torch.from_numpy(shifts))


def _calls(module: fx.GraphModule) -> list[tuple[str, nn.Module]]:
    """Return the modules that are called, by name and in order."""
    names = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    return [(name, module.get_submodule(name)) for name in names]


def _places(module: fx.GraphModule, read: FloatNetwork) -> list[_Place]:
    """Return where each population is in a module, but maxima."""
    folded, layers = map_synapses(map_synapses(read, fold_batch_norm), fold_pooling), _Layers(module, read)
    pairs = zip(read.populations, folded.populations, strict=True)
    return [_Place(before, plain, layers) for before, plain in pairs if not before.maximum]


@dataclass(frozen=True)
class _Layers:
    """The modules of a network by name, and by whom their weights are read.

    Args:
        module: the network.
        read: its populations.
    """

    module: fx.GraphModule
    read: FloatNetwork

    @cached_property
    def _named(self) -> dict[str, nn.Module]:
        return dict(self.module.named_modules())

    def own(self, name: str) -> Linear | None:
        """Return the linear layer of a name, if one population alone has its weights, and no product holds them."""
        readers = {p.name for p in self.read.populations if name in {synapse.module for synapse in p.synapses}}
        layer = self._named.get(name)
        is_own = len(readers) == 1 and name not in self._multiplied
        return layer if is_own and isinstance(layer, Linear) else None

    @cached_property
    def _multiplied(self) -> set[str]:
        """Return the layers whose weights are in those of a layer behind them."""
        synapses = [synapse for population in self.read.populations for synapse in population.synapses]
        return {name for synapse in synapses for name in _first_layers(synapse)}

    def norm(self, name: str) -> BatchNorm | None:
        """Return the batch norm with a bias that alone reads a layer, and reads nothing else."""
        calls = self._nodes(name)
        users = list(calls[0].users) if len(calls) == 1 else []
        if len(users) != 1 or users[0].op != "call_module" or len(self._nodes(str(users[0].target))) != 1:
            return None
        norm = self._named[str(users[0].target)]
        return norm if isinstance(norm, BatchNorm) and norm.bias is not None else None

    def _nodes(self, name: str) -> list[fx.Node]:
        return [node for node in self.module.graph.nodes if node.op == "call_module" and node.target == name]


@dataclass(frozen=True)
class _Place:
    """Where the weights and the bias of a population are in the module.

    Args:
        before: as it was read.
        plain: the same with batch norm and pooling folded.
        layers: of the module.
    """

    before: FloatPopulation
    plain: FloatPopulation
    layers: _Layers

    @property
    def names(self) -> list[str]:
        """Return the modules whose weights the synapses have."""
        return list(dict.fromkeys(synapse.module for synapse in self.before.synapses))

    def has_weight(self, name: str) -> bool:
        """Return whether the weights of a module are those of its synapses, but for a factor of each channel."""
        layer, numbers = self.layers.own(name), self._of(name)
        read, plain = ([population.synapses[n] for n in numbers] for population in (self.before, self.plain))
        return layer is not None and _is_weight(layer, read) and all(map(_is_scaled, read, plain))

    def bias(self) -> _Bias | None:
        """Return where a bias can be added: in a batch norm behind a layer, or in the bias of a layer."""
        for synapse in self.before.synapses:
            layer, norm = self.layers.own(synapse.module), self.layers.norm(synapse.module)
            gain = np.ones(1) if synapse.norm is None else synapse.norm.gain
            if layer is not None and (norm is not None or gain.all()):
                return _Bias(layer, norm, gain)
        return None

    def write(self, chosen: FloatPopulation) -> None:
        """Write what was changed; nothing else was than what has its place.

        Which parameters there are does not depend on the numbers, so that a checkpoint fits the module made anew.
        """
        for name in self.names:
            read, old, new = ([p.synapses[n] for n in self._of(name)] for p in (self.before, self.plain, chosen))
            if any(not np.array_equal(a.weight, b.weight) for a, b in zip(old, new, strict=True)):
                moves = [(n.weight - o.weight) / _scale(r) for r, o, n in zip(read, old, new, strict=True)]
                _add(self.layers.module.get_submodule(name).weight, np.concatenate(moves, axis=1))
        bias = self.bias()
        if bias is not None:
            bias.add(chosen.bias - self.plain.bias)

    def _of(self, name: str) -> list[int]:
        """Return the synapses that have weights of a module."""
        return [number for number, synapse in enumerate(self.before.synapses) if synapse.module == name]


@dataclass(frozen=True)
class _Bias:
    """A place for the bias of a population.

    Args:
        layer: one of its layers.
        norm: batch norm behind that, if any takes it.
        gain: of what normalises the layer otherwise.
    """

    layer: Linear
    norm: BatchNorm | None
    gain: FloatArray

    def add(self, delta: FloatArray) -> None:
        """Add to the drive of each channel; a layer without a bias gets one."""
        if self.norm is not None:
            _add(self.norm.bias, delta)
            return
        if self.layer.bias is None:
            self.layer.bias = nn.Parameter(self.layer.weight.new_zeros(len(delta)))
        _add(self.layer.bias, delta / self.gain)


def _first_layers(synapse: FloatSynapse) -> Iterator[str]:
    """Yield the linear layers whose weights were multiplied with those of a later one."""
    for part in synapse.composed:
        if isinstance(part.first, FloatSynapse):
            yield part.first.module
            yield from _first_layers(part.first)


def _is_weight(layer: Linear, read: Sequence[FloatSynapse]) -> bool:
    """Return whether the weights of synapses, side by side, are those of a layer."""
    if len({synapse.weight.shape[:1] + synapse.weight.shape[2:] for synapse in read}) != 1:
        return False
    together = np.concatenate([synapse.weight for synapse in read], axis=1)
    weight = layer.weight.detach().double().numpy()
    return together.size == weight.size and np.array_equal(together.reshape(weight.shape), weight)


def _is_scaled(read: FloatSynapse, plain: FloatSynapse) -> bool:
    """Return whether folding did no more to the weights than to scale those of each channel."""
    if not all(isinstance(pool, Pool) for pool in read.pools):
        return False
    same = read.weight.shape == plain.weight.shape and _scale(read).all()
    return bool(same and np.allclose(read.weight * _scale(read), plain.weight, rtol=1e-9, atol=0.0))


def _scale(read: FloatSynapse) -> FloatArray:
    """Return what batch norm and pooling that tiles multiply the weights of each channel by, to broadcast over them."""
    gain = np.ones(len(read.weight)) if read.norm is None else read.norm.gain
    divisor = math.prod(pool.divisor for pool in read.pools if isinstance(pool, Pool))
    scale: FloatArray = (gain / divisor).reshape(-1, *[1] * (read.weight.ndim - 1))
    return scale


def _add(parameter: Tensor, delta: FloatArray) -> None:
    """Add to a parameter in float64."""
    with torch.no_grad():
        parameter.copy_(parameter.double() + torch.from_numpy(delta).reshape(parameter.shape))
