"""Tracing: what a torch module becomes, and the whole error for each thing that has no integrate-and-fire form."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from nctool.activation.noisy_quant import NoisyQuantReLU
from nctool.conversion.float_network import Pool
from nctool.conversion.trace.tracing import trace
from nctool.errors import NctoolError, RangeError, UnsupportedError
from nctool.ir.network import ConvGeometry
from tests.support.torch_models import act

SUPPORTED = (
    "hint: supported are Conv2d, ConvTranspose2d, Linear, BatchNorm, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d, "
    "AdaptiveMaxPool2d, Upsample, PixelShuffle, Flatten, Dropout, NoisyQuantReLU, sums of branches, torch.cat of "
    "channels; through nctool.prepare also ReLU"
)
IMAGE = (2, 6, 6)


def conv_then(*rest: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), act(), *rest)


class Model(nn.Module):
    """Two linear layers with an activation, joined by `join`."""

    def __init__(self, join) -> None:
        super().__init__()
        self.one, self.act, self.two, self.wide = nn.Linear(4, 4), act(), nn.Linear(4, 4), nn.Linear(4, 8)
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(self, x)


class Plus(nn.Module):
    """Add the input to what `branch` makes of it."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + x


# --- what is read -------------------------------------------------------


def test_a_chain_is_read_in_order():
    model = nn.Sequential()
    model.conv1 = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    model.norm1 = nn.BatchNorm2d(4)
    model.act1 = act(2.5)
    model.pool1 = nn.AvgPool2d((1, 2), stride=1)
    model.drop = nn.Dropout()
    model.flat = nn.Flatten()
    model.fc = nn.Linear(36, 5, bias=False)
    network = trace(model, IMAGE)
    conv1, fc = network.populations
    assert network.input_shape == IMAGE
    (into_conv1,), (into_fc,) = conv1.synapses, fc.synapses
    assert (conv1.name, conv1.shape, conv1.threshold.tolist()) == ("conv1", (4, 3, 4), [2.5] * 4)
    assert (into_conv1.module, into_conv1.source, into_conv1.source_shape) == ("conv1", "input", IMAGE)
    assert into_conv1.conv == ConvGeometry((2, 1), (1, 0), (1, 2), 2)
    assert into_conv1.pools == ()
    assert into_conv1.norm is not None
    assert (fc.name, fc.shape, fc.threshold) == ("fc", (5,), None)
    assert (into_fc.module, into_fc.source, into_fc.source_shape) == ("fc", "conv1", (4, 3, 4))
    assert (into_fc.conv, into_fc.norm) == (None, None)
    assert into_fc.pools == (Pool("pool1", (1, 2), (1, 1), (0, 0), 2, (4, 3, 4)),)
    np.testing.assert_array_equal(into_conv1.weight, model.conv1.weight.detach().double().numpy())
    np.testing.assert_array_equal(fc.bias, np.zeros(5))


def test_global_pooling_covers_the_image():
    network = trace(conv_then(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), IMAGE)
    assert network.populations[1].synapses[0].pools == (Pool("2", (4, 4), (4, 4), (0, 0), 16, (3, 4, 4)),)


