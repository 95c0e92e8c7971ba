"""Torch models with skip connections for the tests; what a model does as a float spiking network, and as integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from nctool.activation.noisy_quant import NoisyQuantReLU, activations, in_mode
from nctool.conversion import Conversion, convert
from nctool.conversion.float_network import FloatNetwork, FloatSynapse, map_synapses
from nctool.conversion.folding import fold_batch_norm, fold_pooling
from nctool.conversion.trace.tracing import trace
from nctool.fast.engine import FastEngine
from nctool.ir.network import ConvGeometry, IntNetwork
from nctool.reference.simulate import simulate
from nctool.reference.trace import Trace, join
from nctool_deploy.backends.autapse import AUTAPSE_FORMAT

THETA = 64.0
UNIT_STD = 1 / 127
"""With mean 0, pixels 0 and 255 enter as 0 and 127, and the step of the input is exactly 1."""


def act(threshold: float = 1.0) -> NoisyQuantReLU:
    """Return an activation of four levels."""
    return NoisyQuantReLU(4, threshold)


def converted(model: nn.Module, shape: tuple[int, ...], *, n_steps: int = 4, std: float = UNIT_STD, bits: int = 8):
    pixels = np.random.default_rng(0).integers(0, 256, (16, *shape), np.uint8)
    number_format = replace(AUTAPSE_FORMAT, weight_bits=bits)
    return convert(
        model.eval(),
        input_shape=shape,
        mean=(0.0,),
        std=(std,),
        number_format=number_format,
        n_steps=n_steps,
        calibration=pixels,
    )


def on_both_engines(network: IntNetwork, pixels: np.ndarray) -> Trace:
    """Run the reference and the fast engine, and return their one trace."""
    found = simulate(network, pixels)
    assert join(FastEngine(network).traces(pixels)) == found
    assert set(found.overflows.values()) == {0}
    return found


def float_run(model: nn.Module, x: torch.Tensor, n_steps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the spikes of each activation, (samples, steps, ...), and the running sum of the logits."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in activations(model)}
    hooks = [
        layer.register_forward_hook(lambda m, i, o, name=name: seen[name].append(o.numpy() > 0))
        for name, layer in activations(model).items()
    ]
    with in_mode(model, "spiking"):
        logits = np.cumsum([model(x).numpy() for _ in range(n_steps)], axis=0)
    for hook in hooks:
        hook.remove()
    return {name: np.stack(steps, axis=1) for name, steps in seen.items()}, np.moveaxis(logits, 0, 1)


def real_input(pixels: np.ndarray, std: float = UNIT_STD) -> torch.Tensor:
    """Return pixels as `converted` normalises them, in float64."""
    return torch.from_numpy(pixels / 255 / std)


def whole(logits: np.ndarray) -> np.ndarray:
    """Round logits that are integers but for the float division of a pooling."""
    np.testing.assert_allclose(logits, np.rint(logits), rtol=0, atol=1e-9)
    return np.rint(logits)


def pre_activation(synapse: FloatSynapse, x: torch.Tensor) -> torch.Tensor:
    """Evaluate a folded synapse in float64, all its weights."""
    whole = synapse.repeat.spread(synapse.weight, synapse.source_shape)
    weight, bias = torch.from_numpy(whole), torch.from_numpy(synapse.bias)
    if synapse.conv is None:
        return nn.functional.linear(x.flatten(1), weight, bias)
    conv = synapse.repeat.on_neurons(synapse.conv)
    return nn.functional.conv2d(
        zeros_between(x, conv), weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )


def zeros_between(x: torch.Tensor, conv: ConvGeometry) -> torch.Tensor:
    """Return an image with the zeros between its neurons that a convolution reads (rule W2)."""
    ones = torch.ones(x.shape[1], 1, 1, 1, dtype=x.dtype)
    return nn.functional.conv_transpose2d(x, ones, stride=conv.input_dilation, groups=x.shape[1])


def folded(model: nn.Module, shape: tuple[int, ...]) -> FloatNetwork:
    """Trace a model, and fold its norms and poolings."""
    return map_synapses(map_synapses(trace(model, shape), fold_batch_norm), fold_pooling)


# --- models -------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions beside a shortcut, which may hold modules; `long` is added too if there is one."""

    def __init__(self, conv1: nn.Module, conv2: nn.Module, shortcut: nn.Module, threshold: float = THETA) -> None:
        super().__init__()
        self.conv1, self.act1, self.conv2 = conv1, NoisyQuantReLU(4, threshold), conv2
        self.shortcut, self.act2 = shortcut, NoisyQuantReLU(4, threshold)

    def forward(self, x: torch.Tensor, long: torch.Tensor | None = None) -> torch.Tensor:
        y = self.conv2(self.act1(self.conv1(x)))
        y = y + self.shortcut(x)
        return self.act2(y if long is None else long + y)


