"""The networks that recipes name: dense, LeNet, VGG, and residual networks for small images.

In: a stack to append to, settings. Out: the stack, up to what stands before the last dense layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nctool.recipe.schema import CnnSettings, LenetSettings, MlpSettings, ResnetSettings, SmallVggSettings, VggSettings
from nctool_models.architectures.stack import Stack

_LENET_KERNEL = 5
_VGG_STAGES = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
"""Channels of the convolutions of each stage. Source: Simonyan and Zisserman, arXiv 1409.1556, table 1, A and D."""
_RESNET_STAGES = {
    8: ((16, 1), (32, 1), (64, 1)),
    18: ((64, 2), (128, 2), (256, 2), (512, 2)),
    20: ((16, 3), (32, 3), (64, 3)),
    34: ((64, 3), (128, 4), (256, 6), (512, 3)),
}
"""Channels and number of blocks of each stage. Source: He et al., arXiv 1512.03385, section 4.2 for the depths 6n + 2,
table 1 for 18 and 34, whose stem is the 3x3 convolution of the others here: the images are small."""


def mlp(stack: Stack, model: MlpSettings) -> None:
    """Append dense layers of the widths `hidden`."""
    stack.flatten()
    for width in model.hidden:
        stack.dense(width, batch_norm=model.batch_norm).activation().dropout(model.dropout)


def cnn(stack: Stack, model: CnnSettings) -> None:
    """Append two convolutions of one kernel size, a pooling and one dense layer."""
    for channels in model.channels:
        stack.convolution(channels, model.kernel, padding=model.kernel // 2).activation()
    stack.pool(model.pooling).flatten().dense(model.hidden).activation()


def lenet(stack: Stack, model: LenetSettings) -> None:
    """Append two 5x5 convolutions, each pooled, and dense layers."""
    first, second = model.channels
    stack.convolution(first, _LENET_KERNEL, padding=_LENET_KERNEL // 2).activation().pool(model.pooling)
    stack.convolution(second, _LENET_KERNEL, padding=0).activation().pool(model.pooling).flatten()
    for width in model.hidden:
        stack.dense(width, batch_norm=True).activation()


def small_vgg(stack: Stack, model: SmallVggSettings) -> None:
    """Append three stages of two 3x3 convolutions, each pooled."""
    for channels in model.channels:
        stack.convolution(channels, 3, padding=1).activation()
        stack.convolution(channels, 3, padding=1).activation().pool(model.pooling)
    stack.flatten().dropout(model.dropout)


def vgg(stack: Stack, model: VggSettings) -> None:
    """Append five stages of 3x3 convolutions, each pooled, and dense layers; dropout goes before each of those."""
    for stage in _VGG_STAGES[model.depth]:
        for channels in stage:
            stack.convolution(channels, 3, padding=1).activation()
        stack.pool(model.pooling)
    stack.flatten().dropout(model.dropout)
    for width in model.hidden:
        stack.dense(width).activation().dropout(model.dropout)


def resnet(stack: Stack, model: ResnetSettings) -> None:
    """Append a 3x3 stem, stages of residual blocks and global pooling; every stage but the first halves the sides."""
    stages = _RESNET_STAGES[model.depth]
    stack.convolution(stages[0][0], 3, padding=1).activation()
    for number, (channels, blocks) in enumerate(stages):
        for block in range(blocks):
            stack.block(channels, stride=2 if number > 0 and block == 0 else 1)
    stack.global_pool().flatten()


NETWORKS: dict[str, Callable[[Stack, Any], None]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
    "small-vgg": small_vgg,
    "vgg": vgg,
    "resnet": resnet,
}
"""What appends the layers of an architecture, by the name that recipes give it; it takes its settings."""
