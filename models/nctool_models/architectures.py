"""The networks of the model zoo, as plain named sequences of layers that conversion understands.

In: the `[model]` and `[activation]` tables of a recipe, the shape of an image, the number of classes.
Out: an `nn.Sequential` of Conv2d, BatchNorm, Linear, AvgPool2d, Flatten, Dropout and NoisyQuantReLU, whose
layers are called `conv1`, `bn1`, `act1`, `pool1`, … `fc1`; the last layer is always dense and gives logits.
Pooled maps have even sides, so that pooling folds into the next layer exactly.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from nctool.errors import FormatError, RecipeError
from nctool.nq import NoisyQuantReLU, activations
from nctool.recipe import (
    ActivationSettings,
    CnnSettings,
    LenetSettings,
    MlpSettings,
    SmallVggSettings,
)
from nctool.training import Checkpoint
from nctool.training.tensor_file import first_mismatch

Settings = MlpSettings | CnnSettings | LenetSettings | SmallVggSettings
_LENET_KERNEL = 5


def build_model(
    model: Settings,
    input_shape: tuple[int, int, int],
    n_classes: int,
    activation: ActivationSettings,
    *,
    seed: int = 0,
) -> nn.Sequential:
    """Build a network with fresh weights.

    Args:
        model: the recipe's `[model]` table.
        input_shape: (channels, height, width) of an image.
        n_classes: number of logits, ≥ 1.
        activation: the recipe's `[activation]` table.
        seed: starts the weights; torch's global generator is left as it was.

    Returns:
        a network from float images (N, C, H, W) to float logits (N, n_classes).

    Raises:
        RecipeError: the images are too small for the architecture, or a pooled side is odd.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stack = _Stack(model.architecture, input_shape, activation)
        if isinstance(model, MlpSettings):
            _mlp(stack, model)
        elif isinstance(model, CnnSettings):
            _cnn(stack, model)
        elif isinstance(model, LenetSettings):
            _lenet(stack, model)
        else:
            _small_vgg(stack, model)
        stack.dense(n_classes)
    return stack.layers


def restore_model(checkpoint: Checkpoint) -> nn.Sequential:
    """Rebuild a trained network from its checkpoint, in evaluation mode.

    Raises:
        FormatError: the tensors in the checkpoint do not fit the recipe in it, or a threshold is not positive.
    """
    recipe = checkpoint.recipe
    model = build_model(recipe.model, checkpoint.input_shape, len(checkpoint.classes), recipe.activation)
    problem = first_mismatch(model.state_dict(), checkpoint.state)
    if problem is not None:
        raise FormatError(f"checkpoint does not fit its recipe `{recipe.name}`: {problem}")
    model.load_state_dict(checkpoint.state)
    for name, layer in activations(model).items():
        if float(layer.threshold.detach()) <= 0.0:
            raise FormatError(f"checkpoint of recipe `{recipe.name}`: threshold of `{name}` is not positive")
    return model.eval()


def _mlp(stack: _Stack, model: MlpSettings) -> None:
    stack.flatten()
    for width in model.hidden:
        stack.dense(width, batch_norm=model.batch_norm).activation().dropout(model.dropout)


def _cnn(stack: _Stack, model: CnnSettings) -> None:
    for channels in model.channels:
        stack.convolution(channels, model.kernel, padding=model.kernel // 2).activation()
    stack.pool().flatten().dense(model.hidden).activation()


def _lenet(stack: _Stack, model: LenetSettings) -> None:
    first, second = model.channels
    stack.convolution(first, _LENET_KERNEL, padding=_LENET_KERNEL // 2).activation().pool()
    stack.convolution(second, _LENET_KERNEL, padding=0).activation().pool().flatten()
    for width in model.hidden:
        stack.dense(width, batch_norm=True).activation()


def _small_vgg(stack: _Stack, model: SmallVggSettings) -> None:
    for channels in model.channels:
        stack.convolution(channels, 3, padding=1).activation()
        stack.convolution(channels, 3, padding=1).activation().pool()
    stack.flatten().dropout(model.dropout)


class _Stack:
    """Appends layers, numbers them by kind and keeps track of the shape that leaves the last one."""

    def __init__(self, architecture: str, input_shape: tuple[int, int, int], activation: ActivationSettings) -> None:
        self.layers = nn.Sequential()
        self._architecture = architecture
        self._input_shape = input_shape
        self._settings = activation
        self._shape: tuple[int, ...] = input_shape
        self._counts: Counter[str] = Counter()

    def convolution(self, channels: int, kernel: int, *, padding: int) -> _Stack:
        """Append a convolution of stride 1, without bias, and its batch normalisation."""
        inputs, *sides = self._shape
        self._shape = (channels, *(side + 2 * padding - kernel + 1 for side in sides))
        self._require(all(side >= 1 for side in self._shape[1:]), f"larger than the {kernel}x{kernel} kernel")
        self._add("conv", nn.Conv2d(inputs, channels, kernel, padding=padding, bias=False))
        return self._add("bn", nn.BatchNorm2d(channels))

    def dense(self, width: int, *, batch_norm: bool = False) -> _Stack:
        """Append a dense layer, with a bias unless batch normalisation follows."""
        self._add("fc", nn.Linear(self._shape[0], width, bias=not batch_norm))
        self._shape = (width,)
        return self._add("bn", nn.BatchNorm1d(width)) if batch_norm else self

    def activation(self) -> _Stack:
        """Append a `NoisyQuantReLU` with its own threshold."""
        return self._add("act", NoisyQuantReLU(self._settings.levels, self._settings.threshold_init))

    def pool(self) -> _Stack:
        """Append 2x2 average pooling."""
        channels, height, width = self._shape
        self._require(height % 2 == 0 and width % 2 == 0, f"even where they are pooled (there {height}x{width})")
        self._shape = (channels, height // 2, width // 2)
        return self._add("pool", nn.AvgPool2d(2))

    def flatten(self) -> _Stack:
        """Append a flattening to (N, features)."""
        self._shape = (torch.Size(self._shape).numel(),)
        self.layers.add_module("flatten", nn.Flatten())
        return self

    def dropout(self, probability: float) -> _Stack:
        """Append dropout, unless its probability is 0."""
        return self._add("drop", nn.Dropout(probability)) if probability > 0.0 else self

    def _add(self, kind: str, layer: nn.Module) -> _Stack:
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