@pytest.mark.parametrize(("size", "window"), [(2, (2, 2)), ((1, None), (4, 1)), ((4, 2), (1, 2)), (4, None)])
def test_adaptive_pooling_tiles_the_image(size, window):
    sides = (4, 4) if window is None else (4 // window[0], 4 // window[1])
    network = trace(conv_then(nn.AdaptiveAvgPool2d(size), nn.Flatten(), nn.Linear(3 * sides[0] * sides[1], 2)), IMAGE)
    pools = network.populations[1].synapses[0].pools
    assert pools == (() if window is None else (Pool("2", window, window, (0, 0), window[0] * window[1], (3, 4, 4)),))


@pytest.mark.parametrize(("padding", "pair"), [("valid", (0, 0)), ("same", (1, 2)), (1, (1, 1))])
def test_padding_by_name(padding, pair):
    conv = nn.Conv2d(2, 3, (3, 5), padding=padding)
    model = nn.Sequential(conv, act(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(3, 2))
    assert trace(model, IMAGE).populations[0].synapses[0].conv == ConvGeometry(padding=pair)


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: torch.flatten(x, 1),
        lambda x: torch.flatten(x, 1, -1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: torch.flatten(input=x, start_dim=1),
        lambda x: x.flatten(1),
        lambda x: x.flatten(1, 3),
        lambda x: x.flatten(start_dim=1, end_dim=-1),
    ],
)
def test_every_spelling_of_flatten_is_read(flatten):
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(72, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(flatten(x))

    assert trace(Flat(), IMAGE).populations[0].synapses[0].weight.shape == (2, 72)


def test_a_layer_used_twice_becomes_two_populations():
    model = Model(lambda m, x: m.two(m.act(m.one(m.act(m.one(x))))))
    assert [(p.name, p.synapses[0].source) for p in trace(model, (4,)).populations] == [
        ("one", "input"),
        ("one_2", "one"),
        ("two", "one_2"),
    ]


@pytest.mark.parametrize(
    "add",
    [
        lambda x, y: x + y,
        operator.iadd,
        torch.add,
        lambda x, y: torch.add(input=x, other=y),
        lambda x, y: x.add(y),
        lambda x, y: x.add(other=y),
        lambda x, y: x.add_(y),
    ],
)
def test_every_spelling_of_a_sum_is_read(add):
    model = Model(lambda m, x: m.two(m.act(add(m.one(x), m.two(x)))))
    first, last = trace(model, (4,)).populations
    assert [(s.module, s.source) for s in first.synapses] == [("one", "input"), ("two", "input")]
    assert (first.name, set(first.threshold), last.name) == ("one", {1.0}, "two")
    np.testing.assert_array_equal(
        first.bias, sum(b.detach().double().numpy() for b in (model.one.bias, model.two.bias))
    )


def test_an_addition_in_place_is_read():
    def join(m, x):
        y = m.one(x)
        y += x
        return m.two(m.act(y))

    assert [s.module for s in trace(Model(join), (4,)).populations[0].synapses] == ["one", "add"]


def test_a_skip_is_an_identity_and_its_source_may_be_read_by_others():
    def join(m, x):
        x = m.act(m.one(x))
        return m.two(m.act(x + m.act(m.two(x))))

    one, two, add, last = trace(Model(join), (4,)).populations
    assert [(p.name, [s.source for s in p.synapses]) for p in (one, two, add, last)] == [
        ("one", ["input"]),
        ("two", ["one"]),
        ("add", ["one", "two"]),
        ("two_2", ["add"]),
    ]
    for synapse in add.synapses:
        np.testing.assert_array_equal(synapse.weight, np.eye(4))
        assert synapse.conv is None


def test_a_skip_of_an_image_is_depthwise_and_keeps_its_pooling():
    model = nn.Sequential(
        nn.AvgPool2d(2), Plus(nn.Conv2d(2, 2, 3, padding=1)), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    branch, skip = trace(model.append(nn.Linear(2, 2)), IMAGE).populations[0].synapses
    assert (skip.module, skip.source, skip.source_shape) == ("add", "input", IMAGE)
    assert (skip.weight.shape, skip.conv) == ((2, 1, 1, 1), ConvGeometry(groups=2))
    assert skip.pools == branch.pools == (Pool("0", (2, 2), (2, 2), (0, 0), 4, IMAGE),)


def test_a_sum_that_two_activations_read_becomes_two_populations():
    model = Model(lambda m, x: m.two(m.act(m.act(m.one(x) + x) + m.act(m.one(x) + x))))
    assert [p.name for p in trace(model, (4,)).populations] == ["one", "one_2", "add_2", "two"]


def test_a_layer_called_input_gets_another_name():
    model = nn.Sequential()
    model.add_module("input", nn.Linear(4, 4))
    assert [p.name for p in trace(model, (4,)).populations] == ["input_2"]


def test_normalisation_is_gain_and_shift():
    norm = nn.BatchNorm1d(2, eps=0.25, affine=False)
    norm.running_mean, norm.running_var = torch.tensor([3.0, -1.0]), torch.tensor([3.75, 0.0])
    found = trace(nn.Sequential(nn.Linear(4, 2), norm), (4,)).populations[0].synapses[0].norm
    np.testing.assert_array_equal(found.gain, [0.5, 2.0])
    np.testing.assert_array_equal(found.shift, [-1.5, 2.0])


@pytest.mark.parametrize(("variance", "eps", "found"), [(0.0, 0.0, "0"), (-0.5, 1e-5, "-0.49999")])
def test_a_variance_without_an_inverse_is_named(variance, eps, found):
    norm = nn.BatchNorm1d(2, eps=eps)
    norm.running_var = torch.tensor([1.0, variance])
    with pytest.raises(RangeError) as caught:
        trace(nn.Sequential(nn.Linear(4, 2), norm), (4,))
    assert str(caught.value) == (
        f"module `1` (BatchNorm): running_var + eps is {found} in channel 1, allowed above 0\n"
        "hint: give the norm an eps, for example 1e-5, or leave out a channel that never changes"
    )


# --- what is refused ----------------------------------------------------


RELU = "hint: replace it by nn.ReLU, then nctool.prepare, and train again: a few epochs are enough (docs/OWN_MODEL.md)"
GATE = "hint: behind a hidden layer use nn.ReLU, behind the last one return the logits; leave out gates"
BEHIND = "hint: put it right behind the linear layer"
BAD_PLACE = "follows spikes of `0`, allowed behind Conv2d, Linear or BatchNorm\n" + BEHIND


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()),
            "module `1` (ReLU) cannot be converted\nhint: nctool.prepare puts a NoisyQuantReLU there: train it",
        ),
        (conv_then(nn.ChannelShuffle(3)), f"module `2` (ChannelShuffle) cannot be converted\n{SUPPORTED}"),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU()), f"module `1` (GELU) cannot be converted\n{RELU}"),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.LeakyReLU()), f"module `1` (LeakyReLU) cannot be converted\n{RELU}"),
        (conv_then(nn.Sigmoid()), f"module `2` (Sigmoid) cannot be converted\n{GATE}"),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3)),
            "module `1` (GroupNorm) cannot be converted\n"
            "hint: use nn.BatchNorm2d and train again: what is normalised by its own statistics has no fixed weights",
        ),
        (
            conv_then(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 2)),
            "module `3`: follows `2` with no activation between them\n"
            "hint: put nn.ReLU right before `3`, then nctool.prepare, and train again",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(2, padding=1), act(), nn.Flatten(), nn.Linear(27, 2)),
            "module `1`: follows `0` with no activation between them\n"
            "hint: put nn.ReLU right before `1`, and take away one behind it, then nctool.prepare, and train again",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()),
            "module `1`: follows `0` with no activation between them\n"
            "hint: put nn.ReLU right before `1`, then nctool.prepare, and train again",
        ),
        (conv_then(act()), f"module `2`: {BAD_PLACE}"),
        (
            conv_then(nn.BatchNorm2d(3)),
            "model: the output has shape (3, 4, 4), allowed (classes,)\n"
            "hint: pool and flatten before the last nn.Linear",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3)),
            "module `0`: the output has shape (3, 4, 4), allowed (classes,)\n"
            "hint: pool and flatten before the last nn.Linear",
        ),
        (
            conv_then(nn.Linear(4, 5)),
            "module `2` (Linear): gets shape (3, 4, 4), allowed (4,)\nhint: put nn.Flatten before it",
        ),
        (
            conv_then(nn.Flatten(), nn.Linear(47, 5)),
            "module `3` (Linear): gets shape (48,), allowed (47,)\nhint: put nn.Flatten before it",
        ),
        (nn.Sequential(nn.Conv2d(3, 3, 3)), "module `0` (Conv2d): gets shape (2, 6, 6), allowed (3, h, w)"),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")),
            "module `0` (Conv2d with padding_mode='reflect') cannot be converted\nhint: use padding_mode='zeros'",
        ),
        (
            conv_then(nn.AvgPool2d(3, ceil_mode=True)),
            "module `2` (AvgPool2d with ceil_mode=True and a remainder) cannot be converted\nhint: use ceil_mode=False",
        ),
        (
            conv_then(nn.AvgPool2d(2, padding=1, count_include_pad=False)),
            "module `2` (AvgPool2d with count_include_pad=False) cannot be converted\nhint: use padding=0",
        ),
        (
            conv_then(nn.AdaptiveAvgPool2d(3)),
            "module `2` (AdaptiveAvgPool2d of 4x4 to 3x3) cannot be converted\n"
            "hint: use sizes that divide those of the image, or nn.AvgPool2d",
        ),
        (
            conv_then(nn.AdaptiveAvgPool2d((None, 8))),
            "module `2` (AdaptiveAvgPool2d of 4x4 to 4x8) cannot be converted\n"
            "hint: use nn.AdaptiveAvgPool2d(1), and 3 inputs for the nn.Linear behind it",
        ),
        (
            conv_then(nn.Flatten(), nn.AvgPool2d(2)),
            "module `3`: gets shape (48,), allowed (channels, height, width)",
        ),
        (
            conv_then(nn.Flatten(0)),
            "module `2` (Flatten of axes 0..-1) cannot be converted\nhint: flatten all axes but the batch",
        ),
        (
            conv_then(nn.Flatten(1, 2)),
            "module `2` (Flatten of axes 1..2) cannot be converted\nhint: flatten all axes but the batch",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
            "module `1` (BatchNorm without running statistics) cannot be converted\nhint: use track_running_stats=True",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(4)),
            "module `1` (BatchNorm): gets 3 channels, allowed 4",
        ),
        (
            nn.Sequential(Plus(nn.Conv2d(2, 2, 3, padding=1, stride=2))),
            "function `add`: adds shapes (2, 3, 3) and (2, 6, 6), allowed two equal ones\n"
            "hint: bring the skip to the shape of the branch, for example with nn.Conv2d of kernel 1 and its stride",
        ),
    ],
)
def test_a_module_without_a_form_is_named(model, text):
    with pytest.raises(UnsupportedError) as caught:
        trace(model, IMAGE)
    assert str(caught.value) == text


