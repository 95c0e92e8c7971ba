"""Linear layers with no activation between them, norms of spikes, networks that end in spikes: exactly as torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion.float_network import FloatNetwork, FloatPopulation
from nctool.conversion.trace.compare_runs import require_same_network
from nctool.conversion.trace.tracing import trace
from nctool.errors import UnsupportedError
from nctool.ir.network import INPUT_NAME, ConvGeometry
from tests.support.networks import random_pixels, seeds
from tests.support.torch_models import (
    THETA,
    act,
    binary_pixels,
    converted,
    folded,
    on_both_engines,
    pre_activation,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def with_statistics(model: nn.Module) -> nn.Module:
    """Give batch norms statistics, of either sign, and return the model in float64."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for values, low in ((norm.running_mean, -1), (norm.running_var, 0.3), (norm.weight, -1.5), (norm.bias, -1)):
                values.data.uniform_(low, 1.5)
    return model.double().eval()


def drives_and_signals(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return what drives each activation, then the logits; and what each gives."""
    drives, signals = [], []

    def note(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        drives.append(arguments[0].clone())
        signals.append(output)

    layers = [layer for layer in model.modules() if isinstance(layer, NoisyQuantReLU)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    logits = model(x)
    for hook in hooks:
        hook.remove()
    return [*drives, logits], signals


def require_exact(model: nn.Module, shape: tuple[int, ...]) -> list[FloatPopulation]:
    """Compare the drive of every population with that of torch in float64, and return the populations as traced."""
    x = torch.randn(2, *shape, dtype=torch.float64)
    require_same_network(model, trace(model, shape), x)
    populations = folded(model, shape).populations
    drives, signals = drives_and_signals(model, x)
    by_name = {INPUT_NAME: x} | {p.name: signal for p, signal in zip(populations, signals, strict=False)}
    for population, drive in zip(populations, drives, strict=True):
        found = sum(pre_activation(synapse, by_name[synapse.source]) for synapse in population.synapses)
        np.testing.assert_allclose(found.detach(), drive.detach(), rtol=0, atol=1e-10, err_msg=population.name)
    require_same_network(model.float(), trace(model, shape), x)
    return list(trace(model, shape).populations)


# --- a weighted sum behind a weighted sum ------------------------------


class Bottlenecks(nn.Module):
    """Blocks without an activation behind them, as in MobileNet v2, of every geometry that composes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed % 2**31)
        groups, self.n_blocks = int(rng.choice([1, 2, 4])), int(rng.integers(1, 4))
        self.stem = nn.Conv2d(2, 4, 3, int(rng.integers(1, 3)), 1, groups=int(rng.choice([1, 2])))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(self.n_blocks))
        self.expand = nn.ModuleList(nn.Conv2d(4, 8, 1, groups=groups) for _ in range(self.n_blocks))
        self.inner = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1, groups=8) for _ in range(self.n_blocks))
        self.project = nn.ModuleList(
            nn.Conv2d(8, 4, int(kernel), padding=int(kernel) // 2, groups=int(rng.choice([1, 4])), bias=False)
            for kernel in rng.choice([1, 3], self.n_blocks)
        )
        self.acts = nn.ModuleList(act(float(rng.uniform(0.2, 1))) for _ in range(2 * self.n_blocks + 1))
        self.begins_with_spikes = bool(rng.integers(2))
        self.last, self.head = nn.Conv2d(4, 6, 1, int(rng.integers(1, 3))), nn.Linear(6, 3)
        self.pool, self.flat, self.drop = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.begins_with_spikes:
            x = self.acts[-1](x)
        for k in range(self.n_blocks):
            y = self.acts[2 * k](self.expand[k](self.drop(x)))
            x = x + self.norms[k](self.project[k](self.acts[2 * k + 1](self.inner[k](y))))
        return self.head(self.flat(self.pool(self.last(x))))


@given(seeds)
def test_bottlenecks_are_those_of_torch(seed):
    model = with_statistics(Bottlenecks(seed))
    if not model.begins_with_spikes:
        del model.acts[-1]
    require_exact(model, (2, 5, 6))


class Pooled(nn.Module):
    """Averages of a weighted sum of an image, behind convolutions of every geometry, then an activation or logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed % 2**31)
        groups = int(rng.choice([1, 2]))
        kernel, stride, dilation, padding = (tuple(map(int, rng.integers(1, 3, 2))) for _ in range(4))
        self.wide = nn.Conv2d(2, 4, kernel, stride, tuple(p - 1 for p in padding), dilation, groups)
        self.point, self.norm = nn.Conv2d(2, 4, 1, stride=stride, groups=groups), nn.BatchNorm2d(4)
        with torch.no_grad():
            size = self.wide(torch.zeros(1, 2, 9, 8)).shape[2:]
            self.is_sum = size == self.point(torch.zeros(1, 2, 9, 8)).shape[2:]
        window = tuple(int(rng.integers(1, min(side, 3) + 1)) for side in size)
        own = (window, tuple(map(int, rng.integers(1, 3, 2))))
        divisor = int(rng.integers(1, 5)) if rng.integers(2) else None
        self.pool = nn.AvgPool2d(*own, divisor_override=divisor)
        self.act, self.whole, self.flat = act(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc, self.last = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.wide(x))
        if self.is_sum:
            y = y + self.point(x)
        y = self.pool(y)
        y = y + self.act(y)
        return self.last(self.fc(self.flat(self.whole(y))))


@given(seeds)
def test_averages_of_a_weighted_sum_are_those_of_torch(seed):
    require_exact(with_statistics(Pooled(seed)), (2, 9, 8))


def test_dense_layers_in_a_row_are_those_of_torch():
    layers = [
        nn.Linear(5, 4),
        nn.BatchNorm1d(4),
        nn.Dropout(),
        nn.Linear(4, 6),
        nn.Linear(6, 3),
        act(),
        nn.Linear(3, 2),
    ]
    first, _ = require_exact(with_statistics(nn.Sequential(*layers)), (5,))
    (synapse,) = first.synapses
    assert (first.name, synapse.module, synapse.weight.shape) == ("4", "4", (3, 5))


class Twice(nn.Module):
    """A weighted sum that several layers read."""

    def __init__(self, join) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(2, 2, kernel, padding=kernel // 2) for kernel in (3, 1, 1, 1))
        self.act, self.act2, self.norm, self.fc = act(), act(), nn.BatchNorm2d(2), nn.Linear(2, 3)
        self.pool, self.flat, self.join = nn.AdaptiveAvgPool2d(1), nn.Flatten(), join

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flat(self.pool(self.join(self, x))))


@pytest.mark.parametrize(
    ("join", "modules"),
    [
        (lambda m, x: m.act(m.b(m.a(x)) + m.c(m.a(x))), [["b"], ["fc"]]),
        (lambda m, x: m.act(m.norm(m.b(m.a(x))) + m.c(m.a(x)) + m.d(x)), [["b", "d"], ["fc"]]),
        (lambda m, x: m.act(m.b(m.a(x) + x)), [["b", "b"], ["fc"]]),
        (lambda m, x: m.act(m.b(m.a(x))) + m.act2(m.norm(m.c(m.a(x)))), [["b"], ["c"], ["fc", "fc"]]),
        (lambda m, x: m.act(m.b(m.c(x) + m.d(x) + x)), [["b"], ["fc"]]),
    ],
)
def test_branches_that_read_one_source_in_one_way_are_one(join, modules):
    populations = require_exact(with_statistics(Twice(join)), (2, 4, 5))
    assert [[synapse.module for synapse in p.synapses] for p in populations] == modules


def test_groups_stay_where_the_first_layer_weighs_each_channel_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1, 2, groups=2), act(), nn.Flatten())
    (synapse,) = require_exact(with_statistics(model.append(nn.Linear(8, 2))), (4, 4, 4))[0].synapses
    assert (synapse.weight.shape, synapse.conv) == ((8, 2, 3, 3), ConvGeometry((2, 2), groups=2))


def test_products_that_are_far_more_than_the_weights_of_both_layers_are_refused(monkeypatch):
    monkeypatch.setattr("nctool.conversion.trace.composing.LARGEST_COMPOSED", 59)
    model = nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 10))
    with pytest.raises(UnsupportedError) as caught:
        trace(model, (6,))
    assert str(caught.value) == (
        "`1`: follows `0` with no activation between them; the layers composed have 60 weights, allowed up to 59 "
        "where they have 12 and 20\n"
        "hint: put nn.ReLU right before `1`, then nctool.prepare, and train again"
    )
    assert trace(nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 10)), (6,)).populations[0].synapses[0].weight.size == 60


# --- batch norms of spikes ----------------------------------------------


class Normed(nn.Module):
    """Norms of spikes, of the input, of joined, added, pooled and flattened ones; no reader pads them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed % 2**31)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (2, 4, 8, 4, 8, 4))
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3, groups=2)
        self.c = nn.Conv2d(8, 8, 2, groups=int(rng.choice([1, 2, 4, 8])))
        self.d = nn.Conv2d(4, 4, 3, dilation=(1, 2), groups=int(rng.choice([1, 2, 4])))
        self.flat_norm, self.flat, self.pool = nn.BatchNorm1d(8), nn.Flatten(), nn.AvgPool2d(2, divisor_override=3)
        self.acts = nn.ModuleList(act(float(rng.uniform(0.2, 1))) for _ in range(6))
        self.heads = nn.ModuleList(nn.Linear(inputs, 3) for inputs in (16, 32, 32, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x)
        a, b = self.acts[0](self.a(x)), self.acts[1](self.b(x))
        joined = self.norms[2](torch.cat([self.norms[1](a), b], 1))
        c = self.norms[4](self.acts[2](self.c(joined)))
        d = self.acts[3](self.norms[3](a + b))
        e = self.acts[4](joined)
        d = self.acts[5](self.d(self.norms[5](d)))
        pooled = [self.flat(self.pool(y)) for y in (c, joined, e)]
        flat = self.flat_norm(self.flat(d))
        first, *rest = (head(y) for head, y in zip(self.heads, (*pooled, flat), strict=True))
        for logits in rest:
            first = first + logits
        return first


@given(seeds)
def test_norms_of_spikes_are_those_of_torch(seed):
    require_exact(with_statistics(Normed(seed)), (2, 6, 7))


class PreActivation(nn.Module):
    """Norm and activation before each convolution; sums of weighted sums are read twice."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed % 2**31)
        n_blocks = int(rng.integers(1, 4))
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2 * n_blocks))
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2 * n_blocks))
        self.acts = nn.ModuleList(act(float(rng.uniform(0.2, 1))) for _ in range(2 * n_blocks))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        units = list(zip(self.norms, self.acts, self.convs, strict=True))
        for one, two in zip(units[::2], units[1::2], strict=True):
            y = x
            for norm, activation, conv in (one, two):
                y = conv(activation(norm(y)))
            x = x + y
        return self.fc(torch.flatten(self.pool(x), 1))


@given(seeds)
def test_norm_and_activation_before_the_convolution_are_those_of_torch(seed):
    require_exact(with_statistics(PreActivation(seed)), (2, 4, 5))


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([nn.Conv2d(2, 2, 3, padding=1)], "module `3`: pads with zeros what the norm `2` gives"),
        ([nn.ZeroPad2d(1), nn.Conv2d(2, 2, 3)], "module `4`: pads with zeros what the norm `2` gives"),
        ([nn.AvgPool2d(2, padding=1)], "module `3`: pads with zeros what the norm `2` gives"),
        ([nn.MaxPool2d(2)], "module `3`: takes the maximum of what the norm `2` gives"),
    ],
)
def test_a_norm_of_spikes_without_a_form_is_named(layers, text):
    with pytest.raises(UnsupportedError) as caught:
        trace(nn.Sequential(nn.Conv2d(2, 2, 1), act(), nn.BatchNorm2d(2), *layers), (2, 4, 4))
    assert caught.value.message.startswith(text)
    assert "`2`" in str(caught.value.hint)


# --- networks that end in spikes ----------------------------------------


@pytest.mark.parametrize(
    "ending",
    [
        [act(0.3), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        [act(0.3), nn.AdaptiveMaxPool2d(1), nn.Flatten()],
        [act(0.3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), act(0.3)],
        [act(0.3), nn.Flatten()],
    ],
)
def test_a_network_ends_in_what_torch_gives(ending):
    torch.manual_seed(0)
    model = with_statistics(nn.Sequential(nn.Conv2d(2, 4, 3), act(), nn.Conv2d(4, 3, 1), *ending))
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    network = trace(model, (2, 6, 6))
    require_same_network(model, network, x)
    assert network.populations[-1].threshold is None
    if not any(population.maximum for population in network.populations):
        require_exact(model, (2, 6, 6))


class Spiking(nn.Module):
    """Small integers on spikes worth THETA, so that products are exact: a bottleneck, and logits that are spikes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.one, self.down, self.up = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.out = nn.Conv2d(4, 3, 2)
        for layer, worth in ((self.one, 1.0), (self.down, THETA), (self.up, 1.0), (self.out, THETA)):
            layer.weight.data = torch.from_numpy(rng.integers(-5, 6, layer.weight.shape) / worth)
            layer.bias.data = torch.from_numpy(1.0 * rng.integers(-9, 10, layer.bias.shape))
        self.acts, self.pool, self.flat = nn.ModuleList(act(THETA) for _ in range(3)), nn.AvgPool2d(2), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        x = self.acts[1](self.up(self.down(self.acts[0](self.one(x)))))
        return self.flat(self.pool(self.acts[2](self.out(x))))


@given(seeds, st.integers(1, 4))
def test_integers_are_those_of_the_products(seed, n_steps):
    model, by_hand = Spiking(seed).eval(), Spiking(seed).eval()
    with torch.no_grad():
        first, second = model.down, model.up
        by_hand.down, by_hand.up = nn.Identity(), nn.Conv2d(4, 4, 1)
        by_hand.up.weight = nn.Parameter(torch.einsum("oi,ijkl->ojkl", second.weight[:, :, 0, 0], first.weight))
        by_hand.up.bias = nn.Parameter(second.weight[:, :, 0, 0] @ first.bias + second.bias)
    network = converted(model, (2, 3, 3), n_steps=n_steps, std=1.0).network
    assert network == converted(by_hand, (2, 3, 3), n_steps=n_steps, std=1.0).network
    found = on_both_engines(network, binary_pixels(seed, (2, 3, 3)))
    assert found.logits.shape[2] == 3


def test_logits_that_are_spikes_count_them():
    network = converted(Spiking(1).eval(), (2, 3, 3), n_steps=4, std=0.1).network
    found = on_both_engines(network, random_pixels(network, 16))
    means = THETA * found.spikes["out"].mean(axis=(1, 3, 4))
    assert means.any()
    np.testing.assert_allclose(found.logits[:, -1] * network.readout.neuron.scale, means, rtol=1e-9)


def test_the_change_names_what_was_composed():
    steps = {change.step: change for change in converted(Spiking(0).eval(), (2, 3, 3)).changes}
    assert steps["compose linear layers"].detail == "down into up"
    assert steps["compose linear layers"].exact


# --- how the layers round one after the other ---------------------------


def cancelling(change: float) -> nn.Module:
    """Two layers whose large parts cancel; what is left is small, and of the size of the roundings of the model."""
    first, second = nn.Linear(4, 2), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight[1] = first.weight[0] + 1e-6
        first.bias.fill_(1e4)
        second.weight.copy_(torch.tensor([[1.0, -1.0 + change]]))
    return nn.Sequential(first, second)


def test_the_roundings_of_both_layers_are_those_of_the_model():
    """A drive that is small because large terms cancel differs by the roundings of these terms, and not by more."""
    torch.manual_seed(0)
    model, images = cancelling(0.0), torch.randn(2, 4)
    network = trace(model, (4,))
    require_same_network(model, network, images)
    (synapse,) = network.populations[0].synapses
    alone = replace(synapse, composed=())
    with pytest.raises(UnsupportedError, match="what drives `1`"):
        require_same_network(model, FloatNetwork((4,), (replace(network.populations[0], synapses=(alone,)),)), images)
    with pytest.raises(UnsupportedError, match="what drives `1`"):
        require_same_network(cancelling(1e-2), network, images)


def test_the_roundings_of_a_norm_of_spikes_are_those_of_the_model():
    norm, layer = nn.BatchNorm1d(2, eps=0.0).eval(), nn.Linear(2, 1, bias=False)
    norm.running_mean, norm.running_var = torch.full((2,), 1e4), torch.full((2,), 1e-4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0]]))
    model, images = nn.Sequential(norm, layer).eval(), torch.tensor([[1e4, 1e4], [1e4 + 1, 1e4 + 1]])
    require_same_network(model, trace(model, (2,)), images)