class Residual(nn.Module):
    """A stem, two blocks, and dense logits; the first activation may also skip to the end of the second block."""

    def __init__(self, stem: nn.Module, first: Block, second: Block, *, long: bool, threshold: float = THETA) -> None:
        super().__init__()
        self.stem, self.act = stem, NoisyQuantReLU(4, threshold)
        self.first, self.second, self.long = first, second, long
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        return self.head(self.second(self.first(x), x if self.long else None))


def random_residual(seed: int, *, fill, threshold: float = THETA) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a small residual network in float64 and its input's shape: odd sides, strides, shortcuts of every kind.

    `fill` gets every linear layer and what a spike of its source is worth, and returns what takes its place.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    channels, long = int(rng.integers(1, 4)), bool(rng.integers(2))
    sides = rng.integers(3, 8, 2).tolist()

    def conv(inputs: int, outputs: int, kernel: int, worth: float = threshold, **options: object) -> nn.Module:
        return fill(nn.Conv2d(inputs, outputs, kernel, bias=bool(rng.integers(2)), **options), worth)

    def block(inputs: int, outputs: int, stride: int) -> Block:
        if outputs != inputs:
            shortcut = conv(inputs, outputs, 1, stride=stride)
        else:
            shortcut = nn.AvgPool2d(1, stride=2) if stride == 2 else nn.Identity()
        branch = [conv(inputs, outputs, 3, stride=stride, padding=1), conv(outputs, outputs, 3, padding=1)]
        return Block(*branch, shortcut, threshold)

    stem, inputs, blocks = conv(1, channels, 2, 1.0), channels, []
    for _ in range(2):
        stride = 1 if long else int(rng.integers(1, 3))
        outputs = inputs * int(rng.integers(1, 3)) if stride == 2 else inputs
        blocks.append(block(inputs, outputs, stride))
        inputs = outputs
    model = Residual(stem, *blocks, long=long, threshold=threshold)
    model.head.append(fill(nn.Linear(inputs, 3), threshold))
    return model.double().eval(), (1, *sides)


def integers(rng: np.random.Generator):
    """Return a `fill` by which all weights are integers once spikes are absorbed, one of them ±127 in each channel."""

    def fill(layer: nn.Module, worth: float) -> nn.Module:
        weight = rng.integers(-127, 128, tuple(layer.weight.shape)) // int(rng.choice([1, 4, 20]))
        weight = weight // (20 if worth == 1.0 else 1)
        flat = weight.reshape(len(weight), -1)
        flat[:, 0] = rng.choice([-127, 127], len(flat))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(flat.reshape(weight.shape) / worth))
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(2.0 * rng.integers(-20, 21, len(flat))))
        return layer

    return fill


def population_of(name: str) -> str:
    """Return the population that an activation of `Residual` became."""
    return "stem" if name == "act" else name.replace("act", "conv")


def exact_model(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a residual network that integers represent exactly at a scale of 1: each weight, and each identity, 64."""
    model, shape = random_residual(seed, fill=integers(np.random.default_rng(seed)))
    high, wide = model.second(model.first(model.act(model.stem(torch.zeros(1, *shape, dtype=torch.float64))))).shape[2:]
    with torch.no_grad():
        model.head[2].weight.mul_(high * wide)  # global average pooling takes it off again
    return model, shape


def holds_nothing(conversion: Conversion) -> bool:
    """Return False where something never changes: what is held has other integers than its real numbers ask for."""
    steps = {change.step: change.detail for change in conversion.changes}
    return steps["hold what never changes"] == "nothing to hold" and "raise logits" not in steps


def binary_pixels(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([0, 255], np.uint8), (4, *shape))


def normalised(seed: int):
    """Return a `fill` that puts batch norm with random statistics behind every convolution."""
    rng = np.random.default_rng(seed)

    def fill(layer: nn.Module, worth: float) -> nn.Module:
        if isinstance(layer, nn.Linear):
            return layer
        norm = nn.BatchNorm2d(layer.out_channels)
        with torch.no_grad():
            for values, low, high in ((norm.weight, 0.3, 1.0), (norm.bias, -0.5, 0.5), (norm.running_var, 0.5, 1.0)):
                values.copy_(torch.from_numpy(rng.uniform(low, high, len(values))))
        return nn.Sequential(layer, norm)

    return fill


def linear(weight: object, bias: float = 0.0) -> nn.Linear:
    values = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(values.shape[1], values.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(values)
        layer.bias.fill_(bias)
    return layer


class Skip(nn.Module):
    """act(branch(a) + skip(a)), for a = act(one(x)), then two."""

    def __init__(
        self, one: nn.Module, branch: nn.Module, two: nn.Module, thresholds=(1.0, 1.0), skip: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.one, self.branch, self.two, self.skip = one, branch, two, skip or nn.Identity()
        self.act1, self.act2 = (NoisyQuantReLU(4, threshold) for threshold in thresholds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.one(x))
        return self.two(self.act2(self.branch(x) + self.skip(x)))