def add_nothing(*_: object) -> None:
    """Hook that changes nothing."""


def hooked(take: Callable[[nn.Module], object], module: nn.Module) -> nn.Module:
    take(module)
    return module


HOOKS = {
    "prune": (lambda m: prune.l1_unstructured(m, "weight", amount=0.5), "L1Unstructured"),
    "spectral_norm": (nn.utils.spectral_norm, "SpectralNorm"),
    "of the user, before and behind": (
        lambda m: (m.register_forward_hook(add_nothing), m.register_forward_pre_hook(add_nothing)),
        "add_nothing, add_nothing",
    ),
}
HOOK_HINT = (
    "hint: make it permanent with torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm, or remove "
    "the hook"
)


@pytest.mark.parametrize(("take", "name"), HOOKS.values(), ids=HOOKS)
def test_a_hook_that_torch_calls_beside_the_forward_method_is_refused(take, name):
    with pytest.raises(UnsupportedError) as caught:
        trace(nn.Sequential(hooked(take, nn.Linear(4, 2))), (4,))
    assert str(caught.value) == f"module `0` (Linear with the forward hook {name}) cannot be converted\n{HOOK_HINT}"
    with pytest.raises(UnsupportedError) as caught:
        trace(hooked(lambda m: m.register_forward_hook(add_nothing), nn.Sequential(nn.Linear(4, 2))), (4,))
    assert str(caught.value) == (
        f"model (Sequential with the forward hook add_nothing) cannot be converted\n{HOOK_HINT}"
    )


