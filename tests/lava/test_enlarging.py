"""Networks that enlarge images in Lava: the same trace as the reference and the fast engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nctool
from nctool.fast.engine import FastEngine
from nctool.reference.simulate import simulate
from nctool.reference.trace import join
from nctool.verification.divergence import first_divergence
from nctool_deploy.lava.engine import LavaJob, run_jobs
from tests.support.networks import random_enlarged, random_pixels, write_network


class Decoder(nn.Module):
    """An encoder and a decoder with a skip between them: a transposed convolution, nearest neighbours, a shuffle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.bottom = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
        self.turn = nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1, groups=2)
        self.near, self.wide, self.last = nn.Conv2d(14, 8, 3, padding=1), nn.Conv2d(2, 5, 3, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        low = F.relu(self.bottom(skip))
        x = torch.cat([F.relu(self.turn(low) + skip), F.interpolate(low, scale_factor=2)], 1)
        x = F.pixel_shuffle(F.relu(self.near(x)), 2)
        return self.last(F.relu(self.wide(x)).mean((2, 3)))


@pytest.mark.lava
@pytest.mark.filterwarnings("ignore::nctool.errors.NctoolWarning")
def test_a_decoder_gives_one_trace_in_every_engine(tmp_path):
    images = torch.randn(32, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    nctool.convert(Decoder().eval(), images, tmp_path / "decoder.net", steps=3)
    for engines in (["reference", "fast"], ["reference", "lava"]):
        found = nctool.verify(tmp_path / "decoder.net", engines=engines, input=images[:4].numpy())
        assert found.equal and found.overflows == 0
        assert found.compared_spikes > 100


@pytest.mark.lava
def test_random_networks_that_enlarge_in_lava(tmp_path):
    networks = [random_enlarged(seed) for seed in range(8)]
    samples = [random_pixels(network, 3, seed) for seed, network in enumerate(networks)]
    jobs = [
        LavaJob(write_network(n, tmp_path / f"{k}.net", pixels), n.input.signal(pixels, n.n_steps), n.n_steps)
        for k, (n, pixels) in enumerate(zip(networks, samples, strict=True))
    ]
    total = 0
    for network, pixels, lava in zip(networks, samples, run_jobs(jobs), strict=True):
        reference = simulate(network, pixels)
        assert join(FastEngine(network).traces(pixels)) == reference
        assert first_divergence(network, reference, lava, ("reference", "lava")) is None
        total += sum(int(np.count_nonzero(spikes)) for spikes in reference.spikes.values())
    assert total > 0
