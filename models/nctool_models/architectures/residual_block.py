"""The block that residual networks repeat: two convolutions beside a shortcut.

In: channels, stride, activations. Out: an `nn.Module`. The sum stands before the second activation, so that one
population of neurons integrates both branches.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU


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