def test_weights_whose_pruning_was_made_permanent_are_read():
    layer = nn.Linear(4, 2)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    pruned = layer.weight.detach().double().numpy()
    prune.remove(layer, "weight")
    np.testing.assert_array_equal(trace(nn.Sequential(layer), (4,)).populations[0].synapses[0].weight, pruned)


FLAT = "use the module nn.Flatten"
WINDOWS = "nn.AdaptiveAvgPool2d(1) instead of windows of this size"
ALONE = "hint: let the forward method return the logits alone, or give the part of the network that does"
CONSTANT = "hint: put a constant into the bias of a linear layer"
ALPHA = "hint: scale the weights of the branch instead"


class Aliased(nn.Module):
    """A sum in place, and a reader of the changed tensor under another name."""

    def __init__(self, alias: nn.Module, *, change_alias: bool) -> None:
        super().__init__()
        self.one, self.two, self.alias, self.change_alias = nn.Linear(4, 4), nn.Linear(4, 4), alias, change_alias
        self.left, self.right, self.act1, self.act2 = nn.Linear(4, 2), nn.Linear(4, 2), act(), act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed = self.one(x)
        other = self.alias(changed)
        if self.change_alias:
            changed, other = other, changed
        changed += self.two(x)
        return self.left(self.act1(changed)) + self.right(self.act2(other))


