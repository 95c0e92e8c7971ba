"""Networks without a skip connection: dense, LeNet, VGG.

In: a stack to append to, settings. Out: the stack, up to what stands before the last dense layer.
"""

from __future__ import annotations

from nctool.recipe.schema import CnnSettings, LenetSettings, MlpSettings, SmallVggSettings, VggSettings
from nctool_models.architectures.stack import Stack

_LENET_KERNEL = 5
_VGG_STAGES = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
"""Channels of the convolutions of each stage. Source: Simonyan and Zisserman, arXiv 1409.1556, table 1, A and D."""


def mlp(stack: Stack, model: MlpSettings) -> None:
    """Append dense layers of the widths `hidden`."""
    stack.flatten()
    for width in model.hidden:
        stack.dense(width, batch_norm=model.batch_norm).activation().dropout(model.dropout)


def cnn(stack: Stack, model: CnnSettings) -> None:
    """Append two convolutions of one kernel size, a pooling and one dense layer."""
    for channels in model.channels:
        stack.convolution(channels, model.kernel, padding=model.kernel // 2).activation()
    stack.pool().flatten().dense(model.hidden).activation()


def lenet(stack: Stack, model: LenetSettings) -> None:
    """Append two 5x5 convolutions, each pooled, and dense layers."""
    first, second = model.channels
    stack.convolution(first, _LENET_KERNEL, padding=_LENET_KERNEL // 2).activation().pool()
    stack.convolution(second, _LENET_KERNEL, padding=0).activation().pool().flatten()
    for width in model.hidden:
        stack.dense(width, batch_norm=True).activation()


def small_vgg(stack: Stack, model: SmallVggSettings) -> None:
    """Append three stages of two 3x3 convolutions, each pooled."""
    for channels in model.channels:
        stack.convolution(channels, 3, padding=1).activation()
        stack.convolution(channels, 3, padding=1).activation().pool()
    stack.flatten().dropout(model.dropout)


def vgg(stack: Stack, model: VggSettings) -> None:
    """Append five stages of 3x3 convolutions, each pooled, and dense layers; dropout goes before each of those."""
    for stage in _VGG_STAGES[model.depth]:
        for channels in stage:
            stack.convolution(channels, 3, padding=1).activation()
        stack.pool()
    stack.flatten().dropout(model.dropout)
    for width in model.hidden:
        stack.dense(width).activation().dropout(model.dropout)
