"""A stack of layers: it names and counts them, and knows the shape that leaves the last one.

In: what to append. Out: an `nn.Sequential`. A residual block is one of its layers; its sum stands before the second
activation, so that one population of neurons integrates both branches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.errors import RecipeError
from nctool.recipe.schema import ActivationSettings
from nctool.recipe.tables import Pooling


class Stack:
    """Appends layers, numbers them by kind and keeps track of the shape that leaves the last one."""

    def __init__(self, architecture: str, input_shape: tuple[int, int, int], activation: ActivationSettings) -> None:
        self.layers = nn.Sequential()
        self._architecture = architecture
        self._input_shape = input_shape
        self._settings = activation
        self._shape: tuple[int, ...] = input_shape
        self._counts: Counter[str] = Counter()

    def convolution(self, channels: int, kernel: int, *, padding: int) -> Stack:
        """Append a convolution of stride 1, without bias, and its batch normalisation."""
        inputs, *sides = self._shape
        self._shape = (channels, *(side + 2 * padding - kernel + 1 for side in sides))
        self._require(all(side >= 1 for side in self._shape[1:]), f"larger than the {kernel}x{kernel} kernel")
        self._add("conv", nn.Conv2d(inputs, channels, kernel, padding=padding, bias=False))
        return self._add("bn", nn.BatchNorm2d(channels))

    def dense(self, width: int, *, batch_norm: bool = False) -> Stack:
        """Append a dense layer, with a bias unless batch normalisation follows."""
        self._add("fc", nn.Linear(self._shape[0], width, bias=not batch_norm))
        self._shape = (width,)
        return self._add("bn", nn.BatchNorm1d(width)) if batch_norm else self

    def activation(self) -> Stack:
        """Append a `NoisyQuantReLU` with its own threshold."""
        return self._add("act", self._new_activation())

    def block(self, channels: int, *, stride: int) -> Stack:
        """Append a residual block."""
        inputs, *sides = self._shape
        self._shape = (channels, *(-(-side // stride) for side in sides))
        return self._add("block", ResidualBlock(inputs, channels, stride, self._new_activation))

    def pool(self, pooling: Pooling) -> Stack:
        """Append pooling of 2x2 windows: maxima leave out the last of an odd number of rows or columns."""
        channels, height, width = self._shape
        if pooling == "maximum":
            self._require(height >= 2 and width >= 2, f"of 2 or more where they are pooled (there {height}x{width})")
        else:
            self._require(height % 2 == 0 and width % 2 == 0, f"even where they are pooled (there {height}x{width})")
        self._shape = (channels, height // 2, width // 2)
        return self._add("pool", nn.MaxPool2d(2) if pooling == "maximum" else nn.AvgPool2d(2))

    def global_pool(self) -> Stack:
        """Append average pooling over the whole image."""
        self._shape = (self._shape[0], 1, 1)
        return self._add("pool", nn.AdaptiveAvgPool2d(1))

    def flatten(self) -> Stack:
        """Append a flattening to (N, features)."""
        self._shape = (torch.Size(self._shape).numel(),)
        self.layers.add_module("flatten", nn.Flatten())
        return self

    def dropout(self, probability: float) -> Stack:
        """Append dropout, unless its probability is 0."""
        return self._add("drop", nn.Dropout(probability)) if probability > 0.0 else self

    def _new_activation(self) -> NoisyQuantReLU:
        first = self._settings.threshold_init
        return NoisyQuantReLU(self._settings.levels, 1.0 if first == "data" else first, self._settings.reset)

    def _add(self, kind: str, layer: nn.Module) -> Stack:
        self._counts[kind] += 1
        self.layers.add_module(f"{kind}{self._counts[kind]}", layer)
        return self

    def _require(self, holds: bool, sides: str) -> None:
        if not holds:
            shape = "x".join(str(side) for side in self._input_shape)
            raise RecipeError(
                f"architecture `{self._architecture}` got images of {shape}, allowed: sides {sides}",
                hint="choose another model.architecture, `mlp` takes any size",
            )


class ResidualBlock(nn.Module):
    """y = act2(bn2(conv2(act1(bn1(conv1(x))))) + shortcut(x)).

    The shortcut is the identity, so that it carries the spikes of the activation before; where the shape changes it is
    a 1x1 convolution with batch normalisation. Source: He et al., arXiv 1512.03385, figure 2 and option B.

    Args:
        inputs, channels: channels of x and of y.
        stride: of the first convolution and of the shortcut.
        activation: makes an activation with a threshold of its own.
    """

    def __init__(self, inputs: int, channels: int, stride: int, activation: Callable[[], NoisyQuantReLU]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != channels:
            self.shortcut.add_module("conv", nn.Conv2d(inputs, channels, 1, stride=stride, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(channels))
        self.act2 = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map activations (N, inputs, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        out: Tensor = self.act2(y + self.shortcut(x))
        return out
