"""Train the plain ReLU networks that the benchmark converts, and keep them in a folder.

SGD with momentum and a cosine after a warm-up, in bfloat16. The last weights count: nothing is chosen by test images.
In: a name, a data set, a folder. Out: there, `NAME.pt`, the state dict, and `NAME.json`, how it was trained and its
test accuracy. A run that was cut off goes on after its last whole epoch.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from _relu_networks import NETWORKS
from nctool_models.datasets.dataset import Dataset

_BATCH = 128
_PADDING = 4
_WEIGHT_DECAY = 5e-4
_SEED = 1


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images.
        learning_rate: the highest.
        augment: images are shifted by up to 4 pixels and mirrored.
    """

    epochs: int
    learning_rate: float
    augment: bool

    def rate(self, epoch: float) -> float:
        """Return the learning rate: up on a line for a fifth of the time, down on a cosine."""
        part, warm = epoch / self.epochs, 0.2
        if part < warm:
            return self.learning_rate * (0.05 + 0.95 * part / warm)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (part - warm) / (1 - warm)))


SCHEDULES = {
    "digits-cnn": Schedule(20, 0.05, augment=False),
    "lenet-max": Schedule(5, 0.05, augment=False),
    "lenet-avg": Schedule(5, 0.05, augment=False),
    "small-vgg-max": Schedule(10, 0.1, augment=True),
    "small-vgg-avg": Schedule(8, 0.1, augment=True),
    "resnet20": Schedule(8, 0.1, augment=True),
}


def trained(name: str, data: Dataset, folder: Path) -> nn.Sequential:
    """Return a trained network in evaluation mode; what is missing in `folder` is trained."""
    folder.mkdir(parents=True, exist_ok=True)
    network, done = NETWORKS[name](), report(name, folder).get("epochs", 0)
    if done < SCHEDULES[name].epochs:
        _train(name, data, folder, done)
    network.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    return network.eval()


def report(name: str, folder: Path) -> dict[str, Any]:
    """Return how a network was trained; empty where it was not."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _train(name: str, data: Dataset, folder: Path, done: int) -> None:
    """Train on from epoch `done`; write the network, the optimiser and the report after every epoch."""
    torch.manual_seed(_SEED)
    schedule, network = SCHEDULES[name], NETWORKS[name]().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), momentum=0.9, nesterov=True, weight_decay=_WEIGHT_DECAY)
    kept = {folder / f"{name}.pt": network, folder / f"{name}-optimiser.pt": optimiser}
    if done:
        for path, part in kept.items():
            part.load_state_dict(torch.load(path, weights_only=True))
    seconds = report(name, folder).get("training_seconds", 0.0)
    for epoch in range(done, schedule.epochs):
        start = time.perf_counter()
        loss = _epoch(network, data, schedule, optimiser, epoch)
        seconds += time.perf_counter() - start
        for path, part in kept.items():
            torch.save(part.state_dict(), path)
        about = {"epochs": epoch + 1, "seed": _SEED, "loss": loss, "training_seconds": round(seconds, 1)}
        about["test_accuracy"] = accuracy(network, data)
        (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
        print(f"{name}: {about}", file=sys.stderr)
    (folder / f"{name}-optimiser.pt").unlink()


def _epoch(network: nn.Module, data: Dataset, schedule: Schedule, optimiser: Any, epoch: int) -> float:
    """Train on every training image once, in a drawn order; return the mean loss."""
    network.train()
    generator = torch.Generator().manual_seed(_SEED + epoch)
    images, labels = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    n_batches, losses = len(images) // _BATCH, []
    order = torch.randperm(len(images), generator=generator)[: n_batches * _BATCH]
    for number, chosen in enumerate(order.split(_BATCH)):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(epoch + number / n_batches)
        batch = _augmented(images[chosen], generator) if schedule.augment else images[chosen]
        x = normalised(batch, data).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(network(x).float(), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `_PADDING` pixels, black outside, and mirror every other one."""
    n, _, height, width = images.shape
    windows = functional.pad(images, [_PADDING] * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(0, 2 * _PADDING + 1, (2, n), generator=generator)
    shifted = windows[torch.arange(n), :, down, right]
    mirror = torch.rand(n, generator=generator) < 0.5
    return torch.where(mirror[:, None, None, None], shifted.flip(3), shifted)


def normalised(images: Tensor, data: Dataset) -> Tensor:
    """Return uint8 images as the network takes them: (pixel/255 − mean) / std for each channel."""
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (data.mean, data.std))
    return (images.float() / 255 - mean) / std


def accuracy(network: nn.Module, data: Dataset) -> float:
    """Return top-1 of the float network on the test images."""
    return float((answers(network, data) == data.y_test).mean())


def answers(network: nn.Module, data: Dataset) -> NDArray[np.int64]:
    """Return the class that the float network gives each test image, int64 (N,)."""
    network.eval()
    with torch.inference_mode():
        logits = [network(normalised(part, data)) for part in torch.from_numpy(data.x_test).split(500)]
    return torch.cat(logits).argmax(1).numpy()
