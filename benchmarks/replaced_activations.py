"""What it costs to put nn.ReLU in the place of another activation of a network that is trained.

    python benchmarks/replaced_activations.py [--seeds N]

Trains a small convolutional network on the digits for each activation, replaces every one by nn.ReLU, and trains on for
0, 1 and 5 epochs at a tenth of the learning rate. Accuracies are those of the float network on the test images, means
over seeds.

The last line of stdout is one JSON object; its key `accuracy` holds the accuracies for each activation.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from _common import environment
from nctool_models import load_dataset

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "LeakyReLU(0.01)": nn.LeakyReLU,
    "LeakyReLU(0.1)": lambda: nn.LeakyReLU(0.1),
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Hardswish": nn.Hardswish,
}
EPOCHS = 20
EPOCHS_AFTER = (0, 1, 5)
LEARNING_RATE = 0.05
BATCH = 64

Split = tuple[Tensor, Tensor]


def network(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Return two convolutions with batch norm, a hidden layer and the logits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), activation(), nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), activation(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 64), activation(), nn.Linear(64, 10),
    )  # fmt: skip


def train(net: nn.Module, split: Split, epochs: int, rate: float) -> None:
    """Train with stochastic gradient descent and a cosine."""
    images, labels = split
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(epochs, 1))
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(net.train()(images[batch]), labels[batch]).backward()
            optimiser.step()
        schedule.step()


@torch.no_grad()
def accuracy(net: nn.Module, split: Split) -> float:
    """Return the share of right answers."""
    images, labels = split
    return float((net.eval()(images).argmax(1) == labels).double().mean())


def with_relu(net: nn.Sequential) -> nn.Sequential:
    """Return a copy whose activations are nn.ReLU."""
    kept = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.Flatten, nn.Linear)
    return nn.Sequential(*(layer if isinstance(layer, kept) else nn.ReLU() for layer in copy.deepcopy(net)))


def measure(name: str, seed: int, training: Split, test: Split) -> dict[str, float]:
    """Return the accuracy as trained, and behind each number of epochs with nn.ReLU."""
    torch.manual_seed(seed)
    net = network(ACTIVATIONS[name])
    train(net, training, EPOCHS, LEARNING_RATE)
    found = {"as trained": accuracy(net, test)}
    for epochs in EPOCHS_AFTER:
        replaced = with_relu(net)
        train(replaced, training, epochs, LEARNING_RATE / 10)
        found[f"ReLU, {epochs} epochs"] = accuracy(replaced, test)
    return found


def main() -> None:
    """Measure every activation and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    data = load_dataset("digits")
    splits = [
        ((torch.from_numpy(pixels).float() / 255 - data.mean[0]) / data.std[0], torch.from_numpy(labels).long())
        for pixels, labels in ((data.x_train, data.y_train), (data.x_test, data.y_test))
    ]
    means = {}
    for name in ACTIVATIONS:
        runs = [measure(name, seed, splits[0], splits[1]) for seed in range(seeds)]
        means[name] = {key: sum(run[key] for run in runs) / seeds for key in runs[0]}
        print(f"{name:16}", "  ".join(f"{key} {100 * value:5.1f} %" for key, value in means[name].items()))
    print(json.dumps({"accuracy": means, "seeds": seeds, **environment()}))


if __name__ == "__main__":
    main()
