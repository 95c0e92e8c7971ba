"""Residual networks for small images: a 3x3 stem, stages of residual blocks, global average pooling.

In: a stack to append to, settings. Out: the stack, up to what stands before the last dense layer.
"""

from __future__ import annotations

from nctool.recipe.schema import ResnetSettings
from nctool_models.architectures.stack import Stack

_STAGES = {
    8: ((16, 1), (32, 1), (64, 1)),
    18: ((64, 2), (128, 2), (256, 2), (512, 2)),
    20: ((16, 3), (32, 3), (64, 3)),
    34: ((64, 3), (128, 4), (256, 6), (512, 3)),
}
"""Channels and number of blocks of each stage. Source: He et al., arXiv 1512.03385, section 4.2 for the depths 6n + 2,
table 1 for 18 and 34, whose stem is the 3x3 convolution of the others here: the images are small."""


def resnet(stack: Stack, model: ResnetSettings) -> None:
    """Append the stem and the stages; every stage but the first halves the sides."""
    stages = _STAGES[model.depth]
    stack.convolution(stages[0][0], 3, padding=1).activation()
    for number, (channels, blocks) in enumerate(stages):
        for block in range(blocks):
            stack.block(channels, stride=2 if number > 0 and block == 0 else 1)
    stack.global_pool().flatten()
