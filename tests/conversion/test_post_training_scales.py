"""Post-training conversion of networks whose channels differ grossly in size, and of bounded activations."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nctool

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = np.random.default_rng(0).integers(0, 256, (120, 3, 8, 8), dtype=np.uint8)


def converted(model: nn.Module, folder: Path, steps: int, **options: object) -> object:
    return nctool.convert(
        model, IMAGES, folder / "model.net", mean=0.5, std=0.25, target="lava", steps=steps, **options
    )


def depthwise() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()
    net = nn.Sequential(*first, nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    with torch.no_grad():
        net[2].weight *= 3
    return net.eval()


def test_channels_that_are_small_but_read_by_large_weights_keep_their_accuracy(tmp_path):
    """The network computes the same whatever a hidden channel is scaled by."""
    losses = []
    for factor in (1.0, 1 / 256):
        net = depthwise()
        with torch.no_grad():
            net[0].weight[1:] *= factor
            net[0].bias[1:] *= factor
            net[2].weight[1:] /= factor
        losses.append(converted(net, tmp_path, 16).losses["2"])
    assert losses[1] < 1.1 * losses[0]


@pytest.mark.parametrize("gain", [1.0, 300.0])
def test_no_neuron_sends_more_than_the_bound_of_its_activation(tmp_path, gain):
    """More steps make it better, also where the drive is far larger than the bound."""
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU6()
    net = nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    with torch.no_grad():
        net[2].weight *= gain
    losses = [converted(copy.deepcopy(net), tmp_path, steps).losses["2"] for steps in (4, 16)]
    assert losses[1] < losses[0] < 0.6


def test_replicas_of_one_channel_are_summed_in_a_layout_that_torch_computes(tmp_path):
    """With other strides of one channel, oneDNN of torch 2.3 gives wrong sums."""
    torch.manual_seed(0)
    first = nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 6, 4, stride=(1, 3), padding=(0, 1)), nn.ReLU()
    net = nn.Sequential(*first, nn.Flatten(), nn.Linear(24, 4)).eval()
    with torch.no_grad():
        net[0].weight.abs_()
    images = np.random.default_rng(0).integers(0, 256, (100, 1, 7, 4), dtype=np.uint8)
    path = tmp_path / "one.net"
    nctool.convert(net, images, path, mean=0.0, std=1.0, target="lava", steps=1, replicas=4)
    assert nctool.verify(path, engines=["reference", "fast"], input=images[:20]).equal


def test_floats_whose_range_few_numbers_fill_are_noted(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    images = np.random.default_rng(0).normal(size=(100, 2, 8, 8)).astype(np.float32)
    quiet = nctool.convert(net, images, tmp_path / "a.net", target="lava")
    images[7, :, 3, 3] = 1e4
    noted = nctool.convert(net, images, tmp_path / "b.net", target="lava")
    assert not any("256 steps" in note for note in quiet.notes)
    assert any("256 steps of it round the others" in note for note in noted.notes)


def test_floats_of_which_most_are_background_are_not_noted(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    images = np.random.default_rng(0).normal(size=(100, 2, 8, 8)).astype(np.float32)
    images[:, :, :7] = -0.4
    images[:, 1] = 0.0
    assert not any("256 steps" in note for note in nctool.convert(net, images, tmp_path / "a.net", target="lava").notes)
    images[7, :, 3, 3] = 1e4
    noted = nctool.convert(net, images, tmp_path / "b.net", target="lava").notes
    assert any("256 steps of it round the others" in note for note in noted)
