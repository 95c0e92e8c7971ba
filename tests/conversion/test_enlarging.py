"""Layers that enlarge an image: exactly as torch computes them, in real numbers and in integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from torch import Tensor, nn
from torch.nn import functional as F

from nctool.conversion.float_network import FloatNetwork, map_synapses
from nctool.conversion.folding import fold_pooling
from nctool.conversion.trace.compare_runs import require_same_network
from nctool.conversion.trace.prepare import rectify
from nctool.conversion.trace.tracing import trace
from nctool.errors import UnsupportedError
from tests.conversion.test_composed import require_exact, with_statistics
from tests.support.networks import random_pixels, seeds
from tests.support.torch_models import act, converted, on_both_engines

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.randn(4, 2, 5, 6, generator=torch.Generator().manual_seed(0))


def pairs(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    return tuple(rng.integers(low, high, 2).tolist())


def random_transposed(rng: np.random.Generator, channels: int) -> nn.ConvTranspose2d:
    """Draw any geometry, padding beyond the kernel and one-sided padding of the output among them."""
    stride, dilation, groups = pairs(rng, 1, 4), pairs(rng, 1, 4), int(rng.choice([1, channels]))
    more = tuple(int(rng.integers(max(one, other))) for one, other in zip(stride, dilation, strict=True))
    return nn.ConvTranspose2d(
        channels, groups * int(rng.integers(1, 3)), pairs(rng, 1, 5), stride, pairs(rng, 0, 4), more, groups,
        bias=bool(rng.integers(2)), dilation=dilation,
    )  # fmt: skip


def features(model: nn.Module) -> int:
    """Return how many numbers a model gives for an image, 0 where it does not fit."""
    try:
        return model.eval()(torch.zeros(1, 2, 5, 6)).numel()
    except (RuntimeError, ValueError):
        return 0


class Decoder(nn.Module):
    """One or two layers that enlarge, each before or behind another layer, from the input or from spikes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed % 2**31)
        layers: list[nn.Module] = [nn.Conv2d(2, 4, 3, padding=1), act()] if rng.integers(2) else []
        for _ in range(int(rng.integers(1, 3))):
            channels = next((m.out_channels for m in reversed(layers) if hasattr(m, "out_channels")), 2)
            if isinstance(layers[-1] if layers else None, nn.PixelShuffle):
                channels //= 4
            layers += self._enlarging(rng, channels)
        self.layers = nn.Sequential(*layers)
        self.features = features(self.layers)
        self.last = nn.Linear(max(1, self.features), 3)

    def _enlarging(self, rng: np.random.Generator, channels: int) -> list[nn.Module]:
        kind = int(rng.integers(4))
        if kind == 0:
            layer = random_transposed(rng, channels)
            return [layer, nn.BatchNorm2d(layer.out_channels), act(float(rng.uniform(0.2, 1)))]
        padding, stride, dilation = (pairs(rng, low, 3) for low in (0, 1, 1))
        wide = nn.Conv2d(channels, 8, pairs(rng, 1, 4), stride if kind == 1 else 1, padding, dilation)
        mode = str(rng.choice(["nearest", "nearest-exact"]))
        up = nn.Upsample(scale_factor=tuple(map(float, pairs(rng, 1, 4))), mode=mode)
        if kind == 1:
            return [up, wide, nn.BatchNorm2d(8), act()]
        if kind == 2:
            return [wide, nn.BatchNorm2d(8), up, nn.BatchNorm2d(8), act()]
        return [wide, act(), nn.PixelShuffle(2), nn.Conv2d(2, 4, pairs(rng, 1, 4), stride, padding, dilation), act()]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x).flatten(1))


@given(seeds)
def test_layers_that_enlarge_are_those_of_torch(seed):
    model = Decoder(seed)
    assume(model.features)
    with torch.no_grad():
        require_exact(with_statistics(model), (2, 5, 6))


# --- what is written as a function, and what stands before an activation