@pytest.mark.parametrize("change_alias", [False, True])
@pytest.mark.parametrize("alias", [nn.Identity(), nn.Dropout(), nn.Sequential(nn.Identity(), nn.Dropout())])
def test_a_sum_in_place_of_what_is_read_later_under_another_name_is_refused(alias, change_alias):
    with pytest.raises(UnsupportedError) as caught:
        trace(Aliased(alias, change_alias=change_alias), (4,))
    assert str(caught.value) == (
        "function `add` (in place, of what is read later) cannot be converted\nhint: write y = x + branch"
    )


def test_a_sum_in_place_behind_dropout_is_a_sum_where_nothing_reads_what_was_before():
    model = Model(lambda m, x: m.two(m.act(m.wide_drop(m.one(x)).add_(x))))
    model.wide_drop = nn.Dropout()
    (first, _) = trace(model, (4,)).populations
    assert [synapse.source for synapse in first.synapses] == ["input", "input"]


def refuse(x: torch.Tensor) -> torch.Tensor:
    """Check the shape as torch._assert does."""
    torch._assert(isinstance(x, int), "expected four features")
    return x


def read_after(y: torch.Tensor, change) -> torch.Tensor:
    """Change `y` in place, then read it again."""
    changed = change(y)
    return changed + y


@pytest.mark.parametrize(
    ("join", "text"),
    [
        (
            lambda m, x: m.two(F.relu(m.one(x))),
            "function `relu` cannot be converted\nhint: nctool.prepare puts a NoisyQuantReLU there: train it",
        ),
        (
            lambda m, x: m.two(m.one(x).relu()),
            "function `relu` cannot be converted\nhint: nctool.prepare puts a NoisyQuantReLU there: train it",
        ),
        (
            lambda m, x: m.two(F.max_pool2d(m.act(m.one(x)), 2)),
            "function `max_pool2d` cannot be converted\nhint: use the module nn.MaxPool2d",
        ),
        (lambda m, x: m.one(x).sin(), f"function `sin` cannot be converted\n{SUPPORTED}"),
        (lambda m, x: m.two(F.silu(m.one(x))), f"function `silu` cannot be converted\n{RELU}"),
        (lambda m, x: F.sigmoid(m.one(x)), f"function `sigmoid` cannot be converted\n{GATE}"),
        (
            lambda m, x: m.two(m.act(m.one(x)) * x),
            "function `mul` cannot be converted\n"
            "hint: neurons add, they do not multiply: leave out gates, and put a constant into the weights behind it",
        ),
        (
            lambda m, x: torch.cat([x, m.one(x)], 1),
            "function `cat`: joins `one` with no activation between them\n"
            "hint: put nn.ReLU right before `cat`, then nctool.prepare, and train again",
        ),
        (lambda m, x: m.one(x) + 1.5, f"function `add` (of 1.5) cannot be converted\n{CONSTANT}"),
        (lambda m, x: 2 + m.one(x), f"function `add` (of 2) cannot be converted\n{CONSTANT}"),
        (lambda m, x: m.one(x).add(), f"function `add` (of None) cannot be converted\n{CONSTANT}"),
        (lambda m, x: torch.add(x, m.one(x), alpha=2), f"function `add` (with alpha) cannot be converted\n{ALPHA}"),
        (lambda m, x: x.add(2, m.one(x)), f"function `add` (with alpha) cannot be converted\n{ALPHA}"),
        (
            lambda m, x: m.one(x) + m.act(m.wide(x)),
            "function `add`: adds shapes (4,) and (8,), allowed two equal ones\n"
            "hint: bring the skip to the shape of the branch, for example with nn.Conv2d of kernel 1 and its stride",
        ),
        (
            lambda m, x: read_after(m.one(x), lambda y: y.add_(m.two(x))),
            "function `add_` (in place, of what is read later) cannot be converted\nhint: write y = x + branch",
        ),
        (
            lambda m, x: m.two(m.act(m.one(x)).mean((2, 3))),
            "function `mean` cannot be converted\nhint: use the module nn.AdaptiveAvgPool2d(1)",
        ),
        (lambda m, x: m.one(x).view(-1, 2), f"function `view` cannot be converted\nhint: {FLAT}"),
        (lambda m, x: m.one(x).reshape(-1, 2), f"function `reshape` cannot be converted\nhint: {FLAT}"),
        (
            lambda m, x: x.view(x.size(0), -1),
            f"function `size` cannot be converted\nhint: {FLAT} instead of a view, {WINDOWS}",
        ),
        (lambda m, x: (m.one(x), x), f"model: returns tuple, allowed one tensor of logits\n{ALONE}"),
        (lambda m, x: {"out": m.one(x)}, f"model: returns dict, allowed one tensor of logits\n{ALONE}"),
    ],
)
def test_a_forward_method_without_a_form_is_named(join, text):
    with pytest.raises(UnsupportedError) as caught:
        trace(Model(join), (4,))
    assert str(caught.value) == text


