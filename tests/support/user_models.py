"""Networks as people write them, small, with random weights: what `nctool.convert` is given in the wild.

Each function returns a network in evaluation mode whose batch norms have seen data; `IMAGES` says what it takes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N_IMAGES = 48


class MnistTutorial(nn.Module):
    """The network of PyTorch's MNIST example, its layers narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1)
        self.conv2 = nn.Conv2d(8, 16, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(2304, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = self.fc1(x)
        x = F.relu(x)
        x = self.dropout2(x)
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


class CifarTutorial(nn.Module):
    """The network of PyTorch's CIFAR tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def lenet5() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in (8, "M", 16, 16, "M", 32, "M"):
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    classifier = [nn.Flatten(), nn.Linear(32 * 4, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10)]
    return nn.Sequential(*layers, *classifier)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, as in ResNet-18."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut, as in ResNet-50."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        out = planes * self.expansion
        self.relu = nn.ReLU(inplace=True)
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or inputs != out:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + identity)


class PreActBlock(nn.Module):
    """Norm and activation before each convolution."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Conv2d(inputs, planes, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return self.conv2(F.relu(self.bn2(out))) + shortcut


class ResNet(nn.Module):
    """Three blocks of one kind."""

    def __init__(self, block: Callable[..., nn.Module], expansion: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = block(8, 8)
        self.layer2 = block(8 * expansion, 16, 2)
        self.layer3 = block(16 * expansion, 16)
        self.linear = nn.Linear(16 * expansion, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.adaptive_avg_pool2d(out, (1, 1))
        return self.linear(out.view(out.size(0), -1))


def mobilenet_v1() -> nn.Module:
    def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.ReLU(True),
            ),
            *(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)),
        )

    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    blocks = [separable(8, 16, 1), separable(16, 24, 2), separable(24, 24, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


class InvertedResidual(nn.Module):
    """A block of MobileNet v2: its last convolution has no activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def mobilenet_v2() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    head = [nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    return nn.Sequential(
        *stem, InvertedResidual(), InvertedResidual(), *head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


class Fire(nn.Module):
    """A module of SqueezeNet."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.squeeze(x))
        return torch.cat([self.activation(self.expand1x1(x)), self.activation(self.expand3x3(x))], 1)


def squeezenet() -> nn.Module:
    features = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True)]
    features += [Fire(8, 4, 8), Fire(16, 4, 8)]
    classifier = [nn.Dropout(0.5), nn.Conv2d(16, 10, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))]
    return nn.Sequential(*features, *classifier, nn.Flatten())


class Inception(nn.Module):
    """Four branches, joined, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self._unit(3, 8, 3)
        self.branch1 = self._unit(8, 4, 1)
        self.branch2 = nn.Sequential(self._unit(8, 4, 1), self._unit(4, 6, 3))
        self.branch3 = nn.Sequential(self._unit(8, 4, 1), self._unit(4, 4, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), self._unit(8, 4, 1))
        self.fc = nn.Linear(18, 10)

    @staticmethod
    def _unit(inputs: int, outputs: int, kernel: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=0.001), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        x = torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)
        return self.fc(x.mean(dim=[2, 3]))


class DenseNet(nn.Module):
    """Layers that each read all before them, norm and activation first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * k) for k in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * k, 4, 3, padding=1, bias=False) for k in range(3))
        self.classifier = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.conv0(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return self.classifier(F.adaptive_avg_pool2d(torch.cat(features, 1), 1).flatten(1))


def pilotnet() -> nn.Module:
    """The network of "End to End Learning for Self-Driving Cars", on half the image; one number comes out."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.Conv2d(6, 9, 5, 2), nn.ReLU(), nn.Conv2d(9, 12, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(12 * 4 * 20, 25), nn.ReLU(), nn.Linear(25, 10), nn.ReLU(), nn.Linear(10, 1)),
    )


class KeywordSpotting(nn.Module):
    """Convolutions along the time of a sound."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(1, 8, kernel_size=16, stride=4), nn.BatchNorm1d(8)
        self.pool1 = nn.MaxPool1d(2)
        self.conv2, self.bn2 = nn.Conv1d(8, 16, kernel_size=3), nn.BatchNorm1d(16)
        self.fc1 = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool1d(x, x.shape[-1])
        return F.log_softmax(self.fc1(x.squeeze(-1)), dim=1)


def sensors() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(24, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)),
    )


def dense_autoencoder() -> nn.Module:
    encoder = nn.Sequential(nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 24))
    return nn.Sequential(encoder, decoder)


def image_autoencoder() -> nn.Module:
    encoder = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()]
    enlarging = [nn.ConvTranspose2d(16, 8, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, stride=2), nn.Sigmoid()]
    return nn.Sequential(*encoder, *enlarging)


class UNet(nn.Module):
    """An image comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        x = F.relu(self.bottom(F.max_pool2d(skip, 2)))
        return self.out(torch.cat([skip, F.relu(self.up(x))], dim=1))


class Transformer(nn.Module):
    """Patches, one encoder layer, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.encoder(x).mean(dim=1))


class Gated(nn.Module):
    """Squeeze-and-excitation: a network multiplies by what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(F.adaptive_avg_pool2d(x * gate, 1).flatten(1))


def basic_resnet() -> nn.Module:
    return ResNet(BasicBlock, 1)


def bottleneck_resnet() -> nn.Module:
    return ResNet(Bottleneck, 4)


def preact_resnet() -> nn.Module:
    return ResNet(PreActBlock, 1)


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    MnistTutorial: (1, 28, 28),
    CifarTutorial: (3, 32, 32),
    lenet5: (1, 28, 28),
    vgg: (3, 16, 16),
    basic_resnet: (3, 12, 12),
    bottleneck_resnet: (3, 12, 12),
    preact_resnet: (3, 12, 12),
    mobilenet_v1: (3, 16, 16),
    mobilenet_v2: (3, 16, 16),
    squeezenet: (3, 20, 20),
    Inception: (3, 12, 12),
    DenseNet: (3, 8, 8),
    pilotnet: (3, 33, 100),
    KeywordSpotting: (1, 128),
    sensors: (24,),
    dense_autoencoder: (24,),
    image_autoencoder: (3, 16, 16),
    UNet: (3, 16, 16),
    Transformer: (3, 16, 16),
    Gated: (3, 8, 8),
}
"""What each network takes."""


def trained(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """Return a network with random weights, its batch norms calibrated, and images for it."""
    torch.manual_seed(0)
    net, images = make(), torch.randn(N_IMAGES, *shape)
    with torch.no_grad():
        for _ in range(3):
            net.train()(images)
    return net.eval(), images