class Run(nn.Module):
    """A convolution, what a function does to its activation or its drive, a second convolution, dense logits."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 4) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.function, self.second = function, nn.Conv2d(channels, 3, 3, padding=1)
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(self.function(self.first(x))))
        return self.last(x.mean((2, 3)))


def sizes(network: FloatNetwork) -> list[tuple[int, ...]]:
    return [population.shape for population in network.populations]


SPELLINGS = {
    "scale": lambda x: F.interpolate(F.relu(x), scale_factor=2),
    "two scales": lambda x: F.interpolate(F.relu(x), scale_factor=(2.0, 2.0), mode="nearest"),
    "exact": lambda x: F.interpolate(F.relu(x), scale_factor=2, mode="nearest-exact"),
    "size": lambda x: F.interpolate(F.relu(x), size=(10, 12)),
    "its size": lambda x: F.interpolate(F.relu(x), size=(2 * x.shape[2], 2 * x.size(3))),
    "before the activation": lambda x: F.relu(F.interpolate(x, scale_factor=2)),
    "by name": lambda x: F.interpolate(input=F.relu(x), scale_factor=2),
}


@pytest.mark.parametrize("function", SPELLINGS.values(), ids=SPELLINGS)
def test_functions_that_enlarge(function):
    net = rectify(Run(function).eval(), IMAGES)
    network = trace(net, (2, 5, 6))
    assert sizes(network) == [(4, 5, 6), (3, 10, 12), (3,)]
    require_same_network(net, network, IMAGES)
    weights = [synapse.weight.shape for synapse in map_synapses(network, fold_pooling).populations[1].synapses]
    assert weights == [(3, 4, 4, 4)]  # kernel 3 on blocks of 2


@pytest.mark.parametrize("function", [lambda x: F.pixel_shuffle(F.relu(x), 2), lambda x: F.relu(F.pixel_shuffle(x, 2))])
def test_functions_that_shuffle(function):
    net = rectify(Run(function, 1).eval(), IMAGES)
    network = trace(net, (2, 5, 6))
    assert sizes(network) == [(4, 5, 6), (3, 10, 12), (3,)]
    require_same_network(net, network, IMAGES)


def test_norm_and_activation_come_before_what_repeats_neurons():
    """One neuron for each block, whatever the stride of the convolution."""
    up = [nn.Conv2d(2, 4, 3, 2, 1), nn.Upsample(scale_factor=3), nn.BatchNorm2d(4), nn.ReLU()]
    net = nn.Sequential(*up, nn.Flatten(), nn.Linear(4 * 81, 3)).eval()
    net[2].running_mean.uniform_(-1, 1)
    found = rectify(net, IMAGES)
    torch.testing.assert_close(found(IMAGES), net(IMAGES))
    network = trace(found, (2, 5, 6))
    require_same_network(found, network, IMAGES)
    assert sizes(network) == [(4, 3, 3), (3,)]
    assert map_synapses(network, fold_pooling).populations[1].synapses[0].weight.shape == (3, 36)


def test_a_shuffle_and_a_repetition_change_places_with_the_activation():
    enlarging = [nn.Conv2d(2, 16, 3), nn.PixelShuffle(2), nn.UpsamplingNearest2d(scale_factor=2), nn.ReLU()]
    net = nn.Sequential(*enlarging, nn.Flatten(), nn.Linear(768, 3)).eval()
    network = trace(rectify(net, IMAGES), (2, 5, 6))
    assert sizes(network) == [(16, 3, 4), (3,)]
    assert map_synapses(network, fold_pooling).populations[1].synapses[0].weight.shape == (3, 16 * 12)


# --- joins, sums, norms and poolings beside what enlarges ----------------


class Skips(nn.Module):
    """A U of two levels: what is enlarged is joined with spikes, added to them, normalised and pooled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.top, self.bottom, self.turn = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1), turned(8, 4)
        self.up, self.shuffle, self.pool = nn.Upsample(scale_factor=2), nn.PixelShuffle(2), nn.AvgPool2d(3, 2)
        self.both, self.point = nn.Conv2d(14, 6, 3, padding=1, groups=2), nn.Conv2d(8, 6, 1)
        self.of_sum, self.of_spikes = nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.acts, self.last = nn.ModuleList(act(0.3) for _ in range(4)), nn.Linear(6 * 3 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        high = self.acts[0](self.top(x))
        low = self.acts[1](self.bottom(high))
        mixed = self.acts[2](self.of_sum(self.turn(low)) + high)
        joined = torch.cat([self.up(low), mixed, self.shuffle(low)], 1)
        x = self.acts[3](self.both(joined) + self.point(self.of_spikes(self.up(low))))
        return self.last(self.pool(self.up(x)).flatten(1))


def turned(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)


def test_what_is_enlarged_is_joined_added_normalised_and_pooled():
    with torch.no_grad():
        populations = require_exact(with_statistics(Skips()), (2, 4, 10))
    assert [population.shape for population in populations] == [(4, 4, 10), (8, 2, 5), (4, 4, 10), (6, 4, 10), (3,)]


@pytest.mark.parametrize("n_steps", [1, 4])
def test_integers_give_one_trace_on_both_engines(n_steps):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), act(0.5), nn.Upsample(scale_factor=2), nn.Conv2d(4, 8, 3, padding=1), act(0.2),
        nn.PixelShuffle(2), turned(2, 3), act(0.1), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4),
    ).eval()  # fmt: skip
    found = converted(net, (1, 4, 4), n_steps=n_steps, std=0.25)
    assert [p.synapses[0].conv.input_dilation for p in found.network.populations[:-1]] == [(1, 1), (2, 2), (4, 4)]
    trace_of = on_both_engines(found.network, random_pixels(found.network, 8))
    assert all(spikes.any() for spikes in trace_of.spikes.values())
    assert {"fold enlargements"} <= {change.step for change in found.changes}


