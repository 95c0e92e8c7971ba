"""Concatenations: a layer that reads one is the sum of a layer of each part, exactly as torch computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import nctool
from nctool.activation.noisy_quant import activations
from nctool.conversion.trace.tracing import trace
from nctool.errors import UnsupportedError
from nctool.ir.network import INPUT_NAME, ConvGeometry
from nctool.reference.simulate import simulate
from tests.support.networks import random_pixels, seeds, write_network
from tests.support.torch_models import (
    THETA,
    act,
    binary_pixels,
    converted,
    float_run,
    folded,
    holds_nothing,
    on_both_engines,
    pre_activation,
    real_input,
    whole,
)

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = (2, 6, 5)
ALONG = "cannot be converted\nhint: join along the channels, dim=1"
ACTIVATION = "put nn.ReLU right before `cat`, then nctool.prepare, and train again"


class Model(nn.Module):
    """Layers for IMAGE, joined by `join`; every one that is read ends in three logits."""

    def __init__(self, join) -> None:
        super().__init__()
        self.one, self.two, self.act = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 5, 1), act()
        self.small, self.fc = nn.Conv2d(2, 3, 3), nn.Linear(240, 3)
        self.norm, self.pool, self.whole = nn.BatchNorm2d(5), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(self, x)


# --- exactly as torch ---------------------------------------------------


class Dense(nn.Module):
    """Concatenations of every kind: of the input, nested, of one signal twice, pooled, flattened, before a sum."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed % 2**31)
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 2, 1, bias=False)
        groups = int(rng.choice([1, 2, 3, 4, 6, 12]))  # parts of 4, 2, 2 and 4 channels: some end inside of a group
        self.c, self.norm = nn.Conv2d(12, 12, 3, padding=1, groups=groups), nn.BatchNorm2d(12)
        self.d = nn.Conv2d(6, 18, int(rng.integers(1, 3)), padding=0)
        self.head = nn.Linear(18 * 9 + 24 * 9 if self.d.kernel_size == (1, 1) else 18 * 4 + 24 * 9, 5)
        self.acts = nn.ModuleList(act(float(rng.uniform(0.2, 1))) for _ in range(4))
        self.pool, self.drop, self.flat = nn.AvgPool2d(2), nn.Dropout(), nn.Flatten()
        for values in (self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias):
            values.data.uniform_(0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.acts[0](self.a(x)), self.acts[1](self.b(x))
        joined = torch.cat([a, torch.cat((b, x), 1), a], dim=-3)
        c = self.acts[2](self.norm(self.c(joined)) + self.drop(torch.concat([joined], dim=1)))
        d = self.acts[3](self.d(self.pool(torch.concatenate([a, b], axis=1))))
        images = self.pool(torch.cat([c, joined], 1))
        return self.head(torch.cat([self.flat(d), torch.flatten(images, 1)], -1))


@given(seeds)
def test_the_drive_of_every_population_is_that_of_torch(seed):
    model, x = Dense(seed).double().eval(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    populations = folded(model, (2, 6, 6)).populations
    drives, outputs = {}, {}
    for name, layer in activations(model).items():
        layer.register_forward_hook(lambda m, i, o, name=name: drives.update({name: i[0]}))
        layer.register_forward_hook(lambda m, i, o, name=name: outputs.update({name: o}))
    logits = model(x)
    names = dict(zip(("a", "b", "c", "d"), activations(model), strict=True))
    signals = {INPUT_NAME: x} | {population: outputs[name] for population, name in names.items()}
    expected = {population: drives[name] for population, name in names.items()} | {"head": logits}
    for population in populations:
        found = sum(pre_activation(synapse, signals[synapse.source]) for synapse in population.synapses)
        np.testing.assert_allclose(found.detach(), expected[population.name].detach(), rtol=0, atol=1e-12)


class Normed(nn.Module):
    """Batch norms of a sum, one of whose branches has one of its own, twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.inner = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.outer = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False))
        self.act, self.fc = act(), nn.Linear(60, 3)
        for norm in (self.inner, *self.outer):
            for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                if values is not None:
                    values.data.uniform_(0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.act(self.outer(self.inner(self.a(x)) + self.b(x) + x)), 1))


def test_batch_norm_of_a_sum_is_that_of_torch():
    model, x = Normed().double().eval(), torch.randn(3, *IMAGE, dtype=torch.float64)
    expected = model.outer(model.inner(model.a(x)) + model.b(x) + x)
    population = folded(model, IMAGE).populations[0]
    assert [synapse.module for synapse in population.synapses] == ["a", "b", "add_1"]
    found = sum(pre_activation(synapse, x) for synapse in population.synapses)
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=0, atol=1e-12)


class Exact(nn.Module):
    """Layers of integer weights on concatenations, grouped ones too; spikes are worth THETA."""

    def __init__(self, seed: int, groups: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)

        def fill(layer: nn.Module, *worths: tuple[int, float]) -> nn.Module:
            """Draw integers, ±127 among those of each channel, and divide by what the source channels are worth."""
            weight = rng.integers(-127, 128, tuple(layer.weight.shape)) // 30
            weight.reshape(len(weight), -1)[:, 0] = rng.choice([-127, 127], len(weight))
            worth = np.repeat([value for _, value in worths], [count for count, _ in worths])
            if getattr(layer, "groups", 1) > 1:
                worth = worth.reshape(layer.groups, -1).repeat(len(weight) // layer.groups, axis=0)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight / worth.reshape(*worth.shape, *[1] * (weight.ndim - 2))))
                layer.bias.copy_(torch.from_numpy(2.0 * rng.integers(-20, 21, len(weight))))
            return layer

        self.one, self.two = fill(nn.Conv2d(2, 2, 1), (2, 1.0)), fill(nn.Conv2d(2, 2, 3, padding=1), (2, 1.0))
        self.three = fill(nn.Conv2d(6, 6, 3, padding=1, groups=groups), (4, THETA), (2, 1.0))
        self.head = fill(nn.Linear(8 * 9, 4), (8 * 9, THETA))
        self.acts = nn.ModuleList(act(THETA) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.acts[0](self.one(x)), self.acts[1](self.two(x))
        three = self.acts[2](self.three(torch.cat([one, two, x], 1)))
        return self.head(torch.flatten(torch.cat([three, one], 1), 1))


def exact(seed: int, groups: int) -> nn.Module:
    return Exact(seed, groups).double().eval()


@given(seeds, st.sampled_from([1, 2, 3, 6]))
def test_integers_spike_like_torch_where_they_represent_it_exactly(seed, groups):
    model, pixels = exact(seed, groups), binary_pixels(seed, (2, 3, 3))
    conversion = converted(model, (2, 3, 3))
    assume(holds_nothing(conversion))
    assert {change.worst_error for change in conversion.changes if change.step.startswith("round")} == {0.0}
    spikes, logits = float_run(model, real_input(pixels), 4)
    found = on_both_engines(conversion.network, pixels)
    for population, name in zip(("one", "two", "three"), spikes, strict=True):
        np.testing.assert_array_equal(found.spikes[population], spikes[name], population)
    np.testing.assert_array_equal(found.logits, whole(logits))


@pytest.mark.lava
def test_a_network_of_concatenations_is_equal_on_three_engines(tmp_path: Path):
    network = converted(exact(5, 3), (2, 3, 3)).network
    sources = {p.name: [synapse.source for synapse in p.synapses] for p in network.populations}
    assert sources == {"one": ["input"], "two": ["input"], "three": ["one", "two", "input"], "head": ["three", "one"]}
    pixels = random_pixels(network, 5)
    path = write_network(network, tmp_path / "joined.net", pixels)
    np.save(tmp_path / "pixels.npy", pixels)
    assert nctool.verify(path, engines=["reference", "fast", "lava"], input=tmp_path / "pixels.npy").equal
    assert all(0 < spikes.mean() < 1 for spikes in simulate(network, pixels).spikes.values())


# --- what is read -------------------------------------------------------


def test_each_part_gets_its_slice_of_the_weights():
    def join(m: Model, x: torch.Tensor) -> torch.Tensor:
        return m.fc(torch.cat([m.act(m.one(x)), m.act(m.two(x))], 1).flatten(1))

    model = Model(join)
    one, two = trace(model, IMAGE).populations[2].synapses
    weight = model.fc.weight.detach().double().numpy()
    assert (one.module, one.source, one.source_shape) == ("fc", "one", (3, 6, 5))
    assert (two.module, two.source, two.source_shape) == ("fc", "two", (5, 6, 5))
    np.testing.assert_array_equal(one.weight, weight[:, :90])
    np.testing.assert_array_equal(two.weight, weight[:, 90:])
    np.testing.assert_array_equal(one.bias, model.fc.bias.detach().double().numpy())
    assert not two.bias.any()


def test_a_group_that_a_part_ends_in_is_spread_over_both():
    """Groups of two channels on parts of one and three: the first group ends in the second part."""

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.three, self.act = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 3, 1), act()
            self.layer, self.fc = nn.Conv2d(4, 4, 1, groups=2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.cat([self.act(self.one(x)), self.act(self.three(x))], 1)
            return self.fc(torch.flatten(self.act(self.layer(y)), 1))

    model = Grouped()
    with torch.no_grad():
        model.layer.weight.copy_(torch.arange(1.0, 9.0).reshape(4, 2, 1, 1))
    one, three = trace(model, (1, 1, 1)).populations[2].synapses
    assert one.weight[:, :, 0, 0].tolist() == [[1], [3], [0], [0]]
    assert three.weight[:, :, 0, 0].tolist() == [[2, 0, 0], [4, 0, 0], [0, 5, 6], [0, 7, 8]]
    assert one.conv == three.conv == ConvGeometry()


def test_a_concatenation_of_one_tensor_is_that_tensor():
    model = Model(lambda m, x: m.fc(torch.flatten(torch.cat([m.act(torch.cat([m.two(x)], 1))], 1), 1)))
    with pytest.raises(UnsupportedError) as caught:
        trace(model, IMAGE)
    assert str(caught.value.hint).split("; ")[0] == ACTIVATION.format("two")


# --- what is refused ----------------------------------------------------


@pytest.mark.parametrize(
    ("join", "text"),
    [
        (
            lambda m, x: torch.cat([m.one(x), m.two(x)], 1),
            "function `cat`: joins `one` with no activation between them\nhint: " + ACTIVATION.format("one"),
        ),
        (
            lambda m, x: torch.cat([x, x], 2),
            f"function `cat` (along axis 2 of 4) {ALONG}",
        ),
        (lambda m, x: torch.cat([x, x]), f"function `cat` (along axis 0 of 4) {ALONG}"),
        (lambda m, x: torch.cat([x, x], dim=-1), f"function `cat` (along axis -1 of 4) {ALONG}"),
        (lambda m, x: torch.concat([x.flatten(1)] * 2, -2), f"function `concat` (along axis -2 of 2) {ALONG}"),
        (
            lambda m, x: torch.cat([x, m.act(m.small(x))], 1),
            "function `cat`: joins shapes (2, 6, 5) and (3, 4, 3), allowed shapes that differ in the channels only\n"
            "hint: bring the parts to one height and width, for example with nn.AvgPool2d",
        ),
        (
            lambda m, x: torch.cat([x, x.flatten(1)], 1),
            "function `cat`: joins shapes (2, 6, 5) and (60,), allowed shapes that differ in the channels only\n"
            "hint: bring the parts to one height and width, for example with nn.AvgPool2d",
        ),
        (
            lambda m, x: m.act(torch.cat([x, m.act(m.one(x))], 1)),
            "module `act`: follows spikes of `input`, `one`, allowed behind Conv2d, Linear or BatchNorm\n"
            "hint: put it right behind the linear layer",
        ),
        (
            lambda m, x: torch.cat([x, m.act(m.one(x))], 1),
            "model: the output has shape (5, 6, 5), allowed (classes,)\n"
            "hint: pool and flatten before the last nn.Linear",
        ),
        (
            lambda m, x: m.one(torch.cat([x, m.act(m.one(x))], 1)),
            "module `one` (Conv2d): gets shape (5, 6, 5), allowed (2, h, w)",
        ),
        (
            lambda m, x: m.one(x) + torch.cat([x, x], 1),
            "function `add`: adds shapes (3, 6, 5) and (4, 6, 5), allowed two equal ones\n"
            "hint: bring the skip to the shape of the branch, for example with nn.Conv2d of kernel 1 and its stride",
        ),
        (
            lambda m, x: m.whole(torch.cat([x, x], 1).flatten(1)),
            "module `whole`: gets shape (120,), allowed (channels, height, width)",
        ),
    ],
)
def test_a_concatenation_without_a_form_is_named(join, text):
    with pytest.raises(UnsupportedError) as caught:
        trace(Model(join), IMAGE)
    assert str(caught.value) == text
