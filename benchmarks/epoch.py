"""An epoch of `nctool train` over an epoch of the same network with ReLU in a bare loop of torch, on random images.

    python benchmarks/epoch.py [--repeat R]

Trains the zoo's LeNet on 28x28x1 and its small VGG on 32x32x3 for one epoch each, as `nctool train` does, with
T_val = 4 and a tenth of the images held out. The bare loop has ReLUs, SGD and cross-entropy, and its images lie in
memory as float32, normalised, in the memory format that is quickest; nothing is augmented, measured or written. What is
between the two is noise, its measurement on held-out images, reading pixels, checks and progress. There are just
enough images for the number of measured ones to be in proportion: larger data sets have the same share.

The last line of stdout is one JSON object: `epoch_ratio`, the processor time of one over that of the other, and
`noise_share`, the share of an epoch that measuring the noise takes, by network.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from _common import environment, times_side_by_side
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.recipe.schema import Recipe, parse_recipe
from nctool.training import LabelledImages, Normalisation, TrainingData, fit
from nctool_models import build_model

BATCH = 128
N_TRAIN = 14_400
NETWORKS = {"lenet": (1, 28, 28), "small-vgg": (3, 32, 32)}
RECIPE = """
name = "share"
[data]
name = "random"
[model]
architecture = "{}"
[activation]
threshold_init = 8.0  # not from data: that is done once a run
[training]
epochs = 1
batch_size = 128
learning_rate = 0.01
"""


def random_split(n_images: int, shape: tuple[int, int, int]) -> LabelledImages:
    """Return pixels and labels without any relation."""
    return LabelledImages(torch.randint(256, (n_images, *shape), dtype=torch.uint8), torch.randint(10, (n_images,)))


def network(recipe: Recipe, shape: tuple[int, int, int]) -> nn.Sequential:
    """Return the network of a recipe, the same each time."""
    model = build_model(recipe.model, shape, 10, recipe.activation, seed=0)
    for layer in model:
        if isinstance(layer, NoisyQuantReLU):
            layer.sigma.fill_(0.1)  # as from the second epoch on
    return model


def as_trained(recipe: Recipe, data: TrainingData, lines: list[dict[str, float]]) -> Callable[[], None]:
    """Return an epoch of `nctool train`; it adds its line of metrics."""

    def epoch() -> None:
        with tempfile.TemporaryDirectory() as folder:
            fit(network(recipe, data.input_shape), data, recipe, Path(folder))
            lines.append(json.loads((Path(folder) / "metrics.jsonl").read_text()))

    return epoch


def bare(recipe: Recipe, data: TrainingData) -> Callable[[], None]:
    """Return an epoch of the bare loop."""
    layers = network(recipe, data.input_shape)
    model = nn.Sequential(*(nn.ReLU() if isinstance(layer, NoisyQuantReLU) else layer for layer in layers)).train()
    images, labels = data.normalisation(data.train.images), data.train.labels
    if data.input_shape[0] > 1:
        model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        for chosen in torch.randperm(len(images)).split(BATCH):
            sgd.zero_grad(set_to_none=True)
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            sgd.step()

    return epoch


def measure(architecture: str, shape: tuple[int, int, int], repeat: int) -> dict[str, float]:
    """Return the processor seconds of both epochs, and those of the noise."""
    recipe = parse_recipe(RECIPE.format(architecture))
    splits = [random_split(n_images, shape) for n_images in (N_TRAIN, N_TRAIN // 9, 10)]
    data = TrainingData("random", tuple("0123456789"), *splits, Normalisation((0.5,) * shape[0], (0.25,) * shape[0]))
    lines: list[dict[str, float]] = []
    times = times_side_by_side({"nctool": as_trained(recipe, data, lines), "bare": bare(recipe, data)}, repeat)
    shares = sorted(line["seconds_noise"] / line["seconds"] for line in lines)
    return {"nctool": times["nctool"].cpu, "bare": times["bare"].cpu, "noise_share": shares[len(shares) // 2]}


def main() -> None:
    """Measure both networks and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    torch.manual_seed(0)
    rows = {name: measure(name, shape, repeat) for name, shape in NETWORKS.items()}
    ratios = {name: row["nctool"] / row["bare"] for name, row in rows.items()}
    for name, row in rows.items():
        print(f"{name:12} {ratios[name]:.2f} ({row['nctool']:.1f} s over {row['bare']:.1f} s), ", end="")
        print(f"{100 * row['noise_share']:.1f} % for the noise")
    shares = {name: row["noise_share"] for name, row in rows.items()}
    print(json.dumps({"epoch_ratio": ratios, "noise_share": shares, "networks": rows, **environment()}))


if __name__ == "__main__":
    main()