def test_a_sequence_is_enlarged_by_a_transposed_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3), act(), nn.ConvTranspose1d(4, 6, 4, 3, 2, output_padding=1, groups=2), act(), nn.Flatten(),
        nn.Linear(6 * 22, 3),
    )  # fmt: skip
    network = trace(net.eval(), (2, 10))
    assert sizes(network) == [(4, 1, 8), (6, 1, 22), (3,)]
    require_same_network(net, network, torch.randn(2, 2, 10))


# --- what is refused ------------------------------------------------------


def after(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


ONE_SIDE = nn.ConvTranspose2d(4, 4, 3, 2)
REFUSED = {
    "bilinear": (
        after(nn.Upsample(scale_factor=2, mode="bilinear")),
        "module `2` (Upsample with mode='bilinear') cannot be converted",
        "use mode='nearest', or nn.ConvTranspose2d, and train again",
    ),
    "broken": (
        after(nn.Upsample(scale_factor=1.5)),
        "module `2` (Upsample of 5x6 by 1.5) cannot be converted",
        "enlarge by a whole number along each axis",
    ),
    "broken size": (
        after(nn.Upsample(size=(10, 10))),
        "module `2` (Upsample of 5x6 to 10x10) cannot be converted",
        "enlarge by a whole number along each axis",
    ),
    "function": (
        Run(lambda x: F.interpolate(F.relu(x), size=7)),
        "function `interpolate` (of 5x6 to 7x7) cannot be converted",
        "enlarge by a whole number along each axis",
    ),
    "bicubic function": (
        Run(lambda x: F.interpolate(F.relu(x), size=10, mode="bicubic")),
        "function `interpolate` (with mode='bicubic') cannot be converted",
        "use mode='nearest', or nn.ConvTranspose2d, and train again",
    ),
    "unshuffle": (
        after(nn.AvgPool2d((5, 3)), nn.PixelUnshuffle(1)),
        "module `3` (PixelUnshuffle) cannot be converted",
        "use nn.Conv2d with the same stride, and train again: it reads each pixel of a block with a weight of its own",
    ),
    "averages": (
        after(nn.AvgPool2d(5), nn.Upsample(scale_factor=(2.0, 2.0)), nn.Conv2d(4, 4, 1), nn.ReLU()),
        "module `2`: its averages are enlarged before `4` reads them, which has no exact form",
        "put nn.Conv2d and nn.ReLU right behind `2`, and train again",
    ),
    "one number": (
        after(nn.AvgPool2d(5), nn.Upsample(scale_factor=2)),
        "module `3` (Upsample of a sequence, or of an image of height 1, with one number) cannot be converted",
        "use nn.ConvTranspose1d, or give one number for the height and one for the width",
    ),
    "norm": (
        after(nn.BatchNorm2d(4), ONE_SIDE),
        "module `3`: pads with zeros what the norm `2` gives, allowed is padding of what an activation gives",
        None,
    ),
    "linear": (
        nn.Sequential(nn.Conv2d(2, 4, 3), ONE_SIDE, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "module `1`: follows `0` with no activation between them",
        "put nn.ReLU right before `1`, then nctool.prepare, and train again",
    ),
    "strided": (
        nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(64, 3)),
        "module `1`: enlarges what `0` gives with stride (2, 2), allowed 1 where no activation lies between",
        "put nn.ReLU right before `1`, then nctool.prepare, and train again",
    ),
}


@pytest.mark.parametrize(("model", "message", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_form_is_refused_with_a_way_out(model, message, hint):
    with pytest.raises(UnsupportedError) as caught:
        rectify(model.eval(), IMAGES)
    assert caught.value.message == message
    assert hint in (None, caught.value.hint)


class Sized(nn.Module):
    """A transposed convolution that is told the size of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.last = nn.Conv2d(2, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 3, 2, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.up(F.relu(self.first(x)), output_size=(5, 6))).mean((2, 3)))


def test_a_size_that_is_told_when_it_is_called_is_refused():
    with pytest.raises(UnsupportedError) as caught:
        rectify(Sized().eval(), IMAGES)
    assert caught.value.message == "module `up` (ConvTranspose2d called with output_size) cannot be converted"
