"""Residual networks from training to Lava: by the commands, and from a torch module of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nctool
from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.reference.simulate import simulate
from nctool_deploy.netx import read
from tests.support.networks import random_pixels, write_network
from tests.support.torch_models import converted

SIDE = 5
PLACES = [SIDE * SIDE, 9, 4]
"""Positions of the image in each stage of the residual network."""


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of `cifar10-resnet8` for tiny images, as its first weights are, exported."""
    folder, rng = tmp_path_factory.mktemp("resnet"), np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, SIDE, SIDE, 3), np.uint8), np.arange(60) % 3
    np.savez(folder / "tiny.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    settings = {"data.name": folder / "tiny.npz", "training.epochs": 1, "training.batch_size": 54, "noise.steps": 3}
    settings["activation.threshold_init"] = 0.25  # so that all layers fire
    nctool.train("cifar10-resnet8", folder, overrides=settings)
    nctool.export(folder, folder / "model.net", target="loihi2", chips=2)
    return folder / "model.net"


def test_inspect_shows_each_branch(cli, resnet: Path) -> None:
    report = cli("inspect", resnet, "--json").json
    layers = {layer["name"]: layer for layer in report["layers"]}
    branches = {
        name: [(branch["source"], branch["kind"], branch["delay"]) for branch in layer["branches"]]
        for name, layer in layers.items()
    }
    assert branches == {
        "conv1": [("input", "conv", 0)],
        "block1.conv1": [("conv1", "conv", 0)],
        "block1.conv2": [("block1.conv1", "conv", 0), ("conv1", "conv", 1)],
        "block2.conv1": [("block1.conv2", "conv", 0)],
        "block2.conv2": [("block2.conv1", "conv", 0), ("block1.conv2", "conv", 1)],
        "block3.conv1": [("block2.conv2", "conv", 0)],
        "block3.conv2": [("block3.conv1", "conv", 0), ("block2.conv2", "conv", 1)],
        "fc1": [("block3.conv2", "dense", 0)],
    }
    for layer in layers.values():
        assert layer["synapses"] == sum(branch["synapses"] for branch in layer["branches"])
        ranges = np.array([branch["weight_range"] for branch in layer["branches"]])
        assert layer["weight_range"] == [ranges[:, 0].min(), ranges[:, 1].max()]
    skip = layers["block2.conv2"]["branches"][1]
    assert skip["synapses"] == 16 * 32 * PLACES[1]
    assert skip["exponent"] == read(resnet).network.populations[4].synapses[1].exponent > 0
    assert report["cores"] > 0


def test_inspect_prints_the_branches_of_a_sum_under_it(cli, resnet: Path) -> None:
    lines = cli("inspect", resnet).out.splitlines()
    below = lines.index(next(line for line in lines if line.startswith("block2.conv2")))
    one, other = (" ".join(line.split()) for line in lines[below + 1 : below + 3])
    assert one.startswith(f"+ block2.conv1 conv {32 * 32 * 9 * PLACES[1]:,} ")
    assert other.startswith(f"+ block1.conv2 conv, delay 1 {16 * 32 * PLACES[1]:,} ")
    assert " x " in other
    assert sum(line.startswith("+") for line in lines) == 6


@pytest.mark.lava
def test_a_residual_network_is_equal_on_three_engines(cli, resnet: Path) -> None:
    ended = cli("verify", resnet, "--engines", "reference,fast,lava", "--samples", 3)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("EQUAL, bit for bit: file = reference = fast = lava\n")
    known = read(resnet).known_answers.trace
    assert all(0 < spikes.mean() < 1 for spikes in known.spikes.values())


class FromInput(nn.Module):
    """A stem, a block with a skip of its own, and a skip from the input to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(2, 3, 3, padding=1), NoisyQuantReLU(4, 1.0)
        self.branch, self.act2 = nn.Conv2d(3, 3, 3, padding=1), NoisyQuantReLU(4, 1.0)
        self.last, self.raw, self.act3 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(2, 3, 1), NoisyQuantReLU(4, 1.0)
        self.head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.stem(x))
        return self.head(self.act3(self.last(self.act2(self.branch(y))) + y + self.raw(x)))


@pytest.mark.lava
def test_a_torch_module_with_skips_is_verified_on_three_engines(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = converted(FromInput(), (2, 4, 4), std=0.3, n_steps=3).network
    assert [synapse.source for synapse in network.populations[2].synapses] == ["branch", "stem", "input"]
    pixels = random_pixels(network, 5)
    path = write_network(network, tmp_path / "model.net", pixels)
    assert read(path).network == network
    np.save(tmp_path / "pixels.npy", pixels)
    report = nctool.verify(path, engines=["reference", "fast", "lava"], input=tmp_path / "pixels.npy")
    assert report.equal
    assert report.samples == 5
    assert all(0 < spikes.mean() < 1 for spikes in simulate(network, pixels).spikes.values())
