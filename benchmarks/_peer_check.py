"""Compare a small network of each other library with the reference engine, spike for spike.

Weights, biases and thresholds are integers, so float32 holds every potential exactly, and no potential meets its
threshold: drives are multiples of 8, thresholds are one more than such a multiple, a window has fewer than 8 steps.
So it does not matter whether a library fires at v > θ or at v ≥ θ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from _peer_networks import Layer, Peer, all_peers
from nctool.ir.network import (
    INPUT_NAME,
    ConvGeometry,
    InputEncoding,
    IntegrateFire,
    IntNetwork,
    Population,
    Readout,
    Synapse,
)
from nctool.reference.simulate import simulate

INPUT_VALUES = np.arange(256) % 5 - 2
"""Pixel p enters as one of -2..2."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of a network: convolutions of one stride, each pooled or not, and dense layers behind them.

    Args:
        input: (channels, height, width).
        convolutions: (channels, kernel, padding, pooled) each.
        hidden: neurons of dense layers.
        classes: of the readout.
    """

    input: tuple[int, int, int]
    convolutions: tuple[tuple[int, int, int, bool], ...]
    hidden: tuple[int, ...] = ()
    classes: int = 10


def integer_layers(shapes: Shapes) -> list[Layer]:
    """Draw weights; about a quarter of the steps fire.

    Weights are multiples of 32: a drive is a multiple of 8 after pooling, which divides by 4, too.
    """
    rng = np.random.default_rng(0)

    def draw(*size: int) -> tuple[Tensor, Tensor]:
        weight, bias = 32.0 * rng.integers(-3, 4, size), 8.0 * rng.integers(-3, 4, size[0])
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()

    layers, (inputs, height, width) = [], shapes.input
    for outputs, kernel, padding, pooled in shapes.convolutions:
        weight, bias = draw(outputs, inputs, kernel, kernel)
        layers.append(Layer(weight, bias, _threshold(inputs * kernel**2), pooled, padding))
        grown = 2 * padding - kernel + 1
        inputs, height, width = outputs, (height + grown) >> pooled, (width + grown) >> pooled
    inputs *= height * width
    for outputs in shapes.hidden:
        layers.append(Layer(*draw(outputs, inputs), _threshold(inputs)))
        inputs = outputs
    return [*layers, Layer(*draw(shapes.classes, inputs), None)]


def _threshold(fan_in: int) -> float:
    return 8.0 * round(4 * fan_in**0.5) + 1


def check_peers(n_steps: int) -> None:
    """Compare the spikes of every layer and the logits of every peer with the reference engine.

    Raises:
        SystemExit: one differs.
    """
    shape = (2, 6, 6)
    layers = integer_layers(Shapes(shape, ((6, 3, 1, False), (8, 5, 2, False), (8, 3, 1, False)), (7,), 5))
    network = _as_int_network(layers, shape, n_steps)
    pixels = np.random.default_rng(1).integers(0, 256, (8, *shape), np.uint8)
    trace = simulate(network, pixels)
    expected = [int(trace.spikes[population.name].sum()) for population in network.populations[:-1]]
    images = torch.from_numpy(network.input.encode(pixels).astype(np.float32))
    for peer in all_peers(layers, n_steps):
        spikes, logits = _run(peer, images)
        if spikes != expected or not np.array_equal(logits, trace.logits[:, -1]):
            raise SystemExit(f"{peer.library}, {peer.option}: fires {spikes} times a layer, expected {expected}")


def _run(peer: Peer, images: Tensor) -> tuple[list[int], np.ndarray]:
    """Return the spikes of each layer and the logits."""
    counts = dict.fromkeys(peer.neurons, 0)

    def add(layer: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        counts[layer] += int(output.sum())

    hooks = [layer.register_forward_hook(add) for layer in peer.neurons]
    with torch.inference_mode():
        logits = peer.run(images).numpy()
    for hook in hooks:
        hook.remove()
    return list(counts.values()), logits


def _as_int_network(layers: list[Layer], shape: tuple[int, int, int], n_steps: int) -> IntNetwork:
    """Return layers without pooling as an integer network."""
    populations: list[Population] = []
    for number, layer in enumerate(layers):
        source = populations[-1].name if populations else INPUT_NAME
        weight, bias = layer.weight.numpy().astype(np.int32), layer.bias.numpy().astype(np.int64)
        conv = ConvGeometry(padding=(layer.padding,) * 2) if weight.ndim == 4 else None
        neuron = Readout(1.0) if layer.threshold is None else _fire(int(layer.threshold), len(bias))
        size = (len(bias), *shape[1:]) if conv else (len(bias),)
        populations.append(Population(f"layer{number}", size, neuron, bias, (Synapse(source, weight, conv=conv),)))
    table = np.tile(INPUT_VALUES.astype(np.int8), (shape[0], 1))
    return IntNetwork(InputEncoding(shape, table), tuple(populations), n_steps)


def _fire(threshold: int, channels: int) -> IntegrateFire:
    return IntegrateFire(np.full(channels, threshold), np.zeros(channels, np.int64))
