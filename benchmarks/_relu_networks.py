"""Plain ReLU networks to convert: a small CNN, LeNet and small VGG with average or max pooling, and ResNet-20.

Their widths are those of the model zoo, but they are ordinary torch modules of Conv2d, BatchNorm, ReLU, pooling and
Linear, as a user has them who never heard of spikes. This file imports torch alone, so that the environment of the
other libraries can load it. In: a name. Out: the network with fresh weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

N_CLASSES = 10


def digits_cnn() -> nn.Sequential:
    """Return a network for 8x8x1 images: two 3x3 convolutions, a pooling, two dense layers."""
    return nn.Sequential(
        *_convolution(1, 16, 3),
        *_convolution(16, 32, 3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *_dense(512, 64),
        nn.Linear(64, N_CLASSES),
    )


def lenet(pool: type[nn.Module]) -> nn.Sequential:
    """Return LeNet for 28x28x1 images: two 5x5 convolutions, each pooled, and dense layers."""
    return nn.Sequential(
        *_convolution(1, 6, 5, padding=2),
        pool(2),
        *_convolution(6, 16, 5, padding=0),
        pool(2),
        nn.Flatten(),
        *_dense(400, 120),
        *_dense(120, 84),
        nn.Linear(84, N_CLASSES),
    )


def small_vgg(pool: type[nn.Module]) -> nn.Sequential:
    """Return a VGG for 32x32x3 images: three stages of two 3x3 convolutions, each pooled, and a dense layer."""
    layers: list[nn.Module] = []
    inputs = 3
    for channels in (32, 64, 128):
        layers += [*_convolution(inputs, channels, 3), *_convolution(channels, channels, 3), pool(2)]
        inputs = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, N_CLASSES))


def resnet20() -> nn.Sequential:
    """Return ResNet-20 for 32x32x3 images: a stem and three stages of three blocks."""
    layers = [*_convolution(3, 16, 3)]
    inputs = 16
    for channels in (16, 32, 64):
        for block in range(3):
            layers.append(Block(inputs, channels, stride=2 if inputs != channels and block == 0 else 1))
            inputs = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, N_CLASSES))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; where the shape changes, that is a 1x1 convolution.

    Source: He et al., arXiv 1512.03385, figure 2 and option B.
    """

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_convolution(inputs, channels, 3, stride=stride))
        self.second = nn.Sequential(*_convolution(channels, channels, 3))[:2]
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(*_convolution(inputs, channels, 1, stride=stride, padding=0))[:2]

    def forward(self, x: Tensor) -> Tensor:
        """Map activations (N, inputs, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return y


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 1) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
    yield nn.BatchNorm2d(outputs)
    yield nn.ReLU()


def _dense(inputs: int, outputs: int) -> Iterator[nn.Module]:
    yield nn.Linear(inputs, outputs, bias=False)
    yield nn.BatchNorm1d(outputs)
    yield nn.ReLU()


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "digits-cnn": digits_cnn,
    "lenet-max": lambda: lenet(nn.MaxPool2d),
    "lenet-avg": lambda: lenet(nn.AvgPool2d),
    "small-vgg-max": lambda: small_vgg(nn.MaxPool2d),
    "small-vgg-avg": lambda: small_vgg(nn.AvgPool2d),
    "resnet20": resnet20,
}
"""By name, in the order of the tables."""