IN_ORDER = "hint: write the network as modules in a fixed order, for example nn.Sequential"


def branch(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.one(x) if x.sum() > 0 else m.two(x)


def length(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.one(x) if len(x) > 1 else m.two(x)


def made(m: Model, x: torch.Tensor) -> torch.Tensor:
    return nn.Linear(4, 2)(x)


def printed(m: Model, x: torch.Tensor) -> torch.Tensor:
    print(float(x.mean()))  # noqa: T201 - left in by a user
    return m.one(x)


def asserted(m: Model, x: torch.Tensor) -> torch.Tensor:
    assert float(x.mean()) < 1
    return m.one(x)


def windows(m: Model, x: torch.Tensor) -> torch.Tensor:
    return m.two(F.avg_pool2d(m.act(m.one(x)), x.size()[2:]))


@pytest.mark.parametrize(
    ("join", "text"),
    [
        (
            branch,
            "at `return m.one(x) if x.sum() > 0 else m.two(x)` (symbolically traced variables cannot be used as inputs "
            f"to control flow)\n{IN_ORDER}",
        ),
        (
            length,
            "at `return m.one(x) if len(x) > 1 else m.two(x)` (symbolically traced variables cannot be used as inputs "
            f"to control flow)\n{IN_ORDER}",
        ),
        (
            lambda m, x: refuse(x),
            'at `torch._assert(isinstance(x, int), "expected four features")` (expected four features)\n' + IN_ORDER,
        ),
        (
            printed,
            "at `print(float(x.mean()))  # noqa: T201 - left in by a user` (float() argument must be a string or a "
            "real number, not '_Proxy')\n"
            "hint: leave out the print: it asks for the numbers in a tensor",
        ),
        (
            asserted,
            "at `assert float(x.mean()) < 1` (float() argument must be a string or a real number, not '_Proxy')\n"
            "hint: leave out the assert: it asks for the numbers in a tensor",
        ),
    ],
)
def test_a_forward_method_that_depends_on_data_is_refused_with_its_line(join, text):
    with pytest.raises(UnsupportedError) as caught:
        trace(Model(join), (4,))
    assert str(caught.value) == f"model `Model`: its forward method depends on data {text}"


def test_windows_of_the_size_of_the_image_are_refused():
    """Older torch does not take the size for an argument while it traces; newer torch does."""
    with pytest.raises(UnsupportedError) as caught:
        trace(Model(windows), (4,))
    assert str(caught.value) in (
        "model `Model`: its forward method depends on data at `return m.two(F.avg_pool2d(m.act(m.one(x)), "
        "x.size()[2:]))` (avg_pool2d(): argument 'kernel_size' (position 2) must be tuple of ints, not _Proxy)\n"
        "hint: use nn.AdaptiveAvgPool2d(1), or windows of a fixed size",
        f"function `size` cannot be converted\nhint: {FLAT} instead of a view, {WINDOWS}",
    )


class Layers(nn.Module):
    def __init__(self, join: Callable[[Layers, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), NoisyQuantReLU(4), nn.Linear(4, 2))
        self.plain = [nn.Linear(4, 2)]
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(self, x)


def sliced(m: Layers, x: torch.Tensor) -> torch.Tensor:
    return m.net[2](m.net[:-1](x))


def listed(m: Layers, x: torch.Tensor) -> torch.Tensor:
    return m.plain[0](x)


@pytest.mark.parametrize(
    ("join", "line"),
    [
        (sliced, "return m.net[2](m.net[:-1](x))"),
        (listed, "return m.plain[0](x)"),
        (made, "return nn.Linear(4, 2)(x)"),
    ],
)
def test_a_module_that_the_model_does_not_hold_is_refused_with_its_line(join, line):
    with pytest.raises(UnsupportedError) as caught:
        trace(Layers(join), (4,))
    assert str(caught.value) == (
        f"model `Layers`: its forward method calls a module that the model does not hold at `{line}` (module is not "
        "installed as a submodule)\n"
        "hint: make the layers in __init__ and keep those of a list in nn.ModuleList; in place of a slice, call its "
        "layers: for layer in self.net[:-1]: x = layer(x)"
    )


def test_the_layers_of_a_slice_are_read_one_by_one():
    def one_by_one(m: Layers, x: torch.Tensor) -> torch.Tensor:
        for layer in m.net[:-1]:
            x = layer(x)
        return m.net[2](x)

    trace(Layers(one_by_one), (4,))


def test_a_second_input_is_refused():
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(UnsupportedError) as caught:
        trace(Two(), (4,))
    assert str(caught.value) == (
        "model: has a second input `y`, allowed one\nhint: give the argument a default, which it keeps"
    )


def _norm_with_nan() -> nn.Module:
    norm = nn.BatchNorm1d(2)
    norm.running_mean[1] = float("-inf")
    return norm


@pytest.mark.parametrize(
    ("value", "index", "text"),
    [
        (float("nan"), 0, "parameter `0.weight`: holds nan, allowed finite numbers"),
        (float("inf"), 1, "parameter `0.bias`: holds inf, allowed finite numbers"),
        (
            -1e20,
            0,
            "parameter `0.weight`: reaches 1e+20, allowed up to 1e+15\n"
            "hint: train with normalised images and a lower learning rate, or scale the layer",
        ),
    ],
)
def test_a_parameter_that_is_no_number_is_named(value, index, text):
    model = nn.Sequential(nn.Linear(4, 2))
    with torch.no_grad():
        list(model.parameters())[index].view(-1)[-1] = value
    with pytest.raises(RangeError) as caught:
        trace(model, (4,))
    assert str(caught.value) == text


def test_a_running_statistic_that_is_no_number_is_named():
    with pytest.raises(RangeError) as caught:
        trace(nn.Sequential(nn.Linear(4, 2), _norm_with_nan()), (4,))
    assert str(caught.value) == "parameter `1.running_mean`: holds -inf, allowed finite numbers"


def test_a_threshold_that_is_not_positive_is_refused():
    model = nn.Sequential(nn.Linear(4, 2), act(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].threshold.fill_(-1.0)
    with pytest.raises(NctoolError) as caught:
        trace(model, (4,))
    assert str(caught.value) == (
        "activation `threshold` is -1, allowed: a positive number\nhint: train the network with a lower learning rate"
    )
